"""OpenMIC-2018 in its own layout: openmic-2018-aggregated-labels.csv, partitions/ and audio/000/KEY.ogg.

20,000 excerpts of 10 s from the Free Music Archive and 20 instruments, a few of which were judged of each: of
the others it is not known if they play (Humphrey, Durand and McFee, ISMIR 2018; the layout is that of
github.com/cosmir/openmic-2018). The official split has 14,915 to train and 5,085 to test, as
huggingface.co/datasets/CPJKU/openmic counts them.
"""

import math
import os
from pathlib import Path

from ast_jax.datasets.listing import Clip, Listing
from ast_jax.errors import InputError
from ast_jax.text_tables import read_table

INSTRUMENTS = (
    "accordion",
    "banjo",
    "bass",
    "cello",
    "clarinet",
    "cymbals",
    "drums",
    "flute",
    "guitar",
    "mallet_percussion",
    "mandolin",
    "organ",
    "piano",
    "saxophone",
    "synthesizer",
    "trombone",
    "trumpet",
    "ukulele",
    "violin",
    "voice",
)
LABELS = "openmic-2018-aggregated-labels.csv"
# from which relevance on an instrument counts as there, as in the authors' baseline
PRESENT = 0.5


def list_clips(source_dir: str | os.PathLike) -> Listing:
    """Splits train and test; an instrument is there from a relevance of 0.5 on, and unknown without a row.

    Raises InputError where a table is missing, or a row is none of OpenMIC's.
    """
    root, index_of = Path(source_dir), {name: i for i, name in enumerate(INSTRUMENTS)}
    judged: dict[str, dict[int, bool]] = {}
    for row in read_table(_there(root, LABELS), ("sample_key", "instrument", "relevance")):
        if row["instrument"] not in index_of:
            raise InputError(
                f"{row.where}: {row['instrument']!r} is none of the {len(INSTRUMENTS)} instruments"
            )
        own, index = judged.setdefault(row["sample_key"], {}), index_of[row["instrument"]]
        there = _relevance(row["relevance"], row.where) >= PRESENT
        if own.setdefault(index, there) != there:
            raise InputError(
                f"{row.where}: {row['instrument']} of {row['sample_key']} was judged otherwise above"
            )
    splits: dict[str, list[Clip]] = {}
    bare: list[tuple[str, str, str]] = []
    for split in ("train", "test"):
        splits[split] = []
        for row in read_table(_there(root, f"partitions/split01_{split}.csv"), (), header=("key",)):
            key = row["key"]
            path = str(root / "audio" / key[:3] / f"{key}.ogg")
            if key in judged:
                labels = tuple(sorted(index for index, there in judged[key].items() if there))
                splits[split].append(Clip(key, path, labels))
            else:
                bare.append((path, "not judged", f"has no row in {LABELS}"))
    known = {key: tuple(own) for key, own in judged.items()}
    told = {"told": [f"{len(bare)} clips have no row in {LABELS}: left out"]} if bare else {}
    return Listing("openmic", INSTRUMENTS, True, splits, told, left_out=bare, known=known)


def _relevance(text: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 1:
        raise InputError(f"{where}: relevance is {text!r}: wanted a number from 0 to 1")
    return value


def _there(root: Path, table: str) -> Path:
    if not (root / table).is_file():
        raise InputError(
            f"no {table} in {root}: give the directory openmic-2018, which holds {LABELS}, partitions/ and "
            "audio/"
        )
    return root / table
