"""The built-in data set: ten everyday sounds as .wav files, written where they are not there yet.

`directory`/{train,test}/{class}/{class}_{split}_{index}.wav and, written last, synthetic.json. Each file is a
function of seed, split, class and index alone: the same bytes on any machine, in any order, in a larger set
or a smaller one.
"""

import json
import os
import sys
import time
import wave
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ast_jax import system
from ast_jax.datasets.listing import Clip, Listing
from ast_jax.datasets.locking import alone
from ast_jax.datasets.sounds import NAMES, record
from ast_jax.errors import InputError

# Raise it when a sound changes: sets of another version are written again.
VERSION = 2
MANIFEST = "synthetic.json"
SPLITS = ("train", "test")

# Most files are 16 kHz mono; two in forty of every class take the way through resampling and mixing down:
# index modulo 40 -> rate in Hz, channels.
OTHER_FORMATS = {7: (44_100, 2), 27: (22_050, 1)}


@dataclass(frozen=True)
class Sound:
    """One file to be."""

    path: Path
    seed: int
    split: int
    label: int
    index: int
    seconds: tuple[float, float]


def generate(
    directory: str | os.PathLike,
    *,
    seed: int = 0,
    train_per_class: int = 300,
    test_per_class: int = 40,
    seconds: Sequence[float] = (1.8, 2.5),
) -> int:
    """Writes the set unless this very one is there, complete.

    Returns how many files it wrote (all or none). `seconds`: shortest and longest clip. Held-out files are
    drawn from other random streams and from wider ranges of every parameter than training files
    (`sounds.MARGIN`). Files of an earlier set that are not part of this one are deleted. Raises InputError
    for counts, lengths or a seed that make no set.
    """
    _check(seed, train_per_class, test_per_class, seconds)
    options = {"seed": seed, "train_per_class": train_per_class, "test_per_class": test_per_class}
    manifest = {"version": VERSION, **options, "seconds": list(seconds)}
    root = Path(directory)
    root.mkdir(parents=True, exist_ok=True)
    with alone(root / ".lock", f"synthetic: another process is writing {root}; waiting for it"):
        sounds = list(_sounds(root, manifest))
        if _manifest(root) == manifest and all(_is_whole(sound) for sound in sounds):
            return 0
        (root / MANIFEST).unlink(missing_ok=True)
        _clear(root, {sound.path for sound in sounds})
        for folder in sorted({sound.path.parent for sound in sounds}):
            folder.mkdir(parents=True, exist_ok=True)
        with ThreadPoolExecutor(system.cores()) as pool:  # NumPy lets other threads run
            list(pool.map(_write, sounds))
        partial = root / f"{MANIFEST}.part"
        partial.write_text(json.dumps(manifest, indent=1))
        os.replace(partial, root / MANIFEST)
    return len(sounds)


def default_source_dir(data_dir: Path) -> Path:
    """Where the sounds are if nobody says."""
    return data_dir / "synthetic" / "sounds"


def ensure_sounds(directory: str | os.PathLike, **options) -> None:
    """`generate`, with a line on stderr if there was something to do: what preparing calls first."""
    began = time.monotonic()
    if count := generate(directory, **options):
        print(
            f"synthetic: {count} sound files written to {directory} in {time.monotonic() - began:.0f} s",
            file=sys.stderr,
        )


def list_clips(
    source_dir: str | os.PathLike,
    *,
    seed: int | None = None,
    train_per_class: int | None = None,
    test_per_class: int | None = None,
    seconds: Sequence[float] | None = None,
) -> Listing:
    """Splits train and test of the set that `generate` wrote there.

    Options that are given must be those it was written with. Raises InputError if there is no complete set or
    it was written with other options.
    """
    root = Path(source_dir)
    manifest = _manifest(root)
    if manifest is None:
        raise InputError(
            f"no complete built-in set of version {VERSION} in {root}: "
            "generate it first, or name another directory"
        )
    given: dict[str, object] = {
        "seed": seed,
        "train_per_class": train_per_class,
        "test_per_class": test_per_class,
        "seconds": None if seconds is None else list(seconds),
    }
    if other := {key: value for key, value in given.items() if value is not None and value != manifest[key]}:
        was = ", ".join(f"{key}={manifest[key]}" for key in other)
        raise InputError(f"the built-in set in {root} was written with {was}, not {other}: generate it again")
    splits: dict[str, list[Clip]] = {split: [] for split in SPLITS}
    for sound in _sounds(root, manifest):
        splits[SPLITS[sound.split]].append(Clip(sound.path.stem, str(sound.path), (sound.label,)))
    return Listing("synthetic", NAMES, False, splits, notes={"generator": manifest})


def _check(seed: int, train_per_class: int, test_per_class: int, seconds: Sequence[float]) -> None:
    if not (isinstance(seed, int) and seed >= 0 and min(train_per_class, test_per_class) > 0):
        raise InputError(
            f"seed {seed}, {train_per_class} training and {test_per_class} held-out clips a class: "
            "wanted a seed of 0 or more and at least one clip each"
        )
    if len(seconds) != 2 or not 1 <= seconds[0] <= seconds[1] <= 60:
        raise InputError(
            f"seconds {tuple(seconds)}: wanted the shortest and the longest clip, between 1 and 60"
        )


def _manifest(root: Path) -> dict | None:
    """The manifest of a set of this version, None if there is none."""
    try:
        found = json.loads((root / MANIFEST).read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise InputError(f"{root / MANIFEST} cannot be read ({error}): delete it") from None
    return found if isinstance(found, dict) and found.get("version") == VERSION else None


def _sounds(root: Path, manifest: dict) -> Iterator[Sound]:
    low, high = manifest["seconds"]
    for split, name in enumerate(SPLITS):
        for label, sound in enumerate(NAMES):
            for index in range(manifest[f"{name}_per_class"]):
                path = root / name / sound / f"{sound}_{name}_{index:04d}.wav"
                yield Sound(path, manifest["seed"], split, label, index, (low, high))


def _format(sound: Sound) -> tuple[int, int]:
    """Sample rate in Hz and channels."""
    return OTHER_FORMATS.get(sound.index % 40, (16_000, 1))


def _duration(sound: Sound) -> tuple[float, np.random.Generator]:
    """The clip's length in seconds, and its random stream from there on."""
    rng = np.random.Generator(np.random.PCG64([sound.seed, sound.split, sound.label, sound.index]))
    low, high = sound.seconds
    return low + (high - low) * rng.random(), rng


def _is_whole(sound: Sound) -> bool:
    rate_hz, channels = _format(sound)
    seconds, _ = _duration(sound)
    try:
        return os.path.getsize(sound.path) == 44 + 2 * channels * int(seconds * rate_hz)  # 44: the header
    except OSError:  # not there
        return False


def _write(sound: Sound) -> None:
    rate_hz, channels = _format(sound)
    seconds, rng = _duration(sound)
    held_out = SPLITS[sound.split] == "test"
    waveform = record(
        NAMES[sound.label], rng, seconds=seconds, rate_hz=rate_hz, microphones=channels, held_out=held_out
    )
    partial = sound.path.with_suffix(".part")
    with wave.open(os.fspath(partial), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate_hz)
        file.writeframes(np.rint(waveform * 32767).astype("<i2").tobytes())
    os.replace(partial, sound.path)


def _clear(root: Path, keep: set[Path]) -> None:
    """Deletes what an earlier set left: files and folders named as ours are, and nothing else."""
    for split in SPLITS:
        for name in NAMES:
            for path in (root / split / name).glob(f"{name}_{split}_[0-9][0-9][0-9][0-9].*"):
                if path not in keep:
                    path.unlink()
