"""The built-in data set: real .wav files of ten everyday sound classes, made here, listed like any others.

DIRECTORY/{train,test}/{class}/{class}_{split}_{number}.wav; every eighth file is 22.05 kHz stereo, so that resampling and
mixing down are on the way of the data too. Held-out files come from other random streams and from wider parameter ranges.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64

from ast_jax.datasets.records import Clip, Listing
from ast_jax.datasets.sounds import SOUNDS, clip
from ast_jax.errors import InputError

MANIFEST = "synthetic.json"  # written last: a directory without it is not whole
VERSION = 1  # of the sounds; a set made by another version is made again
LENGTH_S = (1.8, 2.5)


def ensure(
    directory: str | os.PathLike, *, train_per_class: int = 300, test_per_class: int = 40, seed: int = 0
) -> None:
    """Makes the sound files, unless this very set is there already."""
    wanted = {
        "version": VERSION,
        "seed": seed,
        "per_class": {"train": train_per_class, "test": test_per_class},
    }
    manifest = Path(directory) / MANIFEST
    if manifest.is_file() and json.loads(manifest.read_text()) == wanted:
        return
    generate(directory, wanted)


def generate(directory: str | os.PathLike, wanted: dict[str, Any]) -> None:
    """Writes every file, then the manifest; files of another set that are in the way are removed."""
    import soundfile

    root = Path(directory)
    (root / MANIFEST).unlink(missing_ok=True)
    for split in wanted["per_class"]:
        for name in SOUNDS:  # nobody else's files, should the directory hold some
            for old in (root / split / name).glob(f"{name}_{split}_????.wav"):
                old.unlink()
    for path, name, split, number in _files(wanted["per_class"]):
        wave, rate_hz = make(name, seed=wanted["seed"], split=split, number=number)
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(root / path, wave, rate_hz, subtype="PCM_16")
    (root / MANIFEST).write_text(json.dumps(wanted) + "\n")


def make(name: str, *, seed: int, split: str, number: int) -> tuple[Float64[np.ndarray, "..."], int]:
    """One clip and its sample rate, a function of its arguments alone: [S], or [S, 2] for the stereo ones."""
    held_out = split == "test"
    rng = np.random.default_rng((seed, int(held_out), list(SOUNDS).index(name), number))
    stereo = number % 8 == 7
    rate_hz = 22_050 if stereo else 16_000
    seconds = LENGTH_S[0] + (LENGTH_S[1] - LENGTH_S[0]) * rng.random()
    wave = clip(name, rng, seconds=seconds, rate_hz=rate_hz, held_out=held_out)
    return (np.stack([wave, 0.8 * wave], axis=1) if stereo else wave), rate_hz


def list_clips(
    source_dir: str | os.PathLike, *, train_per_class: int = 300, test_per_class: int = 40, seed: int = 0
) -> Listing:
    """The files that `ensure` made with the same options. Raises InputError if they are not all there."""
    root = Path(source_dir)
    if not (root / MANIFEST).is_file():
        raise InputError(
            f"{root} holds no whole set of built-in sounds: `ensure` makes it, or remove it and start again"
        )
    names = list(SOUNDS)
    splits: dict[str, list[Clip]] = {"train": [], "test": []}
    for path, name, split, _ in _files({"train": train_per_class, "test": test_per_class}):
        splits[split].append(Clip(path.stem, str(root / path), (names.index(name),)))
    return Listing("synthetic", names, False, splits, notes={"seed": seed})


def _files(per_class: dict[str, int]) -> Iterator[tuple[Path, str, str, int]]:
    for split, count in per_class.items():
        for number in range(count):
            for name in SOUNDS:
                yield Path(split, name, f"{name}_{split}_{number:04d}.wav"), name, split, number
