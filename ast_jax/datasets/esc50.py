"""ESC-50 in its own layout: audio/ and meta/esc50.csv, one split a fold.

2,000 environmental sounds of 5 s, 50 classes, five folds (Piczak, ACM Multimedia 2015).
"""

import os
from pathlib import Path

from ast_jax.datasets.listing import Clip, Listing
from ast_jax.errors import InputError
from ast_jax.text_tables import read_table

COLUMNS = ("filename", "fold", "target", "category", "esc10")


def list_clips(source_dir: str | os.PathLike, *, only_esc10: bool = False) -> Listing:
    """Splits fold1..fold5, labels in the order of `target`.

    Only targets that occur are classes, so that ESC-10 has ten. `only_esc10` keeps the rows that ESC-50 marks
    as belonging to ESC-10. A file that is missing is skipped when it comes to reading it. Raises InputError
    if there is no meta/esc50.csv or its columns are not ESC-50's.
    """
    source = Path(source_dir)
    table = source / "meta" / "esc50.csv"
    if not table.is_file():
        raise InputError(
            f"no meta/esc50.csv in {source}: give the directory of ESC-50 that holds audio/ and meta/"
        )
    rows = read_table(table, COLUMNS)
    if only_esc10:
        rows = [row for row in rows if row["esc10"].strip().lower() == "true"]
    targets, folds = ([row.whole_number(column) for row in rows] for column in ("target", "fold"))
    names = dict(zip(targets, (row["category"] for row in rows), strict=True))
    label_of = {target: label for label, target in enumerate(sorted(names))}
    splits: dict[str, list[Clip]] = {f"fold{fold}": [] for fold in sorted(set(folds))}
    for row, fold, target in zip(rows, folds, targets, strict=True):
        path = source / "audio" / row["filename"]
        splits[f"fold{fold}"].append(Clip(path.stem, str(path), (label_of[target],)))
    return Listing("esc50", [names[target] for target in label_of], False, splits)
