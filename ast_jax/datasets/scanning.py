"""What the layouts of data sets have in common: files in directories, tables, class names, a split."""

import csv
import hashlib
import os
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from ast_jax.errors import InputError

# Some of them for a clear reason only: what cannot be decoded is told when it is read.
AUDIO_SUFFIXES = {
    ".wav", ".wave", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".mp2", ".aif", ".aiff", ".aifc", ".au",
    ".snd", ".caf", ".w64", ".rf64", ".m4a", ".mp4", ".aac", ".wma", ".webm", ".mka", ".amr",
}  # fmt: skip


# What systems leave in directories, beside hidden entries.
_OF_SYSTEMS = {"__macosx", "@eadir", "$recycle.bin", "system volume information", "lost+found"}


def is_audio(path: str | os.PathLike) -> bool:
    return os.path.splitext(path)[1].lower() in AUDIO_SUFFIXES


def scan(directory: str | os.PathLike) -> tuple[list[str], list[str]]:
    """(sound files, other files) below `directory`, each sorted.

    One pass, links followed, hidden ones left alone. A directory named like a sound file counts as one: it
    fails when it is read, and is then listed with its reason.
    """
    sounds: list[str] = []
    others: list[str] = []
    visited: set[str] = set()
    for parent, folders, files in os.walk(os.fspath(directory), followlinks=True):
        if (real := os.path.realpath(parent)) in visited:
            folders.clear()  # a link back to where we have been
            continue
        visited.add(real)
        sounds += [os.path.join(parent, name) for name in folders if is_audio(name)]
        folders[:] = [name for name in folders if not is_audio(name) and not name.startswith(".")]
        for name in files:
            if not name.startswith("."):  # .DS_Store, and ._x.wav, which macOS leaves beside x.wav
                (sounds if is_audio(name) else others).append(os.path.join(parent, name))
    return sorted(sounds), sorted(others)


def subdirectories(directory: Path) -> list[str]:
    """Names of the directories in `directory`, sorted, without hidden ones and what systems leave."""
    return sorted(
        p.name
        for p in directory.iterdir()
        if p.is_dir() and not p.name.startswith(".") and p.name.lower() not in _OF_SYSTEMS and not is_audio(p)
    )


def read_class_labels(path: Path) -> tuple[list[str], dict[str, int]]:
    """AudioSet's class_labels_indices.csv (index, mid, display_name).

    Returns the names in index order, and the index of each mid.
    """
    rows = read_table(path, ("index", "mid", "display_name"))
    rows.sort(key=lambda row: int(row["index"]))
    if [int(row["index"]) for row in rows] != list(range(len(rows))):
        raise InputError(f"{path}: the column index should run from 0 to {len(rows) - 1} without gaps")
    return [row["display_name"] for row in rows], {row["mid"]: int(row["index"]) for row in rows}


def read_table(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """Rows of a CSV file with a header.

    Raises InputError if it is missing, is not text, has no rows or lacks a column.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file, skipinitialspace=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} cannot be read as a CSV file: {error}") from None
    lacking = [column for column in columns if column not in (rows[0] if rows else ())]
    if lacking:
        found = f"its columns are {', '.join(map(str, rows[0]))}" if rows else "it has no rows"
        raise InputError(f"{path} needs the column {', '.join(lacking)}: {found}")
    return rows


def read_label_names(names: Sequence[str] | str | os.PathLike, root: Path) -> list[str]:
    """Class names in order: as given, or from a text file in `root` with a name a line."""
    if not isinstance(names, str | os.PathLike):
        return list(names)
    path = root / names
    if not path.is_file():
        raise InputError(f"no file {path}: it should hold the class names in order, a name a line")
    return [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]


def held_out(stems: Sequence[str], groups: Sequence[object], share: float = 0.2) -> list[bool]:
    """Which clips are for testing: in each group the `share` with the smallest hashes of their stems.

    At least one of two or more. The same names give the same answer on any machine and in any order.
    """
    members: dict[object, list[int]] = defaultdict(list)
    for i, group in enumerate(groups):
        members[group].append(i)
    test = [False] * len(stems)
    for indices in members.values():
        indices.sort(key=lambda i: (hashlib.sha256(stems[i].encode()).digest(), stems[i]))
        count = max(1, round(share * len(indices))) if len(indices) > 1 else 0
        for i in indices[:count]:
            test[i] = True
    return test


def short_ids(paths: Sequence[str], root: str | os.PathLike) -> list[str]:
    """File stems where they tell all clips apart, else paths below `root`.

    These without the extension, if that does.
    """
    relative = [os.path.relpath(path, root) for path in paths]
    for ids in ([Path(path).stem for path in paths], [os.path.splitext(path)[0] for path in relative]):
        if len(set(ids)) == len(ids):
            return ids
    return relative
