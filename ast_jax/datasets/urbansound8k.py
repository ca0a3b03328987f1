"""UrbanSound8K in its own layout: audio/fold1..fold10/ and metadata/UrbanSound8K.csv.

8,732 slices of up to 4 s, 10 classes, ten folds by recording (Salamon, Jacoby and Bello, ACM Multimedia
2014), whose authors ask for exactly these folds, each held out in turn: slices of one recording stay
together.
"""

import os
from pathlib import Path

from ast_jax.datasets.listing import Clip, Listing
from ast_jax.errors import InputError
from ast_jax.text_tables import read_table

COLUMNS = ("slice_file_name", "fold", "classID", "class")


def list_clips(source_dir: str | os.PathLike) -> Listing:
    """Splits fold1..fold10, labels in the order of `classID`. Raises InputError without the table."""
    table = Path(source_dir, "metadata", "UrbanSound8K.csv")
    if not table.is_file():
        raise InputError(
            f"no metadata/UrbanSound8K.csv in {source_dir}: give the directory of UrbanSound8K that holds "
            "audio/ and metadata/"
        )
    rows = read_table(table, COLUMNS)
    names = dict(sorted((row.whole_number("classID"), row["class"]) for row in rows))
    label_of = {number: label for label, number in enumerate(names)}
    splits: dict[str, list[Clip]] = {}
    for fold, row in sorted(((row.whole_number("fold"), row) for row in rows), key=lambda pair: pair[0]):
        name = row["slice_file_name"]
        path = os.path.join(source_dir, "audio", f"fold{fold}", name)
        clip = Clip(os.path.splitext(name)[0], path, (label_of[row.whole_number("classID")],))
        splits.setdefault(f"fold{fold}", []).append(clip)
    return Listing("urbansound8k", list(names.values()), False, splits)
