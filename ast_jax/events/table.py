"""Tables of events in the forms of the programs that people annotate with.

- `tsv` and `csv`: columns file, onset, offset, label and score; read with DCASE's names of them (filename,
  event_label), AudioSet's (segment_id, start_time_seconds, end_time_seconds; its rows without a header too)
  and BirdNET-Analyzer's. A file without events is a row of its name and empty cells, as DCASE has it;
- `audacity`: a label track, onset, offset and label by tabs, of one file
  (https://manual.audacityteam.org/man/importing_and_exporting_labels.html). Lines that begin with a backslash
  hold frequencies and are passed over; labels of length 0, which mark a moment, are left out and told;
- `raven`: a selection table of Raven Pro ("Begin Time (s)", "End Time (s)", ...), of one file
  (https://ravensoundsoftware.com/wp-content/uploads/2017/11/Raven14UsersManual.pdf). Those of several files
  are read: their onsets are "File Offset (s)", as "Begin Time (s)" counts from the first file's beginning. A
  selection that is listed in several views is one;
- `json`: a list of objects; of a file without events, one with its name and nulls;
- RTTM ("SPEAKER file channel onset duration <NA> <NA> label ...") is read only.
"""

import csv
import io
import json
import math
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ast_jax.errors import InputError, printable
from ast_jax.text_tables import Row, composed, read_table, read_text


class Event(NamedTuple):
    """A sound of one label, in seconds of its file; `score` is None where nobody gives one."""

    file: str
    onset_s: float
    offset_s: float
    label: str
    score: float | None = None


# What a column is called where.
_NAMES = {
    "file": ("file", "filename", "segment_id", "begin file", "begin path"),
    "onset": ("onset", "start_time_seconds", "begin time (s)", "start_s", "start (s)"),
    "offset": ("offset", "end_time_seconds", "end time (s)", "end_s", "end (s)"),
    "label": ("label", "event_label", "annotation", "species", "common name"),
    "score": ("score", "confidence"),
}
_COLUMNS = ("file", "onset", "offset", "label", "score")
# Raven draws a box: from 0 to what 16 kHz hold.
_BAND = ("0.0", "8000.0")
_RAVEN = ("Selection", "View", "Channel", "Begin Time (s)", "End Time (s)", "Low Freq (Hz)", "High Freq (Hz)")
# How tables end, and what programs put between a sound's name and that.
SUFFIXES = (".tsv", ".csv", ".txt", ".rttm", ".json")
_ADDED = re.compile(r"((\.Table\.\d+)?\.selections|\.BirdNET\.(selection\.table|results))?\.\w+$")


def read_events(path: Path, file: str = "", *, label_column: str = "") -> list[Event]:
    """The events of a table, in its order; of a directory, those of every table in it. `file` is whose they
    are where the table does not say; in a directory it is the table's own name. `label_column` has the labels
    where that is none of the usual ones.

    Raises InputError, with the number of the line: a form that is none of those, times that are no numbers,
    an event that ends before it begins, no label; for a directory without tables or with two of one file.
    """
    return [event for event in _rows(path, file, label_column) if event.label]


def read_files(path: Path, file: str = "", *, label_column: str = "") -> dict[str, list[Event]]:
    """{file: its events} of every file that a table or a directory of tables names, without events or with.
    Raises InputError as `read_events` does.
    """
    found: dict[str, list[Event]] = {}
    for event in _rows(path, file, label_column):
        own = found.setdefault(event.file, [])
        if event.label:
            own.append(event)
    return found


def rows_of(file: str, events: list[Event]) -> list[Event]:
    """What a table says of a file: its events; where there are none, a row of no label."""
    return events or [Event(file, 0.0, 0.0, "")]


def write_events(events: Iterable[Event], form: str) -> str:
    """The text of a table of events; of `audacity` and `raven`, those of one file."""
    return "".join([header(form), *(line(event, form, i) for i, event in enumerate(events, 1)), footer(form)])


def header(form: str) -> str:
    """What comes before the first event."""
    if form in ("tsv", "csv"):
        return _joined(_COLUMNS, "\t" if form == "tsv" else ",")
    if form == "raven":
        return _joined((*_RAVEN, "Begin File", "Label", "Score"), "\t")
    return "[" if form == "json" else ""


def line(event: Event, form: str, number: int) -> str:
    """An event, the `number`-th of its table from 1 on; of no label, a file without any (`rows_of`)."""
    file, label = printable(event.file), " ".join(event.label.split())
    times = [f"{event.onset_s:.3f}", f"{event.offset_s:.3f}"] if label else ["", ""]
    score = "" if event.score is None else f"{event.score:.4f}"
    if form in ("audacity", "raven") and not label:
        return ""
    if form == "audacity":
        return _joined([*times, label], "\t", quoted=False)
    if form == "raven":
        channel_and_band = ["Spectrogram 1", "1", *times, *_BAND]
        return _joined([str(number), *channel_and_band, Path(file).name, label, score], "\t")
    if form == "json":
        told: dict[str, Any] = {"file": file, "onset_s": None, "offset_s": None, "label": None}
        if label:
            seconds = (round(event.onset_s, 3), round(event.offset_s, 3))
            told |= dict(zip(("onset_s", "offset_s", "label"), (*seconds, event.label), strict=True))
        told |= {} if event.score is None else {"score": round(event.score, 4)}
        return f"{',' if number > 1 else ''}\n {json.dumps(told, ensure_ascii=False)}"
    return _joined([file, *times, label, score], "\t" if form == "tsv" else ",")


def footer(form: str) -> str:
    """What comes after the last event."""
    return "\n]\n" if form == "json" else ""


# The forms that are written, and how a file of each is called.
FORMS = {"tsv": ".tsv", "csv": ".csv", "json": ".json", "audacity": ".txt", "raven": ".selections.txt"}


def told_apart(ways: Iterable[Sequence[str]]) -> list[str]:
    """What the tables of several files are called: in the first of these ways to name files that tells all
    of them apart, else in the last one, numbered.
    """
    names: list[str] = []
    for way in ways:
        # a whole name may be longer, with the ending, than the disk allows
        names = ["/".join(printable(part)[:100] for part in Path(name).parts) for name in way]
        if len(set(names)) == len(names):
            return names
    return [f"{number:06d}-{name}" for number, name in enumerate(names)]


def _joined(cells: Sequence[str], delimiter: str, quoted: bool = True) -> str:
    if not quoted:
        return delimiter.join(cells) + "\n"
    text = io.StringIO()
    csv.writer(text, delimiter=delimiter, lineterminator="\n").writerow(cells)
    return text.getvalue()


def _rows(path: Path, file: str, label_column: str) -> list[Event]:
    """Of a table, or of every table in a directory."""
    if not path.is_dir():
        return _of_table(path, file, label_column)
    tables = [p for p in sorted(path.rglob("*")) if p.suffix.lower() in SUFFIXES and p.name[0] != "."]
    if not tables:
        raise InputError(f"{path} has no tables of events ({', '.join(SUFFIXES)})")
    rows: list[Event] = []
    table_of: dict[str, Path] = {}
    for table in tables:
        beside = table.parent.relative_to(path)
        own = _ADDED.sub("", table.name)
        # Raven's tables name their file without its directory
        told = [e._replace(file=str(beside / e.file)) for e in _of_table(table, own, label_column)]
        for name in {str(beside / own), *(event.file for event in told)}:
            if (other := table_of.setdefault(name, table)) != table:
                raise InputError(f"{other} and {table} are both tables of {name}: which is meant?")
        rows += told
    return rows


def _of_table(path: Path, file: str, label_column: str) -> list[Event]:
    text, suffix = read_text(path), path.suffix.lower()
    if suffix == ".json":
        return _from_json(text, path, file, label_column or "label")
    lines = [(number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    lines = [(number, line) for number, line in lines if not line.startswith("\\")]
    if not lines and suffix not in (".txt", ".rttm"):
        raise InputError(f"{path} has no events, and no line that names columns")
    begins = lines[0][1] if lines else ""
    delimiter = "\t" if "\t" in begins else ","
    first = [cell.strip().strip('"').lower() for cell in begins.split(delimiter)]
    numbers = [_number(cell) is not None for cell in first]
    # AudioSet's rows without the header
    names = ["file", "onset", "offset", "label"] if numbers == [False, True, True, False] else first
    bare = names != first or numbers[0] or not lines or begins.startswith("SPEAKER ")
    if bare and label_column:
        raise InputError(f"{path} does not name its columns: there is no {label_column}")
    if not lines:
        return rows_of(file, [])
    if begins.startswith("SPEAKER "):
        return [_from_rttm(line, f"{path}, line {number}") for number, line in lines]
    if numbers[0]:
        return _from_audacity(lines, path, file)
    wanted = _NAMES | ({"label": (label_column.lower(),)} if label_column else {})
    known = {key: next((name for name in of if name in names), None) for key, of in wanted.items()}
    if lacking := [wanted[key][0] for key in ("onset", "offset", "label") if known[key] is None]:
        raise InputError(
            f"{path} needs the column {', '.join(lacking)}: its columns are {', '.join(first)} (or give an "
            "Audacity label track, a Raven selection table, or RTTM)"
        )
    if len(lines) == 1 and not bare:
        # tables of Raven's kind are of one file
        return rows_of(file, []) if known["file"] in (None, "begin file", "begin path") else []
    rows = read_table(path, (), header=names if bare else None, delimiter=delimiter)
    rows = [Row({name.lower(): cell for name, cell in row.items()}, row.where) for row in rows]
    paths, files = ({row.get(column) for row in rows} for column in ("begin path", "begin file"))
    if known["file"] == "begin file" and len(paths) > len(files):
        # of one name, in several directories
        known["file"] = "begin path"
    return [_from_row(row, known, file) for row in _once(rows, known)]


def _once(rows: Iterable[Row], known: Mapping[str, str | None]) -> Iterator[Row]:
    """Rows of one selection in several views of Raven are one."""
    views: dict[tuple[str, ...], str] = {}
    for row in rows:
        if "view" in row and "selection" in row:
            # numbers begin anew where tables were put together
            one = (row["selection"], *(row[name] for name in known.values() if name))
            if views.setdefault(one, row["view"]) != row["view"]:
                continue
        yield row


def _from_row(row: Row, known: Mapping[str, str | None], file: str) -> Event:
    cell: Callable[[str], str] = lambda key: row.get(known[key] or "", "")
    onset, offset, label = cell("onset"), cell("offset"), cell("label")
    # without events, as DCASE and as BirdNET-Analyzer say it
    if (cell("file") and not onset + offset + label) or row.get("species code") == "nocall":
        return Event(cell("file") or file, 0.0, 0.0, "")
    score = None
    if cell("score"):
        score = _number(cell("score"))
        if score is None:
            raise InputError(f"{row.where}: score {cell('score')!r}: wanted a number")
    if in_file := cell("file") and row.get("file offset (s)", ""):
        starts, ends, begins = map(_number, (onset, offset, in_file))
        if begins is None:
            raise InputError(f"{row.where}: File Offset (s) {in_file!r}: wanted a number")
        if starts is not None and ends is not None:
            onset, offset = in_file, repr(round(begins + ends - starts, 6))
    return _checked(cell("file") or file, onset, offset, label, row.where, score)


def _from_audacity(lines: Sequence[tuple[int, str]], path: Path, file: str) -> list[Event]:
    events, moments = [], []
    for number, line in lines:
        onset, offset, label, *_ = [*line.split("\t"), "", ""]
        if "\t" not in line:
            raise InputError(f"{path}, line {number}: wanted onset, offset and label by tabs")
        if _number(onset) is not None and _number(onset) == _number(offset):
            moments.append(number)
        else:
            events.append(_checked(file, onset, offset, label, f"{path}, line {number}"))
    if moments:
        told = f"{len(moments)} labels of length 0 are left out, the first in line {moments[0]}"
        print(f"{path}: {told}: they mark moments, not events", file=sys.stderr)
    return rows_of(file, events)


def _from_rttm(line: str, where: str) -> Event:
    cells = line.split()
    duration, onset = (_number(cells[i]) if len(cells) > 7 else None for i in (4, 3))
    if onset is None or duration is None:
        raise InputError(f"{where}: wanted SPEAKER file channel onset duration <NA> <NA> label")
    return _checked(cells[1], cells[3], repr(onset + duration), cells[7], where)


def _from_json(text: str, path: Path, file: str, label_column: str) -> list[Event]:
    try:
        rows: Any = json.loads(text)
    except ValueError as error:
        raise InputError(f"{path} is no JSON: {error}") from None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise InputError(f"{path}: wanted a list of objects with onset_s, offset_s and {label_column}")
    found = []
    for number, row in enumerate(rows, 1):
        of, label = str(row.get("file") or file), str(row.get(label_column) or "")
        onset, offset = row.get("onset_s"), row.get("offset_s")
        if row.get("file") and onset is None and offset is None and not label:
            found += rows_of(of, [])
            continue
        where = f"{path}, event {number}"
        found.append(_checked(of, repr(onset), repr(offset), label, where, row.get("score")))
    return found


def _checked(file: str, onset: str, offset: str, label: str, where: str, score: float | None = None) -> Event:
    starts, ends = _number(onset), _number(offset)
    if starts is None or ends is None or starts < 0 or ends <= starts:
        raise InputError(f"{where}: {onset} to {offset}: wanted seconds, the end after the beginning")
    if not label.strip():
        raise InputError(f"{where}: an event without a label")
    return Event(file, starts, ends, composed(label.strip()), score)


def _number(text: str) -> float | None:
    if not re.fullmatch(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*", text, re.ASCII):
        return None
    return value if math.isfinite(value := float(text)) else None
