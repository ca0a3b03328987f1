"""Your own sounds: a directory per class, a CSV table, or the AST reference's JSON file lists."""

import json
import os
import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ast_jax.datasets import audiofolder
from ast_jax.datasets.folds import folded, group_called, held_out
from ast_jax.datasets.listing import Clip, Listing, relative_to, source_root
from ast_jax.datasets.scanning import (
    is_array,
    is_audio,
    read_class_labels,
    read_label_names,
    scan,
    short_ids,
    subdirectories,
)
from ast_jax.errors import InputError, printable
from ast_jax.text_tables import Row, composed, labels_in, read_text

SPLIT_NAME = re.compile(
    r"train(ing)?|valid(ation)?|val|dev(elopment)?|test(ing)?|eval(uation)?|hold[ _-]?out|fold[ _-]?\d+"
)
LAYOUTS = ("class", "split/class")
# the split of clips of which nothing is known
UNLABELLED = "unlabelled"
Names = Sequence[str] | str | os.PathLike
# whether a file, by its name, is one of those that a set is made of
Wanted = Callable[[str | os.PathLike], bool]


class _Row(NamedTuple):
    path: str
    labels: tuple[str, ...]
    split: str | None
    # the table and its line
    where: str = ""
    # whose it is, where a table says
    group: str = ""


class _LeftOut(NamedTuple):
    """A file, directory or link that gives no clip."""

    path: str
    reason: str
    detail: str


def list_clips(
    source_dir: str | os.PathLike,
    *,
    tables: Mapping[str, str] | None = None,
    label_names: Names | None = None,
    class_labels: str | os.PathLike | None = None,
    multi_label: bool | None = None,
    layout: str | None = None,
    folds: int | None = None,
    group: str | None = None,
    unlabelled: str | os.PathLike | None = None,
    arrays: bool = False,
) -> Listing:
    """Reads one of these layouts:

    - DIR/class/files, or DIR/split/class/files where every directory in DIR is called train, validation,
      test, holdout, fold1 or the like (or is a number, and the same classes are in several of them); what may
      be read in two ways is refused until `layout` says 'class' or 'split/class';
    - a CSV table with the columns file, labels (several separated by `;`) and, if you like, split;
      `source_dir` is the table itself; file_name and label are other names for them, and .jsonl another form;
    - DIR/metadata.csv (or .jsonl), or DIR/split/metadata.csv, of that kind, as Hugging Face's audiofolder;
    - the reference's JSON, {"data": [{"wav": path, "labels": "mid,mid"}]}, with its class_labels_indices.csv
      beside it (or `class_labels`);
    - `tables`, such as {"train": "train.json", "test": "eval.json"}: CSV or JSON files in `source_dir`, each
      one split.

    File paths are relative to their table. The order of labels is that of `label_names` (names, or a file of
    them), else of labels.txt in the source directory, else of the class table, else alphabetical. Without
    splits a fifth of each class is held out as `test`, chosen by a hash of the file's stem; the rest is
    `train`. Where clips belong together (a speaker's, a site's, a day's), a column `group` of a table says
    so, or `group`, a regular expression of their paths, and all of one group are on one side. With `folds`
    the splits are fold1, fold2, ... of these. With `arrays` the files are features that exist already (.npy,
    .npz), as a model of the family ast_given takes. `multi_label` is true if any clip has other than one
    label, unless it is given.

    `unlabelled` is a directory of sounds, however deep, of which nothing is known: the split `unlabelled`,
    from which a teacher can teach. Files among them that are clips with labels are left out and told.

    Raises InputError for anything that does not fit.
    """
    source = Path(source_dir)
    if not source.exists():
        raise InputError(f"no file or directory {source}")
    root = source if source.is_dir() else source.parent
    classes = _class_table(root, class_labels)
    left_out: list[_LeftOut] = []
    wanted = is_array if arrays else is_audio
    if tables:
        rows = [
            row._replace(split=split)
            for split, table in tables.items()
            for row in _read(root / table, classes)
        ]
    elif source.is_dir() and not layout and (found := audiofolder.tables(source)):
        rows, left_out = _audiofolder(source, found, classes, wanted)
    elif source.is_dir():
        rows, left_out = _directories(source, layout, wanted)
    else:
        rows = _read(source, classes)
    _check_once(rows)
    drawn = rows[0].split is None
    rows, groups = _with_splits(rows, root, folds, group)
    names = _label_names(rows, root, label_names, classes)
    index_of = {name: i for i, name in enumerate(names)}
    splits: dict[str, list[Clip]] = {}
    for row, id in zip(rows, short_ids([row.path for row in rows], root), strict=True):
        if unknown := [label for label in row.labels if label not in index_of]:
            raise InputError(
                f"{row.path}: label {', '.join(unknown)} is not among the {len(names)} label names given"
            )
        labels = tuple(dict.fromkeys(index_of[label] for label in row.labels))
        splits.setdefault(row.split or "train", []).append(Clip(id, row.path, labels))
    if multi_label is None:
        multi_label = any(len(row.labels) != 1 for row in rows)
    told, known = _told(left_out) + _astride(rows, groups), None
    if unlabelled:
        if UNLABELLED in splits:
            raise InputError(f"{source} has a split {UNLABELLED} of its own: call it otherwise")
        bare, besides, more = _without_labels(Path(unlabelled), {row.path for row in rows})
        splits[UNLABELLED], known = bare, {clip.id: () for clip in bare}
        left_out, told = left_out + besides, told + more
    notes: dict[str, Any] = {"told": told} if told else {}
    if groups:
        base = source_root(source_dir)
        owned = zip(rows, groups, strict=True)
        notes["groups"] = {printable(relative_to(row.path, base)): whose for row, whose in owned}
    return Listing("folder", names, multi_label, splits, notes, [*left_out], known=known, drawn=drawn)


def _without_labels(directory: Path, labelled: set[str]) -> tuple[list[Clip], list[_LeftOut], list[str]]:
    """The clips of which nothing is known, what is none of them, and what to say of both."""
    if not directory.is_dir():
        raise InputError(f"unlabelled: no directory {directory}: give one that holds sounds")
    found, taken = scan(directory), {os.path.realpath(path) for path in labelled}
    paths = [path for path in found.sounds if os.path.realpath(path) not in taken]
    if not paths:
        raise InputError(f"unlabelled: no sounds in {directory} beside those that have labels")
    ids = [f"{UNLABELLED}/{id}" for id in short_ids(paths, directory)]
    clips = [Clip(id, path, ()) for id, path in zip(ids, paths, strict=True)]
    twice = sorted({*found.sounds} - {*paths})
    told = [f"{len(clips)} sounds of {printable(os.fspath(directory))} without labels, split {UNLABELLED}"]
    told += [f"{len(twice)} sounds of it left out, for they are clips with labels"] * bool(twice)
    return clips, [_LeftOut(path, "labelled", "a clip with labels by itself") for path in twice], told


def _directories(source: Path, layout: str | None, wanted: Wanted) -> tuple[list[_Row], list[_LeftOut]]:
    if layout not in (None, *LAYOUTS):
        raise InputError(f"layout {layout!r}: choose {' or '.join(LAYOUTS)}")
    folders = subdirectories(source)
    nested = (layout or _layout_of(source, folders, wanted)) == "split/class"
    groups = [(_split_called(name), name) for name in folders] if nested else [(None, ".")]
    classes = [
        (split, source / place / label) for split, place in groups for label in subdirectories(source / place)
    ]
    real = {directory: os.path.realpath(directory) for _, directory in classes}
    own = {real[directory] for _, directory in classes if not directory.is_symlink()}
    rows, left_out = [], []
    for place in {".", *(place for _, place in groups)}:
        left_out += _loose(source / place, wanted)
    for split, directory in classes:
        if directory.is_symlink() and real[directory] in own:
            left_out.append(
                _LeftOut(os.fspath(directory), "link", f"not followed: {real[directory]} is read by itself")
            )
            continue
        found = scan(directory, [path for path in real.values() if path != real[directory]], wanted)
        rows += [_Row(path, (composed(directory.name),), split) for path in found.sounds]
        left_out += [
            _LeftOut(path, "other file", f"{Path(path).suffix or 'no'} extension: not tried")
            for path in found.others
        ]
        left_out += [_LeftOut(*each) for each in found.unopened]
        if not found.sounds and not found.unopened:
            left_out.append(_LeftOut(os.fspath(directory), "empty", "a directory without sounds: no class"))
    rows, links = _without_links(rows)
    left_out += links
    if not rows:
        tables = ", ".join(sorted(p.name for p in source.iterdir() if p.suffix in (".csv", ".json")))
        hint = f"; to use a table, give its path ({tables} is there)" if tables else ""
        if any(wanted is is_audio and is_array(each.path) for each in left_out):
            hint = "; of features that exist already (.npy, .npz) say how they were made: docs/recipes.md"
        kind = "sound files" if wanted is is_audio else "files of features (.npy, .npz)"
        raise InputError(
            f"{source}: no {kind} in directories named after their classes "
            f"(DIR/class/file.{'wav' if wanted is is_audio else 'npy'}){hint}"
        )
    return rows, left_out


def _loose(directory: Path, wanted: Wanted) -> list[_LeftOut]:
    """Sounds that lie beside the directories of classes."""
    return [
        _LeftOut(os.fspath(path), "no class", "lies beside the directories of classes")
        for path in _entries(directory)
        if wanted(path) and path.is_file() and not path.name.startswith(".")
    ]


def _entries(directory: Path) -> list[Path]:
    """Of one that may not be opened none: `scan` tells that."""
    try:
        return sorted(directory.iterdir())
    except PermissionError:
        return []


def _without_links(rows: list[_Row]) -> tuple[list[_Row], list[_LeftOut]]:
    """Without links to files that are clips by themselves: they would be there twice, or in two classes."""
    links = {row.path for row in rows if os.path.islink(row.path)}
    if not links:
        return rows, []
    files = {os.path.realpath(row.path): row.path for row in rows if row.path not in links}
    twice = {path: files[real] for path in links if (real := os.path.realpath(path)) in files}
    left_out = [
        _LeftOut(path, "link", f"to {twice[path]}, which is a clip by itself") for path in sorted(twice)
    ]
    return [row for row in rows if row.path not in twice], left_out


def _told(left_out: Sequence[_LeftOut]) -> list[str]:
    """What nobody would expect among what was left out, a line each kind."""
    said = {
        "unreadable": "{} could not be opened",
        "link": "{} to what is read anyway: not followed",
        "no row": "{} without a row in the table beside the sounds",
        "no class": "{} beside the directories of classes, in none of them",
        "empty": "{} without sounds: no class",
    }
    things = {"no class": "sound", "no row": "sound", "link": "link"}
    lines = []
    for reason, sentence in said.items():
        if paths := [each.path for each in left_out if each.reason == reason]:
            thing = things.get(reason, "directory")
            several = {"directory": "directories"}.get(thing, f"{thing}s")
            count = f"{len(paths)} {thing if len(paths) == 1 else several}"
            lines.append(f"{sentence.format(count)}: {printable(paths[0])}" + ", ..." * (len(paths) > 1))
    return lines


def _check_once(rows: list[_Row]) -> None:
    """Raises InputError where tables list a file twice."""
    seen: dict[str, _Row] = {}
    for row in rows:
        if (other := seen.setdefault(row.path, row)) is not row:
            raise InputError(
                f"{row.where}: {row.path} is listed twice, first in {other.where}: keep one row a file, with "
                "all its labels, and in one split"
            )


def _split_called(directory: str) -> str:
    """A directory's name as a split's: a number is a fold."""
    return f"fold{directory}" if directory.isdigit() else re.sub(r"[ -]+", "_", directory)


def _layout_of(source: Path, folders: list[str], wanted: Wanted) -> str:
    """What the directories' names say. Raises InputError for what may be read in two ways."""
    inside = {name: subdirectories(source / name) for name in folders}
    flat = [name for name in folders if any(map(wanted, _entries(source / name)))]
    named = [name for name in folders if SPLIT_NAME.fullmatch(name.lower())]
    shared = {
        label for name in folders for label in inside[name] if sum(label in x for x in inside.values()) > 1
    }
    if folders and len(named) == len(folders):
        return "split/class"
    if folders and not flat and shared and all(name.isdigit() for name in folders):
        return "split/class"
    several = ", ".join(folders[:4]) + (", ..." if len(folders) > 4 else "")
    how = "say which with --config.dataset.options=\"{'layout': 'class'}\" or \"{'layout': 'split/class'}\""
    if any(inside[name] for name in named):
        others = ", ".join([name for name in folders if name not in named][:4])
        raise InputError(
            f"{source}: {', '.join(named)} may be a split and {others} is called like none: are the "
            f"directories splits or classes? rename it, or {how}"
        )
    if not flat and shared:
        raise InputError(
            f"{source}: {several} hold directories of the same names ({', '.join(sorted(shared)[:4])}): are "
            f"these the classes, or {several}? {how}"
        )
    if len(folders) == 1 and not flat and len(inside[folders[0]]) > 1:
        raise InputError(
            f"{source}: its one directory {folders[0]} would be the only class: give {source / folders[0]}, "
            f"whose directories are {', '.join(inside[folders[0]][:4])}, or {how}"
        )
    return "class"


Classes = tuple[list[str], dict[str, int]] | None


def _class_table(root: Path, path: str | os.PathLike | None) -> Classes:
    if path is not None:
        return read_class_labels(root / path)
    found = sorted(root.glob("*class_labels_indices.csv"))
    return read_class_labels(found[0]) if len(found) == 1 else None


def _read(table: Path, classes: Classes) -> list[_Row]:
    readers: dict[str, Callable] = {".csv": _read_csv, ".jsonl": _read_csv, ".json": _read_json}
    if table.suffix.lower() not in readers:
        raise InputError(
            f"{table}: a table of sound files is a .csv, a .json or a .jsonl file; "
            "or give a directory with one directory per class"
        )
    rows = readers[table.suffix.lower()](table, classes)
    if not rows:
        raise InputError(f"{table} lists no files")
    return rows


def _read_csv(table: Path, classes: Classes) -> list[_Row]:
    name_of = _mid_names(classes)
    rows = []
    for row in audiofolder.rows(table):
        if not row["file"]:
            raise InputError(f"{row.where}: no file")
        labels = tuple(name_of.get(label, label) for label in labels_in(row, "labels"))
        path = os.path.normpath(table.parent / row["file"])
        rows.append(_Row(path, labels, row.get("split") or None, row.where, row.get("group", "")))
    return rows


def _audiofolder(
    source: Path, tables: Sequence[Path], classes: Classes, wanted: Wanted
) -> tuple[list[_Row], list[_LeftOut]]:
    """The rows of the tables beside the sounds, and the sounds that none of them lists."""
    rows = [_in_split(row, table, source) for table in tables for row in _read(table, classes)]
    listed = {row.path for row in rows}
    return rows, [
        _LeftOut(path, "no row", f"is in no {tables[0].name}")
        for path in scan(source, wanted=wanted).sounds
        # as rows have it
        if os.path.normpath(path) not in listed
    ]


def _in_split(row: _Row, table: Path, source: Path) -> _Row:
    """With the split that its table's directory is called, or else its own below the source."""
    inside = Path(os.path.relpath(row.path, source)).parts
    called = table.parent.name if table.parent != source else inside[0] if len(inside) > 1 else ""
    if row.split or not SPLIT_NAME.fullmatch(called.lower()):
        return row
    return row._replace(split=_split_called(called))


def _read_json(table: Path, classes: Classes) -> list[_Row]:
    if classes is None:
        raise InputError(
            f"{table}: its labels need the class_labels_indices.csv that they index; "
            "put it beside, or give class_labels"
        )
    wanted = f'{table}: wanted {{"data": [{{"wav": path, "labels": "mid,mid"}}]}}'
    try:
        data = json.loads(read_text(table))["data"]
        entries = [(entry["wav"], entry["labels"]) for entry in data]
    except (ValueError, KeyError, TypeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{wanted}, got {type(error).__name__}: {error}") from None
    name_of = _mid_names(classes)
    rows = []
    for number, (wav, labels) in enumerate(entries, start=1):
        where = f"{table}, entry {number}"
        if not (isinstance(wav, str) and wav and isinstance(labels, str)):
            raise InputError(f"{wanted}, got wav {wav!r} and labels {labels!r} in entry {number}")
        mids = labels_in(Row({"labels": labels.strip()}, where), "labels", ",")
        path = os.path.normpath(table.parent / wav)
        rows.append(_Row(path, tuple(name_of.get(mid, mid) for mid in mids), None, where))
    return rows


def _mid_names(classes: Classes) -> dict[str, str]:
    """mid -> display name."""
    return {mid: classes[0][index] for mid, index in classes[1].items()} if classes else {}


def _with_splits(
    rows: list[_Row], root: Path, folds: int | None, group: str | None
) -> tuple[list[_Row], list[str]]:
    """The rows with the splits that they have or are given, and whose each is; nothing where nobody says."""
    without = [row for row in rows if row.split is None]
    if without and len(without) < len(rows):
        raise InputError(
            f"{without[0].path}: no split, while other files have one: give all of them a split or none"
        )
    if not without:
        if folds or group:
            given = ", ".join(sorted({str(row.split) for row in rows}))
            raise InputError(
                f"{root}: its splits are given ({given}), so there are no folds to make: leave folds and "
                "groups away, or the splits"
            )
        return rows, _groups(rows, root, None)
    groups = _groups(rows, root, group)
    if folds or groups:
        own = groups or [row.path for row in rows]
        # a fifth held out, as without groups, or of fewer than five groups one
        numbers = folded(own, [row.labels for row in rows], folds or min(5, max(2, len(set(own)))))
        names = [f"fold{n}" if folds else "test" if n == 1 else "train" for n in numbers]
        return [row._replace(split=name) for row, name in zip(rows, names, strict=True)], groups
    test = held_out([Path(row.path).stem for row in rows], [row.labels[:1] for row in rows])
    rows = [row._replace(split="test" if out else "train") for row, out in zip(rows, test, strict=True)]
    return rows, groups


def _groups(rows: list[_Row], root: Path, pattern: str | None) -> list[str]:
    """Whose each clip is; nothing where nobody says."""
    if pattern:
        return [group_called(os.path.relpath(row.path, root), pattern) for row in rows]
    named = [row.group for row in rows if row.group]
    if named and len(named) < len(rows):
        bare = next(row for row in rows if not row.group)
        raise InputError(f"{bare.where}: no group, while other files have one: give all of them one, or none")
    return named


# what numbers the pieces of one recording: rec1_0.wav, rec1_1.wav
PIECE = re.compile(r"[-_ ]\d+$")


def _astride(rows: list[_Row], groups: list[str]) -> list[str]:
    """What to say of groups with clips in several splits: of those that are named, or where none are, of
    names that look like pieces of recordings.
    """
    stems = [Path(row.path).stem for row in rows]
    named = groups or [PIECE.sub("", stem) for stem in stems]
    sides: dict[str, set[str | None]] = defaultdict(set)
    for name, row in zip(named, rows, strict=True):
        sides[name].add(row.split)
    both = sorted(name for name, splits in sides.items() if len(splits) > 1)
    if not both:
        return []
    listed = ", ".join(map(printable, both[:5])) + (", ..." if len(both) > 5 else "")
    if groups:
        return [
            f"{len(both)} groups have clips in several splits ({listed}): what is held out was heard before"
        ]
    # names of classes or of nothing, counted through, say nothing of recordings
    pieces = sum(name != stem for name, stem in zip(named, stems, strict=True))
    if pieces < len(rows) / 2 or len(sides) <= 2 * len({label for row in rows for label in row.labels}):
        return []
    return [
        f"names such as {listed} with a number behind stand in several splits: if they are pieces of one "
        r"recording, group='([^/]+)[-_ ]\d+\.' keeps them on one side"
    ]


def _label_names(rows: list[_Row], root: Path, given: Names | None, classes: Classes) -> list[str]:
    if given is None and (root / "labels.txt").is_file():
        given = "labels.txt"
    if given is not None:
        return read_label_names(given, root)
    if classes is not None:
        return classes[0]
    return sorted({label for row in rows for label in row.labels})
