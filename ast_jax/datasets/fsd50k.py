"""FSD50K in its own layout: FSD50K.dev_audio/, FSD50K.eval_audio/ and FSD50K.ground_truth/.

51,197 clips of up to 30 s from Freesound, 200 of AudioSet's classes, several a clip; the official split has
36,796 clips to train, 4,170 to validate and 10,231 to evaluate (Fonseca et al., TASLP 2022).
"""

import os
from pathlib import Path

from ast_jax.datasets.listing import Clip, Listing
from ast_jax.errors import InputError
from ast_jax.text_tables import labels_in, read_table

_PART = "FSD50K."


def list_clips(source_dir: str | os.PathLike) -> Listing:
    """Splits train, val, eval; labels in the order of vocabulary.csv, notes["mids"] their identifiers.

    Raises InputError where a table is missing, or a row has a label that the vocabulary has not.
    """
    tables = Path(source_dir, f"{_PART}ground_truth")
    vocabulary = [
        (row["label"], row["mid"])
        for row in read_table(_there(tables / "vocabulary.csv"), (), header=("index", "label", "mid"))
    ]
    index_of = {label: index for index, (label, _) in enumerate(vocabulary)}
    splits: dict[str, list[Clip]] = {"train": [], "val": [], "eval": []}
    for part in ("dev", "eval"):
        columns = ("fname", "labels", "split") if part == "dev" else ("fname", "labels")
        for row in read_table(_there(tables / f"{part}.csv"), columns):
            said = labels_in(row, "labels", ",")
            if unknown := [label for label in said if label not in index_of]:
                raise InputError(f"{row.where}: {', '.join(unknown)} is not in vocabulary.csv")
            split = row["split"] if part == "dev" else "eval"
            if split not in splits:
                raise InputError(f"{row.where}: split is {split!r}: wanted train or val")
            path = os.path.join(source_dir, f"{_PART}{part}_audio", f"{row['fname']}.wav")
            labels = tuple(sorted({index_of[label] for label in said}))
            splits[split].append(Clip(row["fname"], path, labels))
    notes = {"mids": [mid for _, mid in vocabulary]}
    return Listing("fsd50k", [label for label, _ in vocabulary], True, splits, notes)


def _there(table: Path) -> Path:
    if not table.is_file():
        raise InputError(
            f"no {table.parent.name}/{table.name} in {table.parent.parent}: give the directory of FSD50K "
            f"that holds {_PART}dev_audio/, {_PART}eval_audio/ and {_PART}ground_truth/"
        )
    return table
