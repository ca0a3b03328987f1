"""`unpack`: sounds out of Parquet and WebDataset shards, as files and a table for the recipe `folder`."""

import csv
import re
import shutil
import sys
from pathlib import Path
from typing import Annotated

from ast_jax.commands.cli import Flag
from ast_jax.errors import InputError

# of a sound's name in a shard
_LONGEST = 80


def unpack(
    *shards: Annotated[str, Flag("Parquet or tar files, or directories of them")],
    out: Annotated[Path, Flag("a new directory for the sounds and their table")],
    audio: Annotated[str, Flag("Parquet: the column of sounds, if it is not found")] = "",
    label: Annotated[str, Flag("the column (tar: the key in .json) of labels, if it is not found")] = "",
) -> None:
    """Sounds of Parquet shards (Hugging Face's datasets) and WebDataset tars, as files and a table.

      python -m ast_jax unpack data/*.parquet --out=sounds
      python -m ast_jax.main --config=folder --config.dataset.source_dir=sounds/clips.csv

    Splits are those of the shards' names (train-00000-of-00002.parquet; train where none is said). The sounds
    are copied as they are: the new directory is as large as the shards. Stopped halfway it leaves nothing;
    the same command begins again. Parquet needs pyarrow.
    """
    from ast_jax.datasets.packed import shards_of, unpacked
    from ast_jax.terminal import Bar

    if out.exists():
        raise InputError(f"--out={out} exists already: name a new directory, or remove it")
    found = shards_of([Path(shard) for shard in shards])
    part = out.with_name(f".{out.name}.partial")
    if part.exists():
        print(f"{part}: left by a command that was stopped; begun anew", file=sys.stderr)
        shutil.rmtree(part)
    part.mkdir(parents=True)
    names: set[str] = set()
    counts: dict[str, int] = {}
    try:
        with (
            (part / "clips.csv").open("w", newline="", encoding="utf-8") as table,
            Bar(transient=True) as bar,
        ):
            rows = csv.writer(table)
            rows.writerow(["file", "labels", "split"])
            task = bar.task("unpacking", len(found))
            for shard in found:
                for sound in unpacked(shard, audio=audio, label=label):
                    file = _new_name(sound.split, sound.name, sound.ending, names)
                    (part / file).parent.mkdir(exist_ok=True)
                    (part / file).write_bytes(sound.data)
                    rows.writerow(
                        [file, ";".join(_in_a_cell(shard, own) for own in sound.labels), sound.split]
                    )
                    counts[sound.split] = counts.get(sound.split, 0) + 1
                task.advance(1)
        if not counts:
            raise InputError(f"no sounds in {', '.join(map(str, found[:3]))}: is it another kind of set?")
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    part.rename(out)
    told = ", ".join(f"{count} {split}" for split, count in counts.items())
    print(f"{out / 'clips.csv'}: {told}, of {len(found)} shards")


def _new_name(split: str, name: str, ending: str, taken: set[str]) -> str:
    """A plain one, in its split's directory, that no other sound has."""
    plain = re.sub(r"[^\w.-]", "_", name).lstrip(".")[:_LONGEST] or "sound"
    file, number = f"{split}/{plain}{ending}", 1
    while file in taken:
        file, number = f"{split}/{plain}-{number}{ending}", number + 1
    taken.add(file)
    return file


def _in_a_cell(shard: Path, label: str) -> str:
    if ";" in label:
        raise InputError(f"{shard}: the label {label!r} has a semicolon, by which a table parts labels")
    return label
