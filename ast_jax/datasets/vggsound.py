"""VGGSound: vggsound.csv and a directory of clips named after their videos.

Some 200,000 clips of 10 s, 309 classes, one a clip, splits train and test (Chen et al., ICASSP 2020).
"""

import os
from pathlib import Path

from ast_jax.datasets.listing import Clip, Listing
from ast_jax.datasets.scanning import scan
from ast_jax.errors import InputError
from ast_jax.text_tables import read_table

TABLE, COLUMNS = "vggsound.csv", ("ytid", "start", "label", "split")


def list_clips(source_dir: str | os.PathLike) -> Listing:
    """Splits train and test; labels in alphabetical order, all that the table has.

    The table and the clips, {ytid}_{start in six digits}.* as published, may lie anywhere below. Videos
    vanish, so a row without a clip is counted and not an error: notes["coverage"]. Raises InputError without
    the table.
    """
    sounds, others, unopened = scan(source_dir)
    table = next((path for path in others if os.path.basename(path) == TABLE), None)
    if table is None:
        raise InputError(f"no {TABLE} below {source_dir}: put the published table beside the clips")
    rows = read_table(Path(table), (), header=COLUMNS)
    names = sorted({row["label"] for row in rows})
    label_of = {name: label for label, name in enumerate(names)}
    path_of = {Path(path).stem: path for path in reversed(sounds)}
    splits: dict[str, list[Clip]] = {"train": [], "test": []}
    listed = dict.fromkeys(splits, 0)
    for row in rows:
        if row["split"] not in splits:
            raise InputError(f"{row.where}: split is {row['split']!r}: wanted train or test")
        listed[row["split"]] += 1
        name = f"{row['ytid']}_{row.whole_number('start'):06}"
        if name in path_of:
            splits[row["split"]].append(Clip(name, path_of[name], (label_of[row["label"]],)))
    coverage = {
        split: {"listed": count, "found": len(splits[split]), "share": round(len(splits[split]) / count, 6)}
        for split, count in listed.items()
        if count
    }
    return Listing("vggsound", names, False, splits, {"coverage": coverage}, left_out=unopened)
