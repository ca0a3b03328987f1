"""What a run says while it runs: metrics.jsonl, TensorBoard events, a progress bar or plain lines."""

import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ast_jax.evaluation import metrics
from ast_jax.terminal import Bar, duration
from ast_jax.training import hosts


def open_journal(workdir: Path, **options) -> "Journal | SilentJournal":
    """The journal of a run; that of the hosts that do not write says and keeps nothing."""
    return Journal(workdir, **options) if hosts.writes() else SilentJournal()


class Journal:
    """Writes each log point to metrics.jsonl and to TensorBoard, and shows progress on stderr.

    `offset` is the length of metrics.jsonl that a checkpoint vouches for: what a dead run wrote after it is
    cut off, so that a resumed run leaves neither gaps nor duplicates. Of several runs at once each has a
    `name` and a line of their common `bar`, which whoever made it shows.
    """

    def __init__(
        self,
        workdir: Path,
        *,
        offset: int = 0,
        first_step: int = 0,
        total_steps: int = 0,
        name: str = "",
        bar: Bar | None = None,
    ):
        from tensorboardX import SummaryWriter

        self._file = open(workdir / "metrics.jsonl", "ab")  # noqa: SIM115 (open for the run's whole life)
        # A file that was cut from outside is shorter than that: what is left of it stays, and nothing is made
        # up.
        self._file.truncate(min(offset, self._file.seek(0, os.SEEK_END)))
        self._file.seek(0, os.SEEK_END)
        self._events = SummaryWriter(str(workdir), purge_step=first_step or None)
        self._bar, self._own_bar = bar or Bar(), bar is None
        self._name = f"{name}: " if name else ""
        self._task = self._bar.task(f"{self._name}training", total_steps, first_step)
        if self._own_bar:
            self._bar.__enter__()

    @property
    def offset(self) -> int:
        return self._file.tell()

    def advance(self, step: int) -> None:
        self._task.show(completed=step)

    def write(self, row: dict[str, Any]) -> None:
        """One log point. A figure that is not a number (a metric without positives) is written as null: JSON
        has no NaN.
        """
        clean = metrics.for_json(row)
        self._file.write(json.dumps(clean).encode() + b"\n")
        self._file.flush()
        for key, value in clean.items():
            if isinstance(value, int | float) and key not in ("step", "kind"):
                self._events.add_scalar(f"{row['kind']}/{key}", value, row["step"])

    def show(self, row: dict[str, Any], *, total_steps: int, seconds_left: float | None = None) -> None:
        """The figures of a log point beside the bar, or as a line where there is no terminal."""
        if row["kind"] == "train":
            figures = f"loss {row['loss']:.4f}  {row['clips_per_s']:.1f} clips/s"
            self._task.show(description=f"{self._name}epoch {row['epoch']}", figures=figures)
            if not self._bar.terminal:
                # The first step is compiled: its speed says nothing of the others.
                left = ""
                if seconds_left is not None and row["step"] > 1:
                    left = f"  {duration(seconds_left)} left"
                self.say(f"step {row['step']}/{total_steps}  epoch {row['epoch']}  {figures}{left}")
        else:
            known = {name: metrics.METRICS[name] for name in metrics.HEADLINES if row.get(name) is not None}
            figures = "  ".join(
                [f"loss {row['loss']:.4f}", *(f"{m.word} {row[name]:.4f}" for name, m in known.items())]
            )
            there = f" ({row['coverage']:.1%} of {row['expected_examples']})" if "coverage" in row else ""
            self.say(f"epoch {row['epoch']} on {row['num_examples']} clips{there}: {figures}")
            self.beside("", row)

    def beside(self, what: str, figures: Mapping[str, Any]) -> None:
        """How far a figure lies from the published one, where there is one."""
        if "published" in figures:
            verdict = "inside" if figures["inside"] else "WARNING: outside"
            self.say(
                f"{what}  published {figures['published']:.4f}, difference {figures['difference']:+.4f}: "
                f"{verdict} the band"
            )

    def say(self, line: str) -> None:
        """A line on stderr, above the bar where there is one."""
        self._bar.say(f"{self._name}{line}")

    def watch(self, batches: Iterable, *, what: str, total: int) -> Iterator:
        """Passes `batches` on under a line of their own."""
        task = self._bar.task(f"{self._name}{what}", total)
        yield from task.watch(batches)
        task.end()

    def sync(self) -> None:
        """Makes sure that what a checkpoint is about to vouch for is on disk."""
        os.fsync(self._file.fileno())
        self._events.flush()

    def close(self) -> None:
        if self._own_bar:
            self._bar.__exit__()
        else:
            self._task.end()
        self._events.close()
        self._file.close()


class SilentJournal:
    """Says and keeps nothing: for hosts that do not write."""

    offset = 0

    def watch(self, batches: Iterable, **_) -> Iterator:
        return iter(batches)

    def _nothing(self, *_, **__) -> None:
        pass

    advance = write = show = say = beside = sync = close = _nothing


class Clock:
    """Splits the time between log points into waiting for data and everything else."""

    def __init__(self):
        self.restart()

    def restart(self) -> None:
        self._began, self._waited, self._steps = time.monotonic(), 0.0, 0

    def timed(self, batches: Iterable) -> Iterator:
        """Passes `batches` on and counts the time it waits for them."""
        iterator = iter(batches)
        while True:
            began = time.monotonic()
            batch = next(iterator, None)
            if batch is None:
                return
            self._waited += time.monotonic() - began
            self._steps += 1
            yield batch

    def figures(self, batch_size: int) -> dict[str, float]:
        """{step_s, clips_per_s, data_wait (share of the time)} since the last restart."""
        seconds = max(time.monotonic() - self._began, 1e-9)
        return {
            "step_s": seconds / max(self._steps, 1),
            "clips_per_s": batch_size * self._steps / seconds,
            "data_wait": self._waited / seconds,
        }
