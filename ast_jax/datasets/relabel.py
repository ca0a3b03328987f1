"""Other labels for the clips of a prepared set, by id; shards stay as they are.

PSLA's enhanced labels of AudioSet, for one, or your own corrections. A table of labels is one of

- the reference's JSON, {"data": [{"wav": path, "labels": "mid,mid"}]}: the clip is the file's name without
  its extension;
- AudioSet's own form, rows of `YTID, start, end, "mid,mid"`;
- a CSV file with the columns id and labels (several separated by `;`, identifiers or names of classes).
"""

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from ast_jax.datasets.prepared import PreparedSet
from ast_jax.datasets.scanning import SEGMENT, read_class_labels
from ast_jax.errors import InputError
from ast_jax.text_tables import Row, labels_in, read_table, read_text

WANTED = (
    'a table of labels is {"data": [{"wav", "labels"}]}, a CSV file with the columns id and labels, or '
    "AudioSet's segment table"
)
# id -> labels as written.
Rows = dict[str, list[str]]
# How files of AudioSet are named: Y before the video, a start time behind.
VIDEO = re.compile(r"Y?([\w-]{11})(_[\d.]+)*")


def relabelled(
    prepared: PreparedSet, table: str | os.PathLike, splits: Sequence[str]
) -> tuple[PreparedSet, dict[str, int]]:
    """The set with the table's labels on the clips of `splits`, and counts.

    These are: changed, same, not_in_table, not_in_set. A clip that the table does not have keeps its labels
    and what is known of it; of one that it has, everything is known.
    A row without a clip is counted where clips vanish (AudioSet), elsewhere it is an error. Raises InputError
    for it, for a table that names none of the clips, an unknown label, and other than one label in a
    single-label set.
    """
    path = Path(table)
    rows, classes = _read(path), _classes(prepared, path)
    ids = {split: prepared.ids(split) for split in splits}
    rows = _by_clip(rows, {id for found in ids.values() for id in found})
    known = rows.keys() & {id for found in ids.values() for id in found}
    vanish = "coverage" in prepared.metadata["notes"]
    if not known or (len(known) < len(rows) and not vanish):
        strangers = [id for id in rows if id not in known]
        raise InputError(
            f"{path}: {len(strangers)} of {len(rows)} ids are no clips of {prepared.name} "
            f"{', '.join(splits)}, the first is {strangers[0]!r}; ids there look like {ids[splits[0]][0]!r}"
        )
    labels = {id: _indices(id, rows[id], classes, path) for id in known}
    if not prepared.multi_label and (several := [id for id, own in labels.items() if len(own) != 1]):
        raise InputError(f"{path}: {several[0]}: {len(labels[several[0]])} labels, one wanted in this set")
    old = {split: [tuple(own.tolist()) for own in prepared.label_sets(split)] for split in splits}
    new = {
        split: [labels.get(id, own) for id, own in zip(ids[split], old[split], strict=True)]
        for split in splits
    }
    pairs = [pair for split in splits for pair in zip(old[split], new[split], strict=True)]
    changed = sum(set(one) != set(other) for one, other in pairs)
    counts = {
        "changed": changed,
        "same": len(known) - changed,
        "not_in_table": len(pairs) - len(known),
        "not_in_set": len(rows) - len(known),
    }
    told = {split: [i for i, id in enumerate(ids[split]) if id in labels] for split in splits}
    return prepared.with_labels(new, told), counts


def _read(path: Path) -> Rows:
    try:
        pairs = _read_json(path) if path.suffix.lower() == ".json" else _read_csv(path)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: no table of labels ({type(error).__name__}: {error}); {WANTED}") from None
    rows: Rows = {}
    for id, labels in pairs:
        if sorted(rows.setdefault(id, labels)) != sorted(labels):
            raise InputError(f"{path}: {id} is there twice, with different labels")
    if not rows:
        raise InputError(f"{path} has no rows")
    return rows


def _read_json(path: Path) -> list[tuple[str, list[str]]]:
    data = json.loads(read_text(path))["data"]
    rows = (Row({"labels": entry["labels"].strip()}, f"{path}, entry {n}") for n, entry in enumerate(data, 1))
    stems = (Path(entry["wav"]).stem for entry in data)
    return [(stem, list(labels_in(row, "labels", ","))) for stem, row in zip(stems, rows, strict=True)]


def _read_csv(path: Path) -> list[tuple[str, list[str]]]:
    lines = (line for line in read_text(path).splitlines() if line.strip() and line[0] != "#")
    if {"id", "labels"} <= {cell.strip() for cell in next(lines, "").split(",")}:
        return [
            (row["id"], list(labels_in(row, "labels")))
            for row in read_table(path, ("id", "labels"), comment="#")
        ]
    try:
        rows = read_table(path, (), header=SEGMENT, comment="#")
    except InputError as error:
        raise InputError(f"{error}; {WANTED}") from None
    return [(row["YTID"], list(labels_in(row, "positive_labels", ","))) for row in rows]


def _by_clip(rows: Rows, clips: set[str]) -> Rows:
    """The rows under the ids of the set: as written, or the video that a file of AudioSet is named after."""
    named = {}
    for id, labels in rows.items():
        video = None if id in clips else VIDEO.fullmatch(id)
        named[video[1] if video and video[1] in clips else id] = labels
    return named


def _classes(prepared: PreparedSet, path: Path) -> dict[str, int]:
    """Index by identifier and by name.

    Identifiers are noted in the set, or in a class table beside the table of labels.
    """
    classes = {name: index for index, name in enumerate(prepared.label_names)}
    mids: Mapping[str, int] = {mid: i for i, mid in enumerate(prepared.metadata["notes"].get("mids", ()))}
    beside = sorted(path.parent.glob("*class_labels_indices.csv"))
    if not mids and len(beside) == 1:
        names, by_mid = read_class_labels(beside[0])
        mids = {mid: classes[names[i]] for mid, i in by_mid.items() if names[i] in classes}
    return {**classes, **mids}


def _indices(id: str, labels: Sequence[str], classes: Mapping[str, int], path: Path) -> tuple[int, ...]:
    if unknown := [label for label in labels if label not in classes]:
        raise InputError(
            f"{path}: {id}: {', '.join(unknown)} is none of the {len(set(classes.values()))} classes"
        )
    return tuple(sorted({classes[label] for label in labels}))
