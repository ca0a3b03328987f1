"""What people see while they wait, and files that are written whole or not at all.

Progress and words go to stderr; stdout is for answers alone. Where stderr is no terminal there is no bar,
only lines.
"""

import contextlib
import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any


class Bar:
    """The one progress bar: one or more tasks on stderr, each with a share, figures of its own and the time
    left.
    """

    def __init__(self, *, transient: bool = False, shown: bool = True):
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

        console = Console(stderr=True)
        # Asked of stderr itself: rich would take FORCE_COLOR's word for it, and notebooks get lines.
        self.terminal = shown and sys.stderr.isatty() and not console.is_dumb_terminal
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[figures]}"),
            TimeRemainingColumn(),
        )
        # Rich would take stdout over and print what it finds there to stderr: an answer would be lost.
        self._progress = Progress(
            *columns,
            console=console,
            transient=transient,
            redirect_stdout=False,
            redirect_stderr=False,
            disable=not self.terminal,
        )

    def __enter__(self) -> "Bar":
        if self.terminal:
            self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        # What was never shown would leave an empty line.
        if self.terminal:
            self._progress.stop()

    def task(self, what: str, total: float | None, done: float = 0) -> "Task":
        return Task(
            self._progress, self._progress.add_task(what, total=total, completed=int(done), figures="")
        )

    def say(self, line: str) -> None:
        """A line on stderr, above the bar where there is one."""
        with self.aside():
            print(line, file=sys.stderr, flush=True)

    @contextlib.contextmanager
    def aside(self) -> Iterator[None]:
        """Takes the bar away while something is written, to stdout or stderr."""
        shown = self.terminal and self._progress.live.is_started
        if shown:
            self._progress.live.transient, before = True, self._progress.live.transient
            self._progress.stop()
        try:
            yield
        finally:
            if shown:
                self._progress.live.transient = before
                self._progress.start()


class Task:
    """A line of a bar."""

    def __init__(self, progress: Any, number: Any):
        self._progress, self._number = progress, number

    def advance(self, amount: float = 1) -> None:
        self._progress.advance(self._number, amount)

    def show(self, **fields: Any) -> None:
        """Any of `completed`, `description` and `figures`."""
        self._progress.update(self._number, **fields)

    def end(self) -> None:
        self._progress.remove_task(self._number)

    def watch(self, items: Iterable) -> Iterator:
        """Passes `items` on, one step each."""
        for item in items:
            yield item
            self.advance()


def duration(seconds: float) -> str:
    """4 s, 3 min 20 s, 2 h 5 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    return (
        f"{whole // 60} min {whole % 60} s" if whole < 3600 else f"{whole // 3600} h {whole % 3600 // 60} min"
    )


def markdown(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(map(str, line))} |\n" for line in lines)


def write_whole(path: Path, content: str | bytes) -> None:
    """Writes a file, all of it or nothing: whoever reads meanwhile finds the old one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """The same for a value without NaN, which JSON does not have."""
    write_whole(path, json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False) + "\n")
