"""BirdSet's High Sierra Nevada (HSN): 21 birds, taught by Xeno-Canto's recordings of one bird each, tested on
soundscapes in segments of 5 s, each with none, one or several of them (Rauch et al. 2024, "BirdSet",
arXiv:2403.10380).

As huggingface.co/datasets/DBD-research-group/BirdSet has it in HSN/, its archives unpacked: the tables
HSN_metadata_train.parquet and HSN_metadata_test_5s.parquet, and the .ogg files of HSN_train_shard_*.tar.gz
(5,460 recordings) and HSN_test5s_shard_*.tar.gz (12,000 segments), anywhere below. Columns, their types and
the order of classes are those of that repository's BirdSet.py and classes.py.
"""

import os
from pathlib import Path
from typing import Any

from ast_jax.datasets.folds import held_out
from ast_jax.datasets.listing import Clip, Listing
from ast_jax.datasets.scanning import scan
from ast_jax.errors import InputError

# eBird's codes
BIRDS = (
    *("gcrfin", "whcspa", "amepip", "sposan", "rocwre", "brebla", "daejun", "foxspa", "clanut", "moublu"),
    *("casfin", "mallar3", "herthr", "amerob", "yerwar", "yelwar", "dusfly", "mouchi", "orcwar", "warvir"),
    "norfli",
)
TABLES = {"train": "HSN_metadata_train.parquet", "test_5s": "HSN_metadata_test_5s.parquet"}
_FILE, _BIRDS = "filepath", "ebird_code_multilabel"


def list_clips(source_dir: str | os.PathLike) -> Listing:
    """Splits train, valid and test_5s; labels in the published order.

    A fifth of the recordings to train on is held out as `valid`, as in the published protocol, but here by a
    hash of their names. A row without a file is counted and not an error (an archive may be missing):
    notes["coverage"]. Raises InputError where a table is missing, or not one of a split's files is there.
    """
    sounds, others, unopened = scan(source_dir)
    tables = {os.path.basename(path): Path(path) for path in reversed(others)}
    path_of = {os.path.basename(path): path for path in reversed(sounds)}
    found: dict[str, list[Clip]] = {}
    coverage = {}
    for split, name in TABLES.items():
        if name not in tables:
            raise InputError(
                f"no {name} below {source_dir}: give the directory HSN of the published repository, its "
                "archives unpacked"
            )
        rows = _rows(tables[name])
        there = [(path_of[file], labels) for file, labels in rows.items() if file in path_of]
        if not there:
            raise InputError(
                f"{tables[name]} lists {len(rows)} sounds, {next(iter(rows), 'none')} among them, and none "
                f"is below {source_dir}: unpack the archives beside it (`tar xzf`)"
            )
        found[split] = [Clip(Path(path).stem, path, labels) for path, labels in there]
        share = round(len(there) / len(rows), 6)
        coverage[split] = {"listed": len(rows), "found": len(there), "share": share}
    own = found["train"]
    out = held_out([clip.id for clip in own], [clip.labels[:1] for clip in own])
    splits = {
        "train": [clip for clip, held in zip(own, out, strict=True) if not held],
        "valid": [clip for clip, held in zip(own, out, strict=True) if held],
        "test_5s": found["test_5s"],
    }
    return Listing("birdset", BIRDS, True, splits, {"coverage": coverage}, left_out=unopened)


def _rows(table: Path) -> dict[str, tuple[int, ...]]:
    """Each file's name without directories, and its birds."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ModuleNotFoundError:
        raise InputError("BirdSet's tables need pyarrow: pip install pyarrow") from None
    try:
        file = pq.ParquetFile(table)
        names = file.schema_arrow.names
        lacking = [name for name in (_FILE, _BIRDS) if name not in names]
        rows = [] if lacking else file.read(columns=[_FILE, _BIRDS]).to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{table} cannot be read as BirdSet's ({str(error).splitlines()[0]})") from None
    if lacking:
        raise InputError(f"{table} has no column {lacking[0]}: its columns are {', '.join(names)}")
    return {
        os.path.basename(row[_FILE]): tuple(sorted({_number(table, bird) for bird in row[_BIRDS] or ()}))
        for row in rows
    }


def _number(table: Path, bird: Any) -> int:
    """Of a class: tables name birds by their codes, `datasets` gives numbers."""
    number = BIRDS.index(bird) if bird in BIRDS else bird
    if not isinstance(number, int) or not 0 <= number < len(BIRDS):
        raise InputError(f"{table}: {bird!r} is none of HSN's {len(BIRDS)} birds")
    return number
