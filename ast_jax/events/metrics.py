"""How well events are found: segment by segment, and event by event (Mesaros, Heittola and Virtanen, "Metrics
for polyphonic sound event detection", 2016), as `sed_eval` counts them.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import maximum_bipartite_matching

from ast_jax.events.table import Event


@dataclass(frozen=True)
class Counts:
    """What was found of what is there: true positives, and how many events or segments each side has."""

    found: int
    reference: int
    estimated: int

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(
            self.found + other.found, self.reference + other.reference, self.estimated + other.estimated
        )

    @property
    def precision(self) -> float:
        """NaN where nothing was estimated."""
        return self.found / self.estimated if self.estimated else math.nan

    @property
    def recall(self) -> float:
        """NaN where nothing is there."""
        return self.found / self.reference if self.reference else math.nan

    @property
    def f1(self) -> float:
        """NaN where there is nothing on either side; 0, where sed_eval has NaN, if it is on one."""
        both = self.reference + self.estimated
        return 2 * self.found / both if both else math.nan


@dataclass(frozen=True)
class Scores:
    """Counts of each label; `micro` of all together, `macro` the mean of the labels' F1 that are there."""

    labels: Mapping[str, Counts]

    @property
    def micro(self) -> Counts:
        """Of all labels together."""
        return sum(self.labels.values(), Counts(0, 0, 0))

    @property
    def macro_f1(self) -> float:
        """The mean over labels with an event in the reference."""
        own = [counts.f1 for counts in self.labels.values() if counts.reference]
        return float(np.mean(own)) if own else math.nan


def event_based(
    reference: Sequence[Event],
    estimated: Sequence[Event],
    *,
    collar_s: float = 0.2,
    share: float = 0.2,
    onset_only: bool = False,
) -> Scores:
    """An event is found if one of its label and file begins within `collar_s` of its beginning and ends
    within `collar_s` or `share` of its length of its end; each counts once, by the largest possible matching.
    """
    counts: Tally = defaultdict(lambda: Counts(0, 0, 0))
    truth, found = by_file_and_label(reference), by_file_and_label(estimated)
    for key in truth.keys() | found.keys():
        own, theirs = truth.get(key, NONE), found.get(key, NONE)
        fits = np.abs(own[:, None, 0] - theirs[None, :, 0]) <= collar_s
        if not onset_only:
            slack = np.maximum(collar_s, share * (own[:, 1] - own[:, 0]))
            fits &= np.abs(own[:, None, 1] - theirs[None, :, 1]) <= slack[:, None]
        counts[key[1]] += Counts(_matched(fits), len(own), len(theirs))
    return Scores(dict(sorted(counts.items())))


def overlap_based(reference: Sequence[Event], estimated: Sequence[Event], *, share: float = 0.5) -> Scores:
    """A lenient form: an event is found if one of its label and file shares at least `share` of both together
    with it (intersection over union).
    """
    counts: Tally = defaultdict(lambda: Counts(0, 0, 0))
    truth, found = by_file_and_label(reference), by_file_and_label(estimated)
    for key in truth.keys() | found.keys():
        own, theirs = truth.get(key, NONE), found.get(key, NONE)
        starts = np.maximum(own[:, None, 0], theirs[None, :, 0])
        both = np.maximum(np.minimum(own[:, None, 1], theirs[None, :, 1]) - starts, 0)
        either = np.maximum(own[:, None, 1], theirs[None, :, 1]) - np.minimum(
            own[:, None, 0], theirs[None, :, 0]
        )
        counts[key[1]] += Counts(_matched(both >= share * either), len(own), len(theirs))
    return Scores(dict(sorted(counts.items())))


def segment_based(
    reference: Sequence[Event], estimated: Sequence[Event], *, segment_s: float = 1.0
) -> Scores:
    """Whether each label is there in each segment of `segment_s`, from each file's beginning; a segment that
    an event touches has its label.
    """
    counts: Tally = defaultdict(lambda: Counts(0, 0, 0))
    truth, found = by_file_and_label(reference), by_file_and_label(estimated)
    for key in truth.keys() | found.keys():
        own, theirs = (_segments(events.get(key, NONE), segment_s) for events in (truth, found))
        counts[key[1]] += Counts(len(own & theirs), len(own), len(theirs))
    return Scores(dict(sorted(counts.items())))


def three_ways(
    reference: Sequence[Event],
    estimated: Sequence[Event],
    *,
    collar_s: float = 0.2,
    share: float = 0.2,
    segment_s: float = 1.0,
) -> dict[str, Scores]:
    """All of these, by what they are called in tables."""
    return {
        f"events, {collar_s:g} s": event_based(reference, estimated, collar_s=collar_s, share=share),
        "events, half shared": overlap_based(reference, estimated),
        f"segments of {segment_s:g} s": segment_based(reference, estimated, segment_s=segment_s),
    }


def f1_of(scores: Scores) -> dict[str, float]:
    """F1 of each label, as `MEAN` of them, and of `ALL` together; NaN where nothing is there."""
    own = {label: counts.f1 for label, counts in scores.labels.items()}
    return own | {MEAN: scores.macro_f1, ALL: scores.micro.f1}


def rows_of(f1: Mapping[str, Mapping[str, float | None]]) -> list[list[str]]:
    """`f1_of` of each way as rows of a table: a label and its figures as text, the labels together last."""
    columns = list(f1.values())
    shown = lambda value: "-" if value is None or math.isnan(value) else f"{value:.3f}"
    return [[label, *(shown(column.get(label)) for column in columns)] for label in columns[0]]


MEAN, ALL = "mean of labels", "all together"
Tally = dict[str, Counts]
NONE = np.zeros((0, 2))


def by_file_and_label(events: Iterable[Event]) -> dict[tuple[str, str], np.ndarray]:
    """{(file, label): [n, 2] seconds}."""
    found: dict[tuple[str, str], list[tuple[float, float]]] = defaultdict(list)
    for event in events:
        found[event.file, event.label].append((event.onset_s, event.offset_s))
    return {key: np.array(times, np.float64).reshape(-1, 2) for key, times in found.items()}


def _matched(fits: np.ndarray) -> int:
    if not fits.size or not fits.any():
        return 0
    return int((maximum_bipartite_matching(csr_matrix(fits), perm_type="column") >= 0).sum())


def _segments(times: np.ndarray, segment_s: float) -> set[int]:
    touched: set[int] = set()
    for onset, offset in times / segment_s:
        touched.update(range(math.floor(onset), math.ceil(offset)))
    return touched
