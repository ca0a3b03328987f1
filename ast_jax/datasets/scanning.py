"""What the layouts of data sets have in common: files in directories, tables, class names, a split."""

import contextlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from ast_jax.errors import InputError, printable
from ast_jax.text_tables import composed, read_table, read_text

# Some of them for a clear reason only: what cannot be decoded is told when it is read.
AUDIO_SUFFIXES = {
    ".wav", ".wave", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".mp2", ".aif", ".aiff", ".aifc", ".au",
    ".snd", ".caf", ".w64", ".rf64", ".m4a", ".mp4", ".aac", ".wma", ".webm", ".mka", ".amr",
}  # fmt: skip
# Of features that exist already.
ARRAY_SUFFIXES = {".npy", ".npz"}

# The columns of AudioSet's tables, which name them in a comment.
SEGMENT = ("YTID", "start_seconds", "end_seconds", "positive_labels")
# What systems leave in directories, beside hidden entries.
_OF_SYSTEMS = {"__macosx", "@eadir", "$recycle.bin", "system volume information", "lost+found"}


def is_audio(path: str | os.PathLike) -> bool:
    return os.path.splitext(path)[1].lower() in AUDIO_SUFFIXES


def is_array(path: str | os.PathLike) -> bool:
    return os.path.splitext(path)[1].lower() in ARRAY_SUFFIXES


class Found(NamedTuple):
    """Sound files (or those that were wanted) and other files, each sorted; and (path, reason, detail) of
    directories that were not opened, and of links to what is read elsewhere.
    """

    sounds: list[str]
    others: list[str]
    unopened: list[tuple[str, str, str]]


def scan(
    directory: str | os.PathLike,
    elsewhere: Sequence[str] = (),
    wanted: Callable[[str | os.PathLike], bool] = is_audio,
) -> Found:
    """What lies below `directory`; `wanted` tells sound files by their names, or other files.

    One pass, links followed, hidden ones left alone. Directories that may not be read are passed over and
    told; so are links to directories that lie in one of `elsewhere` (real paths, which are read by
    themselves), hold one of them, or have been read. A directory named like a sound file counts as one: it
    fails when it is read, and is then listed with its reason.
    """
    found, visited, start = Found([], [], []), set(), os.path.realpath(directory)

    def unreadable(error: OSError) -> None:
        path = os.fspath(error.filename)
        found.unopened.append((path, "unreadable", f"not opened: {(error.strerror or str(error)).lower()}"))

    for parent, folders, files in os.walk(os.fspath(directory), followlinks=True, onerror=unreadable):
        real, place = os.path.realpath(parent), os.path.relpath(parent, directory)
        linked = real != os.path.normpath(os.path.join(start, place))
        if real in visited or (
            linked and any(_within(real, other) or _within(other, real) for other in elsewhere)
        ):
            folders.clear()
            found.unopened.append((parent, "link", f"not followed: {real} is read by itself"))
            continue
        visited.add(real)
        found.sounds.extend(os.path.join(parent, name) for name in folders if wanted(name))
        folders[:] = [name for name in folders if not wanted(name) and not _passed_over(name)]
        # links last, so that what one leads to is read at its own place
        folders.sort(key=lambda name: os.path.islink(os.path.join(parent, name)))
        for name in files:
            if not name.startswith("."):  # .DS_Store, and ._x.wav, which macOS leaves beside x.wav
                (found.sounds if wanted(name) else found.others).append(os.path.join(parent, name))
    for each in found:
        each.sort()
    return found


def _passed_over(name: str) -> bool:
    """Whether a directory is hidden, or what systems leave."""
    return name.startswith(".") or name.lower() in _OF_SYSTEMS


def _within(path: str, directory: str) -> bool:
    return path == directory or path.startswith(directory.rstrip(os.sep) + os.sep)


def subdirectories(directory: Path) -> list[str]:
    """Names of the directories in `directory`, sorted, without hidden ones and what systems leave.

    None where it may not be read: `scan` tells of it.
    """
    with contextlib.suppress(PermissionError):
        return sorted(
            p.name for p in directory.iterdir() if p.is_dir() and not _passed_over(p.name) and not is_audio(p)
        )
    return []


def read_class_labels(path: Path) -> tuple[list[str], dict[str, int]]:
    """AudioSet's class_labels_indices.csv (index, mid, display_name).

    Returns the names in index order, and the index of each mid.
    """
    rows = read_table(path, ("index", "mid", "display_name"))
    rows.sort(key=lambda row: row.whole_number("index"))
    if [row.whole_number("index") for row in rows] != list(range(len(rows))):
        raise InputError(f"{path}: the column index should run from 0 to {len(rows) - 1} without gaps")
    mids = {row["mid"]: row.whole_number("index") for row in rows}
    if len(mids) != len(rows):
        raise InputError(f"{path}: an identifier stands for several classes")
    return [composed(row["display_name"]) for row in rows], mids


def read_label_names(names: Sequence[str] | str | os.PathLike, root: Path) -> list[str]:
    """Class names in order: as given, or from a text file in `root` with a name a line."""
    if not isinstance(names, str | os.PathLike):
        return [composed(name) for name in names]
    path = root / names
    if not path.is_file():
        raise InputError(f"no file {path}: it should hold the class names in order, a name a line")
    return [composed(line.strip()) for line in read_text(path).splitlines() if line.strip()]


def short_ids(paths: Sequence[str], root: str | os.PathLike) -> list[str]:
    """File stems where they tell all clips apart, else paths below `root`.

    These without the extension, if that does.
    """
    relative = [printable(os.path.relpath(path, root)) for path in paths]
    stems = [printable(Path(path).stem) for path in paths]
    for ids in (stems, [os.path.splitext(path)[0] for path in relative]):
        if len(set(ids)) == len(ids):
            return ids
    return relative
