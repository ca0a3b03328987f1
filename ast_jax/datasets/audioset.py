"""AudioSet: its segment tables, its table of classes, and a directory of clips named after their videos."""

import os
from collections.abc import Sequence
from pathlib import Path

from ast_jax.datasets.listing import Clip, Listing
from ast_jax.datasets.scanning import SEGMENT, read_class_labels, scan
from ast_jax.errors import InputError
from ast_jax.text_tables import labels_in, read_table

TABLES = {
    "balanced": "balanced_train_segments.csv",
    "unbalanced": "unbalanced_train_segments.csv",
    "eval": "eval_segments.csv",
}
CLASSES = "class_labels_indices.csv"


def list_clips(
    source_dir: str | os.PathLike,
    *,
    clips_dir: str | os.PathLike | None = None,
    splits: Sequence[str] | None = None,
) -> Listing:
    """Splits balanced, unbalanced, eval, as far as their tables are there (or those of `splits`).

    Labels are in index order. Tables may lie anywhere under `source_dir`; clips, {ytid}.* or Y{ytid}.*,
    anywhere under `clips_dir` (default: `source_dir`). Videos vanish, so a row without a clip is counted and
    not an error: notes["coverage"] has, for each split, the rows listed and found; notes["unlabeled"] counts
    the clips that no table mentions; notes["mids"] are the classes' identifiers, in index order. Raises
    InputError if a table asked for or the class table is missing, a row cannot be parsed, or a label is no
    class.
    """
    sounds, others, unopened = scan(source_dir)
    tables = {os.path.basename(path): Path(path) for path in reversed(others)}
    if clips_dir is not None:
        sounds, _, unopened = scan(clips_dir)
    wanted = (
        tuple(splits) if splits is not None else tuple(split for split in TABLES if TABLES[split] in tables)
    )
    missing = [TABLES[split] for split in _known(wanted) if TABLES[split] not in tables]
    if missing or not wanted or CLASSES not in tables:
        raise InputError(
            f"{source_dir}: no {', '.join(missing) or (CLASSES if wanted else 'segment table')} below it"
        )
    names, index_of = read_class_labels(tables[CLASSES])

    # Of several clips of one video, the first path.
    path_of = {Path(path).stem: path for path in reversed(sounds)}
    mentioned: set[str] = set()
    found, coverage = {}, {}
    for split in (split for split in TABLES if TABLES[split] in tables):
        rows = _segments(tables[TABLES[split]], index_of)
        # The plain name wins.
        stems = {ytid: stem for ytid in rows for stem in (f"Y{ytid}", ytid) if stem in path_of}
        mentioned.update(stems.values())
        if split in wanted:
            found[split] = [Clip(ytid, path_of[stem], rows[ytid]) for ytid, stem in stems.items()]
            coverage[split] = {
                "listed": len(rows),
                "found": len(stems),
                "share": round(len(stems) / max(1, len(rows)), 6),
            }
    notes = {"coverage": coverage, "unlabeled": len(path_of.keys() - mentioned), "mids": list(index_of)}
    return Listing("audioset", names, True, found, notes, left_out=unopened)


def _known(splits: Sequence[str]) -> Sequence[str]:
    if unknown := [split for split in splits if split not in TABLES]:
        raise InputError(f"AudioSet has no split {', '.join(unknown)}: choose among {', '.join(TABLES)}")
    return splits


def _segments(path: Path, index_of: dict[str, int]) -> dict[str, tuple[int, ...]]:
    """ytid -> labels, from rows `YTID, start, end, "mid,mid"`; lines that start with # are comments."""
    rows = {}
    for row in read_table(path, (), header=SEGMENT, comment="#"):
        mids = labels_in(row, "positive_labels", ",")
        if unknown := [mid for mid in mids if mid not in index_of]:
            raise InputError(f"{row.where}: {', '.join(unknown)} is not in {CLASSES}")
        rows[row["YTID"]] = tuple(sorted({index_of[mid] for mid in mids}))
    return rows
