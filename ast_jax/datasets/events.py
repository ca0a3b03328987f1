"""Sounds with events: tables that say what is heard from when to when, and the files they speak of."""

import os
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from ast_jax.datasets.folder import Names
from ast_jax.datasets.listing import Clip, Listing
from ast_jax.datasets.scanning import held_out, read_label_names, scan, short_ids
from ast_jax.errors import InputError
from ast_jax.events import Event, read_events
from ast_jax.text_tables import read_table

# What lies in a directory of tables.
TABLE_SUFFIXES = (".tsv", ".csv", ".txt", ".rttm", ".json")


def list_clips(
    source_dir: str | os.PathLike,
    *,
    tables: Mapping[str, str] | None = None,
    sounds_dir: str = "",
    weak: Mapping[str, str] | None = None,
    negatives: bool = False,
    label_names: Names | None = None,
) -> Listing:
    """Reads tables of events (see `events/table.py` for their forms):

    - `source_dir` is a table with a column for files, or a directory in which each sound has a table of its
      own name beside it (an Audacity label track x.txt or a Raven table x.selections.txt for x.wav);
    - `tables`, such as {"train": "train.tsv", "test": "eval.tsv"}: tables in `source_dir`, each one split.

    Paths of files are relative to `sounds_dir` in `source_dir`. A file that a table names without an event
    (empty cells, as DCASE writes it) has none of them. With `negatives` so have the sound files below
    `sounds_dir` that no table names; without it they are left out, and told. `weak` has tables by split
    with columns `file` and `labels` (several by `;`) of files of which it is known what is heard and not
    when: their frames teach nothing. Without `tables` a fifth of the files is held out as `test`, by a hash
    of their stems. Labels are in the order of `label_names` (names, or a file of them), else alphabetical.
    Raises InputError for anything that does not fit.
    """
    source = Path(source_dir)
    if not source.exists():
        raise InputError(f"no file or directory {source}")
    root = source if source.is_dir() else source.parent
    sounds = root / sounds_dir
    if tables:
        strong = {split: _read(root / table) for split, table in tables.items()}
    elif source.is_dir():
        strong = {"": _beside(sounds)}
    else:
        strong = {"": _read(source)}
    if not tables:
        strong = _held_out(strong[""])
    vague = {split: _weak(root / table) for split, table in (weak or {}).items()}
    left_out, unknown = [], _unnamed(sounds, [*strong.values(), *vague.values()])
    if negatives:
        first = next(iter(strong))
        strong[first] |= {name: [] for name in unknown}
    else:
        left_out = [(os.fspath(sounds / name), "no table", "named by no table of events") for name in unknown]
    named = {event.label for files in strong.values() for events in files.values() for event in events}
    named |= {label for files in vague.values() for labels in files.values() for label in labels}
    names = sorted(named) if label_names is None else read_label_names(label_names, root)
    if strange := sorted(named - set(names)):
        raise InputError(f"{source}: label {', '.join(strange)} is not among the {len(names)} names given")
    return _listing(sounds, names, strong, vague, left_out)


def _listing(sounds: Path, names: list[str], strong: dict, vague: dict, left_out: list) -> Listing:
    index_of = {name: index for index, name in enumerate(names)}
    files = [name for part in (*strong.values(), *vague.values()) for name in part]
    paths = {name: os.path.normpath(sounds / name) for name in files}
    ids = dict(zip(paths, short_ids(list(paths.values()), sounds), strict=True))
    splits: dict[str, list[Clip]] = defaultdict(list)
    events: dict[str, list[tuple[float, float, int]]] = {}
    for split, part in strong.items():
        for name, own in part.items():
            events[ids[name]] = [(e.onset_s, e.offset_s, index_of[e.label]) for e in own]
            labels = tuple(sorted({index_of[e.label] for e in own}))
            splits[split].append(Clip(ids[name], paths[name], labels))
    for split, rows in vague.items():
        for name, said in rows.items():
            splits[split].append(
                Clip(ids[name], paths[name], tuple(sorted(index_of[label] for label in said)))
            )
    silent = sum(not own for own in events.values())
    told = [f"{len(events)} files with events, {silent} of them with none"]
    told += [f"{sum(map(len, vague.values()))} files of which it is not known when"] * bool(vague)
    told += [f"{len(left_out)} sound files are in no table: left out"] * bool(left_out)
    return Listing("events", names, True, splits, {"told": told}, left_out, events)


def _read(path: Path) -> dict[str, list[Event]]:
    """{file: its events}; a row with empty cells is a file without any."""
    found: dict[str, list[Event]] = {}
    for event in read_events(path, empty=True):
        if not event.file:
            raise InputError(f"{path} does not say which file an event is in: give it a column file")
        own = found.setdefault(event.file, [])
        if event.label:
            own.append(event)
    return found


def _beside(sounds: Path) -> dict[str, list[Event]]:
    """Of each sound that has a table of its own name."""
    found: dict[str, list[Event]] = {}
    listed = scan(sounds)
    tables = {path: Path(path) for path in listed.others if path.lower().endswith(TABLE_SUFFIXES)}
    for sound in listed.sounds:
        stem = os.path.splitext(sound)[0]
        fits = [path for name, path in tables.items() if name.split(stem)[0] == "" and _of(name, stem)]
        if len(fits) > 1:
            raise InputError(f"{sound} has several tables: {', '.join(sorted(p.name for p in fits))}")
        if fits:
            name = os.path.relpath(sound, sounds)
            found[name] = [event._replace(file=name) for event in read_events(fits[0], name)]
    if not found:
        raise InputError(
            f"{sounds}: no sound has a table of events beside it (x.wav and x.txt): give a table, or tables"
        )
    return found


def _of(table: str, stem: str) -> bool:
    return table[len(stem) :].lower().count(".") <= 3 and table[len(stem) : len(stem) + 1] == "."


def _weak(path: Path) -> dict[str, tuple[str, ...]]:
    from ast_jax.text_tables import labels_in

    return {row["file"]: labels_in(row, "labels") for row in read_table(path, ("file", "labels"))}


def _held_out(files: dict[str, list[Event]]) -> dict[str, dict[str, list[Event]]]:
    names = list(files)
    test = held_out([Path(name).stem for name in names], [0] * len(names))
    pairs = list(zip(names, test, strict=True))
    return {
        "train": {name: files[name] for name, out in pairs if not out},
        "test": {name: files[name] for name, out in pairs if out},
    }


def _unnamed(sounds: Path, parts: list) -> list[str]:
    named = {os.path.normpath(name) for part in parts for name in part}
    below = (os.path.relpath(path, sounds) for path in scan(sounds).sounds) if sounds.is_dir() else ()
    return [name for name in below if os.path.normpath(name) not in named]
