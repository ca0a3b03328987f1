"""`predict --events`: not only what, but when; `score_events`: how well a table of events agrees with
another; `count_events`: what it comes to.
"""

import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Annotated, Any, Literal

from ast_jax.commands.cli import Flag
from ast_jax.errors import InputError
from ast_jax.events import Event, Rules, names_of_tables, read_events, table, write_events
from ast_jax.terminal import write_whole

# A file each: what a table of several would not say.
OF_ONE_FILE = ("audacity", "raven")


@dataclass(frozen=True)
class EventFlags:
    """When scores are events, and how these are told."""

    events: Annotated[bool, Flag("events with their beginning and end, in place of tags")] = False
    form: Annotated[
        Literal["tsv", "csv", "json", "audacity", "raven"], Flag("of events: how they are written")
    ] = "tsv"
    out: Annotated[
        Path | None,
        Flag(
            "of events: a file for them (audacity and raven: a directory); the same command again goes on "
            "where it was stopped"
        ),
    ] = None
    low: Annotated[
        float, Flag("of events: the share of a label's threshold above which one goes on", above=0, most=1)
    ] = 0.6
    median_s: Annotated[float, Flag("of events: each score is the median of so many seconds", least=0)] = 0.0
    min_duration_s: Annotated[float, Flag("of events: shorter ones are left out", least=0)] = 0.0
    min_gap_s: Annotated[float, Flag("of events: closer ones are joined", least=0)] = 0.2

    @property
    def rules(self) -> Rules:
        """What they say of scores."""
        return Rules(self.median_s, self.low, self.min_duration_s, self.min_gap_s)


TAGS = EventFlags()


def tell_events(
    files: Sequence[Path],
    models: Any,
    flags: EventFlags,
    *,
    thresholds: Sequence[float],
    window_s: float | None,
    hop_s: float | None,
    plot: Path | None = None,
) -> None:
    """Events of each file, to stdout or `flags.out`, and pictures of them to `plot`. Ends the program with
    status 1 if a file failed.
    """
    from ast_jax.inference.answers import plot_paths
    from ast_jax.inference.files import Failures, batch_size_for, durations_s
    from ast_jax.inference.frames import events_of, steps_of
    from ast_jax.terminal import Bar

    if flags.form in OF_ONE_FILE and flags.out is None and len(files) > 1:
        raise InputError(f"a table of {flags.form} is of one file: give --out=DIRECTORY for {len(files)}")
    steps = steps_of(models, window_s=window_s, hop_s=hop_s)
    if steps.note:
        print(steps.note, file=sys.stderr)
    said = {"rules": asdict(flags.rules), "thresholds": list(thresholds), "step_s": steps.step_s}
    said |= {"window_s": steps.grid.window_s, "hop": steps.grid.hop, "labels": list(models.label_names)}
    said |= {"models": [loaded.digest() for loaded in models.models]}
    with Progress.of(flags.out, said) as progress:
        left = [file for file in files if str(file) not in progress.done]
        if len(left) < len(files):
            print(f"{len(files) - len(left)} files were heard before; {len(left)} are left", file=sys.stderr)
        durations = durations_s(left, steps.grid.front_end)
        failures = Failures(len(files), "heard")
        with Bar(transient=True) as bar:
            advance, size = (
                bar.task("listening", sum(durations)).advance,
                batch_size_for(durations, steps.grid),
            )
            found = events_of(left, models, steps, flags.rules, thresholds, batch_size=size, advance=advance)
            heard = failures.reported((heard for heard, _ in found), bar)
            # what was heard keeps its events
            told = ((one, one.answers.events) for one in heard)
            pairs = _drawn(told, plot_paths(plot, left), steps.grid)
            if flags.out is None:
                with bar.aside():
                    _print((event for _, events in pairs for event in events), flags.form)
            else:
                for one, events in pairs:
                    progress.add(str(one.file), events)
        if flags.out is not None:
            progress.write(flags.out, flags.form)
    failures.exit_if_any()


def listen_for_events(
    blocks: Iterable,
    models: Any,
    flags: EventFlags,
    *,
    thresholds: Sequence[float],
    window_s: float | None,
    hop_s: float | None,
) -> None:
    """Events of a live sound, each told as soon as it has ended and nothing can change it any more."""
    from ast_jax.inference.frames import live_events, steps_of

    if flags.out is not None:
        raise InputError("a live sound has no end: events go to stdout, without --out")
    steps = steps_of(models, window_s=window_s, hop_s=hop_s)
    late_s = steps.latency_s + flags.median_s / 2 + flags.min_gap_s
    print(
        *filter(None, [steps.note, f"an event is told {late_s:.1f} s after its end"]),
        sep="\n",
        file=sys.stderr,
    )
    _print(live_events(blocks, models, steps, flags.rules, thresholds), flags.form)


def _drawn(pairs: Iterable, paths: dict[str, Path], grid: Any) -> Iterator:
    """The same, each with its picture where one is wanted."""
    for heard, events in pairs:
        if paths:
            from ast_jax.inference.timeline import events_picture

            path = paths[str(heard.file)]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(events_picture(heard.file, events, grid))
        yield heard, events


def _print(events: Iterable[Event], form: str) -> None:
    """Each as soon as it is there."""
    print(table.header(form), end="", flush=True)
    for number, event in enumerate(events, 1):
        print(table.line(event, form, number), end="", flush=True)
    print(table.footer(form), end="", flush=True)


class Progress:
    """What was heard so far, a line a file beside the output: what was done is not done again."""

    def __init__(self, path: Path | None, said: dict[str, Any]):
        self.path, self.said = path, said
        self.done: dict[str, list[Event]] = {}
        self._file: IO[str] | None = None

    @classmethod
    def of(cls, out: Path | None, said: dict[str, Any]) -> "Progress":
        """That of an output; of none, nothing is kept."""
        return cls(None if out is None else out.with_name(f"{out.name}.part"), said)

    def __enter__(self) -> "Progress":
        if self.path is None:
            return self
        lines = self.path.read_bytes().split(b"\n")[:-1] if self.path.exists() else []
        told = json.dumps(self.said)
        if lines and lines[0].decode() != told:
            raise InputError(
                f"{self.path} is of another model or other settings: give another --out, or delete it"
            )
        for line in lines[1:]:
            row = json.loads(line)
            self.done[os.fsdecode(row["file"].encode("utf-8", "surrogatepass"))] = [
                Event(row["file"], *event) for event in row["events"]
            ]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # without the line that was being written when it was stopped
        write_whole(self.path, b"".join(line + b"\n" for line in lines or [told.encode()]))
        self._file = self.path.open("a", encoding="utf-8")
        return self

    def add(self, file: str, events: list[Event]) -> None:
        """A file is done."""
        self.done[file] = events
        assert self._file is not None
        self._file.write(json.dumps({"file": file, "events": [list(event[1:]) for event in events]}) + "\n")
        self._file.flush()

    def write(self, out: Path, form: str) -> None:
        """All of it, in the order of the files' names; what was kept on the way goes."""
        assert self.path is not None
        if form in OF_ONE_FILE:
            out.mkdir(parents=True, exist_ok=True)
            files = sorted(self.done)
            names = names_of_tables([Path(file).stem for file in files], form)
            for file, name in zip(files, names, strict=True):
                write_whole(out / name, write_events(self.done[file], form))
        else:
            every = (event for _, events in sorted(self.done.items()) for event in events)
            write_whole(out, write_events(every, form))
        self.path.unlink()
        print(out)

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()


def score_events(
    reference: Annotated[Path, Flag("a table of what is there")],
    estimated: Annotated[Path, Flag("a table of what was found")],
    *,
    collar_s: Annotated[float, Flag("how far a beginning or end may be off", least=0)] = 0.2,
    share: Annotated[float, Flag("the same for ends, as a share of the event's length", least=0)] = 0.2,
    segment_s: Annotated[float, Flag("length of a segment", above=0)] = 1.0,
    at: Annotated[
        list[Path] | None, Flag("what the same model found at another threshold; repeat it, for PSDS")
    ] = None,
    hours: Annotated[float | None, Flag("of sound that was listened to, for PSDS", above=0)] = None,
    json: Annotated[bool, Flag("an object, in place of a table")] = False,
) -> None:
    """Scores events against events: event-based F1 (beginnings and ends within a collar), the lenient one
    (half of both shared), and segment-based F1; of tables at several thresholds PSDS 1 and 2 as well.

      python -m ast_jax score_events REFERENCE.tsv FOUND.tsv
      python -m ast_jax score_events REFERENCE.tsv AT_0.5.tsv --at=AT_0.1.tsv --at=AT_0.9.tsv --hours=3

    Tables are CSV, TSV, JSON, Audacity label tracks, Raven selection tables or RTTM; files are compared by
    their names without directories.
    """
    from ast_jax.events import metrics
    from ast_jax.terminal import markdown

    if bool(at) != bool(hours):
        raise InputError("PSDS is of tables at several thresholds (--at) and of hours (--hours): give both")
    truth, found = (_by_name(read_events(path)) for path in (reference, estimated))
    ways = {
        f"events, {collar_s:g} s": metrics.event_based(truth, found, collar_s=collar_s, share=share),
        "events, half shared": metrics.overlap_based(truth, found),
        f"segments of {segment_s:g} s": metrics.segment_based(truth, found, segment_s=segment_s),
    }
    labels = sorted({event.label for event in truth + found})
    rows = [[label, *(scores.labels[label].f1 for scores in ways.values())] for label in labels]
    rows.append(["mean of labels", *(scores.macro_f1 for scores in ways.values())])
    rows.append(["all together", *(scores.micro.f1 for scores in ways.values())])
    curve: dict[str, float] = {}
    if at and hours:
        from ast_jax.events.psds import PSDS1, PSDS2, psds

        points = [found, *(_by_name(read_events(path)) for path in at)]
        scenarios = {"PSDS 1": PSDS1, "PSDS 2": PSDS2}
        curve = {name: psds(truth, points, hours=hours, scenario=way) for name, way in scenarios.items()}
    if json:
        from ast_jax.evaluation.metrics import for_json
        from ast_jax.inference.answers import json_line

        by_way = {way: {str(row[0]): for_json(row[i]) for row in rows} for i, way in enumerate(ways, 1)}
        print(json_line(by_way | curve))
        return
    shown = [[row[0], *("-" if value != value else f"{value:.3f}" for value in row[1:])] for row in rows]
    print(markdown(["F1", *ways], shown), end="")
    for name, value in curve.items():
        print(f"{name}: {value:.3f}   (of {len(at or ()) + 1} thresholds: the more, the finer)")


def count_events(
    table: Annotated[Path, Flag("a table of events, as `predict --events --out` writes it")],
    *,
    hours: Annotated[float | None, Flag("of sound that was listened to: events an hour too", above=0)] = None,
    calendar: Annotated[
        Path | None, Flag("a picture (PNG): events by day and hour, of files named by date", output=True)
    ] = None,
    json: Annotated[bool, Flag("an object, in place of a table")] = False,
) -> None:
    """Counts events: how many, how long and in how many files each label was heard; and when, where files are
    named by the moment they begin (SITE_YYYYMMDD_HHMMSS.wav).

      python -m ast_jax count_events found.tsv [--hours=48] [--calendar=when.png]
    """
    from ast_jax.events.summary import by_hour, totals
    from ast_jax.terminal import markdown

    events = read_events(table)
    counts, rows = by_hour(events), [row._asdict() for row in totals(events)]
    for row in rows:
        row["seconds"] = round(row["seconds"], 3)
        row |= {} if hours is None else {"an_hour": round(row["events"] / hours, 3)}
    if calendar is not None:
        if not counts:
            raise InputError(f"{table}: no file is named by its date (SITE_YYYYMMDD_HHMMSS.wav): no calendar")
        from ast_jax.inference.calendar import calendar as picture

        calendar.parent.mkdir(parents=True, exist_ok=True)
        calendar.write_bytes(picture(counts))
    if json:
        from ast_jax.inference.answers import json_line

        days = [
            {"label": label, "day": day, "hour": hour, "events": count}
            for (label, day, hour), count in sorted(counts.items())
        ]
        print(json_line({"labels": rows, "by_hour": days}))
        return
    print(markdown([name.replace("_", " ") for name in rows[0]], ([*row.values()] for row in rows)), end="")
    undated = len(events) - counts.total()
    if counts and undated:
        print(f"{undated} events are of files without a date in their names", file=sys.stderr)


def _by_name(events: list[Event]) -> list[Event]:
    return [event._replace(file=Path(event.file).stem) for event in events]
