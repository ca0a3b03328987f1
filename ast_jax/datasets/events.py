"""Sounds with events: tables that say what is heard from when to when, and the files they speak of."""

import os
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from ast_jax.datasets.folder import Names
from ast_jax.datasets.folds import held_out
from ast_jax.datasets.listing import Clip, Listing
from ast_jax.datasets.scanning import is_audio, read_label_names, scan, short_ids
from ast_jax.errors import InputError
from ast_jax.events import Event, read_events, read_files
from ast_jax.events.table import SUFFIXES
from ast_jax.text_tables import labels_in, read_table


def list_clips(
    source_dir: str | os.PathLike,
    *,
    tables: Mapping[str, str | Sequence[str]] | None = None,
    sounds_dir: str | Sequence[Sequence[str]] = "",
    suffix: str = "",
    weak: Mapping[str, str | Sequence[str]] | None = None,
    negatives: bool = False,
    label_names: Names | None = None,
) -> Listing:
    """Reads tables of events (see `events/table.py` for their forms):

    - `source_dir` is a table with a column for files, or a directory in which each sound has a table of its
      own name beside it (an Audacity label track x.txt or a Raven table x.selections.txt for x.wav);
    - `tables`, such as {"train": "train.tsv", "test": "eval.tsv"}: tables in `source_dir`, one or several a
      split.

    Paths of files are relative to `sounds_dir` in `source_dir`, one directory or (table, directory) for each
    table; names without the ending of a sound file get `suffix`. A file that a table names without an event
    (empty cells, as DCASE writes it) has none of them. With `negatives` so have the sound files below
    `sounds_dir` that no table names; without it they are left out, and told. `weak` has tables by split of
    files of which it is known what is heard and not when (columns file and labels, several by `;`, or DESED's
    filename and event_labels, by commas): their steps teach nothing, and of pieces of such a file its labels
    are not known. Without `tables` a fifth of the files is held out as `test`, by a hash of their stems.
    Labels are in the order of `label_names` (names, or a file of them), else alphabetical.

    Raises InputError for anything that does not fit.
    """
    source = Path(source_dir)
    if not source.exists():
        raise InputError(f"no file or directory {source}")
    root = source if source.is_dir() else source.parent
    where = _Where(root, sounds_dir, suffix)
    if tables:
        strong = {
            split: _all(tables[split], lambda table: _read(root / table, where(table))) for split in tables
        }
    else:
        strong = _held_out(_beside(where("")) if source.is_dir() else _read(source, where(source.name)))
    vague = {
        split: _all(given, lambda table: _weak(root / table, where(table)))
        for split, given in (weak or {}).items()
    }
    parts = [*strong.values(), *vague.values()]
    there = {os.path.normpath(path) for home in where.homes for path in scan(home).sounds}
    unknown = sorted(there - {path for part in parts for path in part})
    left_out = []
    if negatives:
        strong[next(iter(strong))] |= {path: [] for path in unknown}
    else:
        left_out = [(path, "no table", "named by no table of events") for path in unknown]
    named = {event.label for files in strong.values() for events in files.values() for event in events}
    named |= {label for files in vague.values() for labels in files.values() for label in labels}
    names = sorted(named) if label_names is None else read_label_names(label_names, root)
    if strange := sorted(named - set(names)):
        raise InputError(f"{source}: label {', '.join(strange)} is not among the {len(names)} names given")
    return _listing(root, names, strong, vague, left_out)


Files = dict[str, list[Event]]


class _Where:
    """Where the files lie that a table names; `homes` are the directories that were asked for."""

    def __init__(self, root: Path, sounds_dir: str | Sequence[Sequence[str]], suffix: str):
        self._root, self._suffix = root, suffix
        self._one = sounds_dir if isinstance(sounds_dir, str) else ""
        self._each = None if isinstance(sounds_dir, str) else {pair[0]: pair[1] for pair in sounds_dir}
        self.homes: set[Path] = set()

    def __call__(self, table: str) -> "_Home":
        if self._each is not None and table not in self._each:
            raise InputError(f"sounds_dir names no directory for {table}: it has {', '.join(self._each)}")
        home = self._root / (self._one if self._each is None else self._each[table])
        if not home.is_dir():
            raise InputError(f"no directory {home}, in which the files of {table or 'sounds'} should lie")
        self.homes.add(home)
        return _Home(home, self._suffix)


class _Home(NamedTuple):
    directory: Path
    suffix: str

    def path(self, name: str) -> str:
        """Of a file, by its name in a table."""
        return os.path.normpath(self.directory / (name if is_audio(name) else name + self.suffix))


def _all(given: str | Sequence[str], read: Callable[[str], dict]) -> dict:
    """Of one table or several. Raises InputError where two speak of one file."""
    found: dict = {}
    for table in [given] if isinstance(given, str) else given:
        own = read(table)
        if twice := found.keys() & own.keys():
            raise InputError(f"{table} and another table of its split both name {min(twice)}")
        found |= own
    return found


def _listing(root: Path, names: list[str], strong: dict, vague: dict, left_out: list) -> Listing:
    index_of = {name: index for index, name in enumerate(names)}
    paths = [path for part in (*strong.values(), *vague.values()) for path in part]
    if twice := [path for path, count in Counter(paths).items() if count > 1]:
        raise InputError(f"{twice[0]} is in several splits, or in a table of events and in one without")
    ids = dict(zip(paths, short_ids(paths, root), strict=True))
    splits: dict[str, list[Clip]] = defaultdict(list)
    events: dict[str, list[tuple[float, float, int]]] = {}
    for split, part in strong.items():
        for path, own in part.items():
            events[ids[path]] = [(e.onset_s, e.offset_s, index_of[e.label]) for e in own]
            labels = tuple(sorted({index_of[e.label] for e in own}))
            splits[split].append(Clip(ids[path], path, labels))
    for split, rows in vague.items():
        for path, said in rows.items():
            labels = tuple(sorted({index_of[label] for label in said}))
            splits[split].append(Clip(ids[path], path, labels))
    silent = sum(not own for own in events.values())
    told = [f"{len(events)} files with events, {silent} of them with none"]
    told += [f"{sum(map(len, vague.values()))} files of which it is not known when"] * bool(vague)
    told += [f"{len(left_out)} sound files are in no table: left out"] * bool(left_out)
    return Listing("events", names, True, splits, {"told": told}, left_out, events)


def _read(path: Path, home: _Home) -> Files:
    """{file: its events}; a row with empty cells is a file without any."""
    found: Files = {}
    for name, events in read_files(path).items():
        if not name:
            raise InputError(f"{path} does not say which file an event is in: give it a column file")
        # two names may be of one file
        found.setdefault(home.path(name), []).extend(events)
    if not found:
        raise InputError(f"{path} names no file")
    return found


def _beside(home: _Home) -> Files:
    """Of each sound that has a table of its own name."""
    found: Files = {}
    listed = scan(home.directory)
    tables: dict[str, list[str]] = defaultdict(list)
    for path in listed.others:
        if path.lower().endswith(SUFFIXES):
            directory, name = os.path.split(path)
            tables[os.path.join(directory, name.partition(".")[0])].append(path)
    for sound in listed.sounds:
        directory, name = os.path.split(sound)
        fits = tables[os.path.join(directory, name.partition(".")[0])]
        if len(fits) > 1:
            raise InputError(f"{sound} has several tables: {', '.join(sorted(map(os.path.basename, fits)))}")
        if fits:
            found[os.path.normpath(sound)] = read_events(Path(fits[0]), sound)
    if not found:
        raise InputError(
            f"{home.directory}: no sound has a table of events beside it (x.wav and x.txt): give a table, or "
            "tables"
        )
    return found


def _weak(path: Path, home: _Home) -> dict[str, tuple[str, ...]]:
    rows = read_table(path, (), delimiter="\t" if path.suffix.lower() == ".tsv" else ",")
    known = [
        names for names in (("file", "labels", ";"), ("filename", "event_labels", ",")) if names[0] in rows[0]
    ]
    if not known or known[0][1] not in rows[0]:
        raise InputError(f"{path} needs the columns file and labels: its columns are {', '.join(rows[0])}")
    file, labels, separator = known[0]
    return {home.path(row[file]): labels_in(row, labels, separator) for row in rows}


def _held_out(files: Files) -> dict[str, Files]:
    names = list(files)
    test = held_out([Path(name).stem for name in names], [0] * len(names))
    pairs = list(zip(names, test, strict=True))
    return {
        "train": {name: files[name] for name, out in pairs if not out},
        "test": {name: files[name] for name, out in pairs if out},
    }
