"""`predict --events`: not only what, but when."""

import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Annotated, Any, Literal

from ast_jax.commands.cli import Flag
from ast_jax.errors import InputError
from ast_jax.events import FORMS, Event, Rules, table, write_events
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
    said |= {"models": [loaded.digest() for loaded in models.models], "channels": steps.grid.channels}
    with Progress.of(flags.out, said, files) as progress:
        left = [file for file in files if str(file) not in progress.done]
        if progress.changed:
            print(f"{progress.changed} files have changed since: they are heard again", file=sys.stderr)
        if progress.unnamed:
            print(
                f"{progress.unnamed} files that were heard before are not named now: left out",
                file=sys.stderr,
            )
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
            pairs = _drawn(told, plot_paths(plot, files), steps.grid)
            if flags.out is None:
                with bar.aside():
                    rows = (row for one, events in pairs for row in table.rows_of(str(one.file), events))
                    _print(rows, flags.form)
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
        *filter(None, [steps.note, f"an event is told up to {late_s:.1f} s after its end"]),
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
    """What was heard so far, a line a file beside the output: what was done is not done again, but for files
    that have another size or time since.
    """

    def __init__(self, path: Path | None, said: dict[str, Any], files: Sequence[Path]):
        from ast_jax.datasets.contents import look

        self.path, self.said = path, said
        self.done: dict[str, list[Event]] = {}
        self.changed = self.unnamed = 0
        self._stamps = {str(file): look(str(file)) for file in files} if path else {}
        self._file: IO[str] | None = None

    @classmethod
    def of(cls, out: Path | None, said: dict[str, Any], files: Sequence[Path]) -> "Progress":
        """That of an output; of none, nothing is kept."""
        return cls(None if out is None else out.with_name(f"{out.name}.part"), said, files)

    def __enter__(self) -> "Progress":
        if self.path is None:
            return self
        lines = self.path.read_bytes().split(b"\n")[:-1] if self.path.exists() else []
        told = json.dumps(self.said)
        if lines and lines[0].decode() != told:
            raise InputError(
                f"{self.path} is of another model or other settings: give another --out, or delete it"
            )
        # without the line that was being written when it was stopped
        kept = [told.encode()]
        for line in lines[1:]:
            row = json.loads(line)
            file = os.fsdecode(row["file"].encode("utf-8", "surrogatepass"))
            if file in self._stamps and self._stamps[file] != (row["stamp"] and tuple(row["stamp"])):
                self.changed += 1
                continue
            kept.append(line)
            if file not in self._stamps:
                self.unnamed += 1
                continue
            self.done[file] = [Event(row["file"], *event) for event in row["events"]]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(self.path, b"".join(line + b"\n" for line in kept))
        self._file = self.path.open("a", encoding="utf-8")
        return self

    def add(self, file: str, events: list[Event]) -> None:
        """A file is done."""
        self.done[file] = events
        assert self._file is not None
        row = {"file": file, "stamp": self._stamps[file], "events": [list(event[1:]) for event in events]}
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()

    def write(self, out: Path, form: str) -> None:
        """All of it, in the order of the files' names; what was kept on the way goes."""
        assert self.path is not None
        rows = {file: table.rows_of(file, events) for file, events in sorted(self.done.items())}
        if form in OF_ONE_FILE:
            out.mkdir(parents=True, exist_ok=True)
            for file, name in _table_names(rows).items():
                path = out / f"{name}{FORMS[form]}"
                path.parent.mkdir(parents=True, exist_ok=True)
                write_whole(path, write_events(rows[file], form))
        else:
            write_whole(out, write_events((row for own in rows.values() for row in own), form))
        self.path.unlink()
        silent = sum(not events for events in self.done.values())
        print(f"{len(rows)} files, {silent} of them without events", file=sys.stderr)
        print(out)

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()


def _table_names(files: Iterable[str]) -> dict[str, str]:
    """Of each file the name of its table, without an ending: that of the file; where several files are called
    so, with their directories; where these differ in their endings alone, with them.
    """
    paths = {file: Path(os.path.abspath(file)) for file in files}
    root = os.path.commonpath([path.parent for path in paths.values()]) if paths else ""
    ways = (lambda path: path.with_suffix("").name, lambda path: path.with_suffix(""), lambda path: path)
    names = ([str(way(path.relative_to(root))) for path in paths.values()] for way in ways)
    return dict(zip(paths, table.told_apart(names), strict=True))
