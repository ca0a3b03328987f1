"""Tables of events in the forms of the programs that people annotate with.

- `tsv` and `csv`: columns file, onset, offset, label and score; read with DCASE's names of them (filename,
  event_label) and AudioSet's (segment_id, start_time_seconds, end_time_seconds) too;
- `audacity`: a label track, onset, offset and label by tabs, of one file (Audacity's manual, "Importing and
  Exporting Labels"; lines that begin with a backslash hold frequencies and are passed over);
- `raven`: a selection table of Raven Pro ("Begin Time (s)", "End Time (s)", ...), of one file;
- `json`: a list of objects;
- RTTM ("SPEAKER file channel onset duration <NA> <NA> label ...") is read only.
"""

import csv
import io
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
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
    "file": ("file", "filename", "segment_id", "begin file"),
    "onset": ("onset", "start_time_seconds", "begin time (s)", "start_s"),
    "offset": ("offset", "end_time_seconds", "end time (s)", "end_s"),
    "label": ("label", "event_label", "annotation", "species"),
    "score": ("score", "confidence"),
}
_COLUMNS = ("file", "onset", "offset", "label", "score")
# Raven draws a box: from 0 to what 16 kHz hold.
_BAND = ("0.0", "8000.0")
_RAVEN = ("Selection", "View", "Channel", "Begin Time (s)", "End Time (s)", "Low Freq (Hz)", "High Freq (Hz)")


def read_events(path: Path, file: str = "", *, empty: bool = False) -> list[Event]:
    """The events of a table, in its order; `file` is whose they are where the table does not say. With
    `empty` a row that has a file and nothing else, as DCASE lists files without events, is one of no label.

    Raises InputError, with the number of the line: a form that is none of those, times that are no numbers,
    an event that ends before it begins, no label.
    """
    text = read_text(path)
    if path.suffix.lower() == ".json":
        return _from_json(text, path, file)
    lines = [(number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    lines = [(number, line) for number, line in lines if not line.startswith("\\")]
    if not lines:
        raise InputError(f"{path} has no events")
    if lines[0][1].startswith("SPEAKER "):
        return [_from_rttm(line, f"{path}, line {number}") for number, line in lines]
    delimiter = "\t" if "\t" in lines[0][1] else ","
    first = [cell.strip().strip('"').lower() for cell in lines[0][1].split(delimiter)]
    known = {key: next((n for n in names if n in first), None) for key, names in _NAMES.items()}
    if known["onset"] is None and _number(first[0]) is not None:
        return [_from_audacity(line, f"{path}, line {number}", file) for number, line in lines]
    wanted = [
        names[0] for key, names in _NAMES.items() if known[key] is None and key not in ("file", "score")
    ]
    if wanted:
        raise InputError(
            f"{path} needs the column {', '.join(wanted)}: its columns are {', '.join(first)} (or give an "
            "Audacity label track, a Raven selection table, or RTTM)"
        )
    rows = read_table(path, (), delimiter=delimiter)
    rows = [Row({name.lower(): cell for name, cell in row.items()}, row.where) for row in rows]
    nothing = [known[key] or "" for key in ("onset", "offset", "label")]
    return [
        Event(row.get(known["file"] or "", file), 0.0, 0.0, "")
        if empty and not any(row[name] for name in nothing)
        else _from_row(row, known, file)
        for row in rows
    ]


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
    """An event, the `number`-th of its table from 1 on."""
    file, label = printable(event.file), " ".join(event.label.split())
    times = [f"{event.onset_s:.3f}", f"{event.offset_s:.3f}"]
    score = "" if event.score is None else f"{event.score:.4f}"
    if form == "audacity":
        return _joined([*times, label], "\t", quoted=False)
    if form == "raven":
        channel_and_band = ["Spectrogram 1", "1", *times, *_BAND]
        return _joined([str(number), *channel_and_band, Path(file).name, label, score], "\t")
    if form == "json":
        told = {"file": file, "onset_s": round(event.onset_s, 3), "offset_s": round(event.offset_s, 3)}
        told |= {"label": event.label} | ({} if event.score is None else {"score": round(event.score, 4)})
        return f"{',' if number > 1 else ''}\n {json.dumps(told, ensure_ascii=False)}"
    return _joined([file, *times, label, score], "\t" if form == "tsv" else ",")


def footer(form: str) -> str:
    """What comes after the last event."""
    return "\n]\n" if form == "json" else ""


# The forms that are written, and how a file of each is called.
FORMS = {"tsv": ".tsv", "csv": ".csv", "json": ".json", "audacity": ".txt", "raven": ".selections.txt"}


def names_of_tables(names: Sequence[str], form: str) -> list[str]:
    """What the tables of several files are called: as these names, numbered where two are the same."""
    # with a whole one, a name may be longer than the disk allows
    names = [printable(name)[:100] for name in names]
    apart = len(set(names)) == len(names)
    return [f"{'' if apart else f'{number:06d}-'}{name}{FORMS[form]}" for number, name in enumerate(names)]


def _joined(cells: Sequence[str], delimiter: str, quoted: bool = True) -> str:
    if not quoted:
        return delimiter.join(cells) + "\n"
    text = io.StringIO()
    csv.writer(text, delimiter=delimiter, lineterminator="\n").writerow(cells)
    return text.getvalue()


def _from_row(row: Row, known: Mapping[str, str | None], file: str) -> Event:
    cell: Callable[[str], str] = lambda key: row.get(known[key] or "", "")
    score = None
    if cell("score"):
        score = _number(cell("score"))
        if score is None:
            raise InputError(f"{row.where}: score {cell('score')!r}: wanted a number")
    return _checked(cell("file") or file, cell("onset"), cell("offset"), cell("label"), row.where, score)


def _from_audacity(line: str, where: str, file: str) -> Event:
    cells = line.split("\t")
    if len(cells) < 2:
        raise InputError(f"{where}: wanted onset, offset and label by tabs")
    return _checked(file, cells[0], cells[1], cells[2] if len(cells) > 2 else "", where)


def _from_rttm(line: str, where: str) -> Event:
    cells = line.split()
    duration, onset = (_number(cells[i]) if len(cells) > 7 else None for i in (4, 3))
    if onset is None or duration is None:
        raise InputError(f"{where}: wanted SPEAKER file channel onset duration <NA> <NA> label")
    return _checked(cells[1], cells[3], repr(onset + duration), cells[7], where)


def _from_json(text: str, path: Path, file: str) -> list[Event]:
    try:
        rows: Any = json.loads(text)
    except ValueError as error:
        raise InputError(f"{path} is no JSON: {error}") from None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise InputError(f"{path}: wanted a list of objects with onset_s, offset_s and label")
    return [
        _checked(
            str(row.get("file", file)),
            repr(row.get("onset_s")),
            repr(row.get("offset_s")),
            str(row.get("label", "")),
            f"{path}, event {number}",
            row.get("score"),
        )
        for number, row in enumerate(rows, 1)
    ]


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
