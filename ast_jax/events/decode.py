"""From scores of steps of time to events, while they come: the median of neighbouring steps, two thresholds,
gaps closed, what is too short left out.

n steps of a piece, C classes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float

from ast_jax.errors import InputError
from ast_jax.events.table import Event


@dataclass(frozen=True)
class Rules:
    """When scores are an event.

    A stretch of steps at or above `low` times the class's threshold is one if it reaches the threshold itself
    at least once (hysteresis). Before that, each score is the median of `median_s` seconds around it; after
    it, stretches less than `min_gap_s` apart are joined, and shorter ones than `min_duration_s` left out.
    """

    median_s: float = 0.0
    low: float = 0.6
    min_duration_s: float = 0.0
    min_gap_s: float = 0.0

    def __post_init__(self):
        if not 0 < self.low <= 1:
            raise InputError(f"low is {self.low:g}: wanted above 0 and at most 1")
        if min(self.median_s, self.min_duration_s, self.min_gap_s) < 0:
            raise InputError("seconds of an event's rules are below 0: wanted 0 or more")


# Of whoever asks for no others.
SIMPLE = Rules(min_gap_s=0.2)


@dataclass
class Stretch:
    """Steps [start, end) of one class, their highest score."""

    label: int
    start: int
    end: int
    score: float

    def event(
        self, file: str, names: Sequence[str], *, first_s: float, step_s: float, steps: int, ends_s: float
    ) -> Event | None:
        """The event that it is in a sound of `ends_s`, whose steps begin from `first_s` on, `step_s` apart:
        what begins with the first step begins with the sound, and what lasts for all its `steps` ends with
        it. None for one that would lie behind the end.
        """
        onset_s = first_s + self.start * step_s if self.start else 0.0
        offset_s = ends_s if self.end == steps else min(first_s + self.end * step_s, ends_s)
        return Event(file, onset_s, offset_s, names[self.label], self.score) if offset_s > onset_s else None


@dataclass
class _Run:
    """A class's stretch above the low threshold that has not ended, and the one before it, which may yet be
    joined.
    """

    start: int = -1
    score: float = 0.0
    kept: Stretch | None = field(default=None)


class Decoder:
    """Events of a sound whose scores come in pieces; each is given back as soon as nothing can change it."""

    def __init__(self, rules: Rules, thresholds: Float[np.ndarray, " C"], step_s: float):
        """`thresholds`: one a class; `step_s`: seconds from one step to the next."""
        self._high = np.asarray(thresholds, np.float64)
        self._low = rules.low * self._high
        # an odd number of steps
        self._reach = round(rules.median_s / step_s) // 2
        self._gap, self._least = (round(s / step_s, 6) for s in (rules.min_gap_s, rules.min_duration_s))
        self._held = np.zeros((0, self._high.size))
        # steps of `held` that have been judged and are there for the median of those that follow
        self._before, self._done = 0, 0
        self._runs = [_Run() for _ in range(self._high.size)]

    def push(self, scores: Float[np.ndarray, "n C"]) -> Iterator[Stretch]:
        """Takes the next steps; yields what has ended."""
        self._held = np.concatenate([self._held, np.asarray(scores, np.float64)])
        yield from self._judge(len(self._held) - self._reach)

    def end(self) -> Iterator[Stretch]:
        """The sound has ended: yields the rest."""
        yield from self._judge(len(self._held))
        for label, run in enumerate(self._runs):
            yield from self._close(label, run, self._done)
            if run.kept is not None:
                yield from self._released(run)

    def _judge(self, end: int) -> Iterator[Stretch]:
        """Judges the steps of `held` from `before` to `end`."""
        if end <= self._before:
            return
        smooth = self._held
        if self._reach:
            # what costs a quarter of a second comes when it is asked for
            from scipy.ndimage import median_filter

            smooth = median_filter(smooth, size=(2 * self._reach + 1, 1), mode="nearest")
        smooth = smooth[self._before : end]
        heard = smooth >= self._low
        # changes of each class, and where it stood before
        last = np.array([run.start >= 0 for run in self._runs])
        changed = np.diff(heard, axis=0, prepend=last[None])
        for label in np.flatnonzero(changed.any(axis=0) | last).tolist():
            yield from self._follow(label, smooth[:, label], np.flatnonzero(changed[:, label]).tolist())
        self._done += len(smooth)
        for run in self._runs:
            # what goes on, or begins from now on, began too far away
            begins = run.start if run.start >= 0 else self._done
            if run.kept is not None and begins - run.kept.end >= self._gap:
                yield from self._released(run)
        keep = max(0, end - self._reach)
        self._held, self._before = self._held[keep:], end - keep

    def _follow(self, label: int, smooth: np.ndarray, changes: list[int]) -> Iterator[Stretch]:
        run, position = self._runs[label], 0
        for change in [*changes, len(smooth)]:
            if run.start >= 0:
                run.score = max(run.score, float(smooth[position:change].max(initial=-np.inf)))
            if change == len(smooth):
                break
            if run.start >= 0:
                yield from self._close(label, run, self._done + change)
            else:
                run.start, run.score = self._done + change, -np.inf
            position = change

    def _close(self, label: int, run: _Run, end: int) -> Iterator[Stretch]:
        start, run.start = run.start, -1
        if start < 0 or run.score < self._high[label]:
            return
        if run.kept is not None and start - run.kept.end < self._gap:
            run.kept.end, run.kept.score = end, max(run.kept.score, run.score)
            return
        if run.kept is not None:
            yield from self._released(run)
        run.kept = Stretch(label, start, end, run.score)

    def _released(self, run: _Run) -> Iterator[Stretch]:
        kept, run.kept = run.kept, None
        if kept is not None and kept.end - kept.start >= self._least:
            yield kept
