"""Sounds that lie in shards of others' formats, one by one: Parquet as Hugging Face's `datasets` writes it,
and WebDataset's tar files.

`unpacked` gives each sound's own bytes, its labels and its split; nothing of a name in a shard is used as a
path.
"""

import json
import re
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ast_jax.datasets.scanning import is_audio
from ast_jax.errors import InputError

KINDS = (".parquet", ".tar")
# The beginnings of files by which a sound's kind is known where nothing says it.
_MAGIC = {b"RIFF": ".wav", b"fLaC": ".flac", b"OggS": ".ogg", b"FORM": ".aiff", b"ID3": ".mp3"}
_MAGIC |= {b"\xff\xfb": ".mp3"}
_SPLITS = {"train": "train", "validation": "validation", "valid": "validation", "val": "validation"}
_SPLITS |= {"dev": "validation", "test": "test", "eval": "test", "evaluation": "test"}
_LABELS = ("label", "labels", "category", "class", "target", "human_labels")
_ROWS = 64


class Sound(NamedTuple):
    """One sound file, with its ending, and what is known of it."""

    name: str
    data: bytes
    ending: str
    labels: tuple[str, ...]
    split: str


def shards_of(sources: Iterable[Path]) -> list[Path]:
    """The shards among files and in directories, in order. Raises InputError where there are none."""
    found: list[Path] = []
    for source in sources:
        if source.is_dir():
            found += sorted(path for path in source.rglob("*") if path.suffix in KINDS and path.is_file())
        elif source.suffix in KINDS and source.is_file():
            found.append(source)
        else:
            raise InputError(f"{source} is no directory and no {' or '.join(KINDS)} file")
    if not found:
        raise InputError(f"no {' or '.join(KINDS)} files in {', '.join(map(str, sources))}")
    return found


def split_of(shard: Path) -> str:
    """By the first word of a shard's name, as `train-00000-of-00002.parquet` has one, or else by a directory
    of that name; `train` where neither says.
    """
    for name in (shard.name, shard.parent.name):
        word = re.split(r"[^a-z]", name.lower())[0]
        if word in _SPLITS:
            return _SPLITS[word]
    return "train"


def unpacked(shard: Path, *, audio: str = "", label: str = "") -> Iterator[Sound]:
    """The sounds of a shard, in its order; `audio` and `label` are columns (of a tar file: `label` is a key
    of its .json files), found by themselves where they are not given.

    Raises InputError: no such column, no audio, a damaged shard.
    """
    read = _parquet if shard.suffix == ".parquet" else _tar
    yield from read(shard, audio, label)


# ---- Parquet


def _parquet(shard: Path, audio: str, label: str) -> Iterator[Sound]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ModuleNotFoundError:
        raise InputError("Parquet needs pyarrow: pip install pyarrow") from None
    try:
        file = pq.ParquetFile(shard)
        schema = file.schema_arrow
        audio = audio or _audio_column(shard, schema)
        label = label or _label_column(shard, schema)
        if missing := [name for name in (audio, label) if name not in schema.names]:
            raise InputError(f"{shard} has no column {missing[0]}: its columns are {', '.join(schema.names)}")
        names = _names_in(_features(schema).get(label))
        number = 0
        for batch in file.iter_batches(_ROWS, columns=[audio, label]):
            for row in batch.to_pylist():
                sound = row[audio]
                data = sound.get("bytes") if isinstance(sound, Mapping) else sound
                if not isinstance(data, bytes):
                    raise InputError(
                        f"{shard}, row {number}: {audio} holds no bytes of a sound (a set that only names "
                        "files: take these as they are, with a table)"
                    )
                told = str(sound.get("path") or "") if isinstance(sound, Mapping) else ""
                name = Path(told).stem or f"{number:06d}"
                yield Sound(name, data, _ending(told, data), _texts(row[label], names), split_of(shard))
                number += 1
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{shard} cannot be read as Parquet ({str(error).splitlines()[0]})") from None


def _audio_column(shard: Path, schema: Any) -> str:
    import pyarrow as pa

    for field in schema:
        kind = field.type
        if pa.types.is_struct(kind) and "bytes" in [kind.field(i).name for i in range(kind.num_fields)]:
            return field.name
    for field in schema:
        if pa.types.is_binary(field.type) or pa.types.is_large_binary(field.type):
            return field.name
    raise InputError(
        f"{shard} has no column of sounds: its columns are {', '.join(schema.names)}; give --audio"
    )


def _label_column(shard: Path, schema: Any) -> str:
    classes = [name for name, feature in _features(schema).items() if _names_in(feature)]
    for name in (*classes, *_LABELS):
        if name in schema.names:
            return name
    raise InputError(f"{shard}: which column has the labels? give --label, one of {', '.join(schema.names)}")


def _features(schema: Any) -> dict[str, Any]:
    """What `datasets` says of the columns."""
    stated = (schema.metadata or {}).get(b"huggingface")
    return json.loads(stated)["info"]["features"] if stated else {}


def _names_in(feature: Any) -> list[str]:
    """Of a class label, or of a list of them."""
    inner = feature.get("feature", feature) if isinstance(feature, Mapping) else feature
    inner = inner[0] if isinstance(inner, list) and inner else inner
    return list(inner.get("names") or []) if isinstance(inner, Mapping) else []


def _texts(value: Any, names: list[str]) -> tuple[str, ...]:
    """Labels as text: numbers are classes where their names are known."""
    values = value if isinstance(value, list | tuple) else [] if value is None else [value]
    known = lambda one: names[one] if names and isinstance(one, int) and 0 <= one < len(names) else str(one)
    return tuple(known(one) for one in values)


# ---- WebDataset


def _tar(shard: Path, audio: str, label: str) -> Iterator[Sound]:
    """Files that share all of their name up to its first full stop are one sample."""
    try:
        with tarfile.open(shard) as file:
            sample: dict[str, bytes] = {}
            before = ""
            for member in file:
                if not member.isfile():
                    continue
                folder, _, last = member.name.rpartition("/")
                stem, _, ending = last.partition(".")
                if (name := f"{folder}/{stem}") != before:
                    yield from _sample(shard, before, sample, label)
                    sample, before = {}, name
                held: Any = file.extractfile(member)
                sample[ending.lower()] = held.read()
            yield from _sample(shard, before, sample, label)
    except (tarfile.TarError, EOFError, OSError) as error:
        raise InputError(f"{shard} cannot be read as a tar file ({error})") from None


def _sample(shard: Path, name: str, sample: dict[str, bytes], label: str) -> Iterator[Sound]:
    # "wav" before "left.wav"
    sounds = sorted((e for e in sample if is_audio(f"x.{e}")), key=lambda ending: "." in ending)
    if not sounds:
        return
    said = f"{shard}, {name.strip('/')}"
    labels: tuple[str, ...]
    if label or "cls" not in sample:
        labels = _from_json(said, sample.get("json"), label)
    else:
        labels = tuple(_decoded(said, sample["cls"]).split())
    yield Sound(Path(name).name, sample[sounds[0]], f".{sounds[0]}", labels, split_of(shard))


def _from_json(said: str, held: bytes | None, label: str) -> tuple[str, ...]:
    if held is None:
        raise InputError(f"{said} has neither a .cls nor a .json file: which are its labels?")
    try:
        stated = json.loads(held)
    except ValueError:
        raise InputError(f"{said}: its .json file is no JSON") from None
    keys = (label,) if label else _LABELS
    for key in keys:
        if isinstance(stated, Mapping) and key in stated:
            return _texts(stated[key], [])
    known = ", ".join(stated) if isinstance(stated, Mapping) else "none"
    raise InputError(f"{said}: which key has the labels? give --label, one of {known}")


def _decoded(said: str, held: bytes) -> str:
    try:
        return held.decode()
    except UnicodeDecodeError:
        raise InputError(f"{said}: its .cls file is no text") from None


def _ending(told: str, data: bytes) -> str:
    """Of the sound's own name, where it is one of sounds, else by its first bytes."""
    if is_audio(told):
        return Path(told).suffix.lower()
    return next((ending for magic, ending in _MAGIC.items() if data.startswith(magic)), ".wav")
