"""`score_events`: how well a table of events agrees with another; `count_events`: what it comes to."""

import os
import re
import sys
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from ast_jax.commands.cli import Flag
from ast_jax.errors import InputError
from ast_jax.events import Event, read_files


def score_events(
    reference: Annotated[Path, Flag("a table of what is there, or a directory of tables")],
    estimated: Annotated[Path, Flag("a table of what was found, or a directory of tables")],
    *,
    collar_s: Annotated[float, Flag("how far a beginning or end may be off", least=0)] = 0.2,
    share: Annotated[float, Flag("the same for ends, as a share of the event's length", least=0)] = 0.2,
    segment_s: Annotated[float, Flag("length of a segment", above=0)] = 1.0,
    at: Annotated[
        list[Path] | None, Flag("what the same model found at another threshold; repeat it, for PSDS")
    ] = None,
    hours: Annotated[float | None, Flag("of sound that was listened to, for PSDS", above=0)] = None,
    label_column: Annotated[str, Flag("of the reference: its column of labels, if none of the usual")] = "",
    found_label_column: Annotated[str, Flag("the same of what was found")] = "",
    json: Annotated[bool, Flag("an object, in place of a table")] = False,
) -> None:
    """Scores events against events: event-based F1 (beginnings and ends within a collar), the lenient one
    (half of both shared), and segment-based F1; of tables at several thresholds PSDS 1 and 2 as well.

      python -m ast_jax score_events REFERENCE.tsv FOUND.tsv
      python -m ast_jax score_events REFERENCE.tsv AT_0.5.tsv --at=AT_0.1.tsv --at=AT_0.9.tsv --hours=3

    Tables are CSV, TSV, JSON, Audacity label tracks, Raven selection tables or RTTM. Files are compared by
    their names without directories or, where a table has several of one name, by the least of their
    directories that tells them apart.
    """
    from ast_jax.events import metrics
    from ast_jax.terminal import markdown

    if bool(at) != bool(hours):
        raise InputError("PSDS is of tables at several thresholds (--at) and of hours (--hours): give both")
    tables = [(reference, read_files(reference, label_column=label_column))]
    tables += [(path, read_files(path, label_column=found_label_column)) for path in (estimated, *(at or ()))]
    names = common_names(tables)
    truth, found, *others = (_renamed(files, own) for (_, files), own in zip(tables, names, strict=True))
    unnamed = {event.file for event in found} - set(names[0].values())
    if unnamed:
        print(
            f"{len(unnamed)} files with events in {estimated} are not named in {reference}, such as "
            f"{min(unnamed)}: what was found in them is counted as wrong",
            file=sys.stderr,
        )
    ways = metrics.three_ways(truth, found, collar_s=collar_s, share=share, segment_s=segment_s)
    f1 = {way: metrics.f1_of(scores) for way, scores in ways.items()}
    curve: dict[str, float] = {}
    if at and hours:
        from ast_jax.events.psds import SCENARIOS, psds

        points = [found, *others]
        curve = {name: psds(truth, points, hours=hours, scenario=way) for name, way in SCENARIOS.items()}
    if json:
        from ast_jax.evaluation.metrics import for_json
        from ast_jax.inference.answers import json_line

        print(json_line(for_json(f1) | curve))
        return
    print(markdown(["F1", *f1], metrics.rows_of(f1)), end="")
    for name, value in curve.items():
        print(f"{name}: {value:.3f}   (of {len(at or ()) + 1} thresholds: the more, the finer)")


def count_events(
    table: Annotated[Path, Flag("a table of events, as `predict --events --out` writes it, or a directory")],
    *,
    hours: Annotated[float | None, Flag("of sound that was listened to: events an hour too", above=0)] = None,
    sounds: Annotated[
        Path | None, Flag("the directory of sounds that the table names: hours by their headers")
    ] = None,
    calendar: Annotated[
        Path | None, Flag("a picture (PNG): events by day and hour, of files named by date", output=True)
    ] = None,
    label_column: Annotated[str, Flag("the column of labels, if none of the usual")] = "",
    json: Annotated[bool, Flag("an object, in place of a table")] = False,
) -> None:
    """Counts events: how many, how long and in how many files each label was heard; and when, where files are
    named by the moment they begin (SITE_YYYYMMDD_HHMMSS.wav).

      python -m ast_jax count_events found.tsv [--hours=48 | --sounds=DIRECTORY] [--calendar=when.png]

    With --sounds the calendar has in grey when nothing was recorded, and --json has the seconds of each hour.
    """
    from ast_jax.events.summary import Total, by_hour, recorded, totals
    from ast_jax.terminal import markdown

    if hours and sounds:
        raise InputError("--hours and --sounds both say how long was listened: give one")
    files = read_files(table, label_column=label_column)
    seconds = _seconds(files, table, sounds) if sounds else {}
    hours = sum(seconds.values()) / 3600 if sounds else hours
    heard = recorded(seconds)
    events = [event for own in files.values() for event in own]
    counts, rows = by_hour(events), [row._asdict() for row in totals(events)]
    for row in rows:
        row["seconds"] = round(row["seconds"], 3)
        row |= {"an_hour": round(row["events"] / hours, 3)} if hours else {}
    if calendar is not None:
        if not counts:
            raise InputError(f"{table}: no file is named by its date (SITE_YYYYMMDD_HHMMSS.wav): no calendar")
        from ast_jax.inference.calendar import calendar as picture

        calendar.parent.mkdir(parents=True, exist_ok=True)
        calendar.write_bytes(picture(counts, heard if sounds else None))
    silent = sum(not own for own in files.values())
    if json:
        from ast_jax.inference.answers import json_line

        days = [
            {"label": label, "day": day, "hour": hour, "events": count}
            for (label, day, hour), count in sorted(counts.items())
        ]
        told: dict[str, Any] = {"files": len(files), "files_without_events": silent}
        if sounds:
            told["hours"] = round(hours or 0, 6)
            told["recorded"] = [{"day": d, "hour": h, "seconds": round(s, 3)} for (d, h), s in heard.items()]
        print(json_line({"labels": rows, "by_hour": days} | told))
        return
    columns = [*Total._fields, *(["an hour"] if hours else [])]
    print(markdown(columns, ([*row.values()] for row in rows)), end="")
    lasting = f", {hours:.3g} hours" if sounds else ""
    print(f"{len(files)} files, {silent} of them without events{lasting}", file=sys.stderr)
    undated = len(events) - counts.total()
    if counts and undated:
        print(f"{undated} events are of files without a date in their names", file=sys.stderr)


def _seconds(files: Collection[str], table: Path, sounds: Path) -> dict[str, float]:
    """How long each file of a table is, by its header. Raises InputError for one that is not in `sounds`."""
    from ast_jax.inference.files import durations_s, sound_files

    paths = [str(path) for path in sound_files([sounds])]
    named, below = common_names([(table, files), (sounds, paths)])
    path_of = {name: path for path, name in below.items()}
    if lacking := [file for file, name in named.items() if name not in path_of]:
        raise InputError(
            f"{len(lacking)} files of {table} are not below {sounds}, such as {lacking[0]}: give another "
            "--sounds, or --hours"
        )
    if left := len(paths) - len(named):
        print(f"{left} sound files below {sounds} are not in {table}: not counted", file=sys.stderr)
    found = dict(zip(named, durations_s([Path(path_of[name]) for name in named.values()]), strict=True))
    if unopened := [file for file, lasting in found.items() if not lasting]:
        print(f"{len(unopened)} files cannot be opened, such as {unopened[0]}: 0 s", file=sys.stderr)
    return found


def common_names(tables: Sequence[tuple[Path, Collection[str]]]) -> list[dict[str, str]]:
    """Of tables and the files each of them names, {file: the name by which it is the same one in all}: the
    end of its path without the ending of a sound file, and with as many directories as tell files of one name
    apart in every table.

    Raises InputError where a name may be of several files, or a table does not say whose events it has and
    one of them is of several files.
    """
    if nameless := [path for path, files in tables if "" in files]:
        if several := [f"{path} is of {len(files)}" for path, files in tables if len(files) > 1]:
            raise InputError(
                f"{nameless[0]} does not say of which file its events are, and {several[0]}: give it a "
                "column file, or give directories of tables"
            )
        return [dict.fromkeys(files, "") for _, files in tables]
    alike: dict[str, list[_Named]] = defaultdict(list)
    for number, (_, files) in enumerate(tables):
        for file in files:
            parts = _parts(file)
            alike[parts[-1]].append(_Named(number, file, parts))
    names: list[dict[str, str]] = [{} for _ in tables]
    for those in alike.values():
        depth = _depth(those, [path for path, _ in tables])
        for one in those:
            names[one.table][one.file] = one.end(depth)
    return names


class _Named(NamedTuple):
    """A file of the `table`-th table, and the parts of its path without the ending."""

    table: int
    file: str
    parts: tuple[str, ...]

    def end(self, depth: int) -> str:
        return "/".join(self.parts[-depth:])


def _depth(those: Sequence[_Named], paths: Sequence[Path]) -> int:
    """How many parts of their paths tell files of one name apart. Raises InputError."""
    for depth in range(1, max(len(one.parts) for one in those) + 1):
        files = {(one.table, one.end(depth)): one for one in those}
        if len(files) == len(those):
            break
    else:
        one = next(one for one in those if files[one.table, one.end(depth)] != one)
        raise InputError(
            f"{paths[one.table]}: {one.file} and {files[one.table, one.end(depth)].file} differ in their "
            "endings alone: keep one of them"
        )
    # one without these directories is what it is called, if every other table calls it so
    for one in those:
        for other in {other.table for other in those} - {one.table} if len(one.parts) < depth else ():
            if (other, one.end(depth)) not in files:
                first, second, *_ = sorted(which.file for which in those if len(which.parts) >= depth)
                raise InputError(
                    f"{paths[one.table]}: {one.file} may be {first} or {second}: name it with its directory"
                )
    return depth


def _parts(file: str) -> tuple[str, ...]:
    """Of a path, of whatever system."""
    from ast_jax.datasets.scanning import is_array, is_audio

    bare = os.path.splitext(file)[0] if is_audio(file) or is_array(file) else file
    return tuple(part for part in re.split(r"[\\/]", bare) if part not in ("", ".")) or (file,)


def _renamed(files: Mapping[str, list[Event]], names: Mapping[str, str]) -> list[Event]:
    return [event._replace(file=names[file]) for file, events in files.items() for event in events]
