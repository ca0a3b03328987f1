"""TAU Urban Acoustic Scenes in the layout of the DCASE challenges since 2018: audio/ and evaluation_setup/.

Ten scenes, clips of 10 s (2018 to 2021; 1 s in 2022's) from several cities (Mesaros, Heittola and Virtanen,
DCASE 2018).
"""

import os
from pathlib import Path

from ast_jax.datasets.listing import Clip, Listing
from ast_jax.errors import InputError
from ast_jax.text_tables import read_table

_TABLES = {"train": "fold1_train.csv", "evaluate": "fold1_evaluate.csv"}
_COLUMNS = ("filename", "scene_label")


def list_clips(source_dir: str | os.PathLike) -> Listing:
    """Splits train and evaluate of the published fold, labels in alphabetical order.

    Raises InputError where one of its tables is missing.
    """
    setup = Path(source_dir, "evaluation_setup")
    if missing := [name for name in _TABLES.values() if not (setup / name).is_file()]:
        raise InputError(
            f"no evaluation_setup/{missing[0]} in {source_dir}: give the directory of the development set "
            "that holds audio/ and evaluation_setup/"
        )
    rows = {split: read_table(setup / name, _COLUMNS, delimiter="\t") for split, name in _TABLES.items()}
    names = sorted({row["scene_label"] for table in rows.values() for row in table})
    splits = {
        split: [
            Clip(
                Path(row["filename"]).stem,
                os.path.join(source_dir, row["filename"]),
                (names.index(row["scene_label"]),),
            )
            for row in table
        ]
        for split, table in rows.items()
    }
    return Listing("tau_scenes", names, False, splits)
