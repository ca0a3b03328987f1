"""The polyphonic sound detection score (Bilen et al., ICASSP 2020), as `psds_eval` counts it: what share of
events is found at how many false ones an hour, over all thresholds, by how much they overlap.

D detections, G events that are there, P thresholds and the one that finds nothing.
"""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from ast_jax.errors import InputError
from ast_jax.events.metrics import NONE, by_file_and_label
from ast_jax.events.table import Event


@dataclass(frozen=True)
class Scenario:
    """What counts as found.

    A detection is sound if at least `detection` of it lies in events of its label; an event is found if at
    least `event` of it is covered by sound detections of its label. Other detections are false; one of which
    at least `cross` lies in events of another label is triggered by that label too, which weighs
    `cross_weight`. The share found is the labels' mean less `spread_weight` times their deviation, and counts
    up to `most_an_hour` false ones an hour.
    """

    detection: float
    event: float
    cross: float = math.inf
    cross_weight: float = 0.0
    spread_weight: float = 1.0
    most_an_hour: float = 100.0


# of the DCASE challenges' task 4 since 2021: fast reaction, and telling labels apart
PSDS1 = Scenario(0.7, 0.7)
PSDS2 = Scenario(0.1, 0.1, cross=0.3, cross_weight=0.5)
SCENARIOS = {"PSDS 1": PSDS1, "PSDS 2": PSDS2}


def psds(
    reference: Sequence[Event], detected: Sequence[Sequence[Event]], *, hours: float, scenario: Scenario
) -> float:
    """From 0 to 1. `detected` has one model's events at each of some thresholds, the more the finer; `hours`
    of sound were listened to. Labels that are never in the reference are left aside.

    Raises InputError for a reference without events.
    """
    truth: dict[str, dict[str, np.ndarray]] = defaultdict(dict)
    count: dict[str, int] = defaultdict(int)
    lasting: dict[str, float] = defaultdict(float)
    for (file, label), times in by_file_and_label(reference).items():
        truth[file][label] = times
        count[label] += len(times)
        lasting[label] += float((times[:, 1] - times[:, 0]).sum())
    labels = sorted(count)
    if not labels:
        raise InputError("the reference has no events: there is nothing to find")
    # a column a threshold; the last one finds nothing
    shares = np.zeros((len(labels), len(detected) + 1))
    rates = np.zeros_like(shares)
    for column, events in enumerate(detected):
        found: dict[str, dict[str, np.ndarray]] = defaultdict(dict)
        for (file, label), times in by_file_and_label(events).items():
            found[label][file] = times
        for row, label in enumerate(labels):
            hits, wrong, crossed = _counted(label, truth, found[label], scenario)
            shares[row, column] = hits / count[label]
            others = [crossed.get(other, 0) * 3600 / lasting[other] for other in labels if other != label]
            by_others = float(np.mean(others)) if others else 0.0
            rates[row, column] = wrong / hours + scenario.cross_weight * by_others
    return _area(shares, rates, scenario)


def _counted(
    label: str,
    truth: Mapping[str, Mapping[str, np.ndarray]],
    found: Mapping[str, np.ndarray],
    scenario: Scenario,
) -> tuple[int, int, dict[str, int]]:
    """Events of a label that are found, false detections (`found` has these and others by file), and by which
    label how many of these are triggered.
    """
    hits, wrong = 0, 0
    crossed: dict[str, int] = defaultdict(int)
    for file, detections in found.items():
        here = truth.get(file, {})
        own, lengths = here.get(label, NONE), detections[:, 1] - detections[:, 0]
        both = _shared(detections, own)
        sound = both.sum(axis=1) / lengths >= scenario.detection
        # an event that no sound detection touches is not found, however little is asked
        covered = both[sound]
        share = covered.sum(axis=0) / (own[:, 1] - own[:, 0])
        hits += int(((share >= scenario.event) & (covered > 0).any(axis=0)).sum())
        wrong += int((~sound).sum())
        for other, times in here.items():
            if other != label:
                part = _shared(detections, times).sum(axis=1) / lengths
                crossed[other] += int((~sound & (part >= scenario.cross) & (part > 0)).sum())
    return hits, wrong, crossed


def _shared(one: Float[np.ndarray, "D 2"], other: Float[np.ndarray, "G 2"]) -> Float[np.ndarray, "D G"]:
    """Seconds that each has in common with each."""
    starts = np.maximum(one[:, None, 0], other[None, :, 0])
    return np.maximum(np.minimum(one[:, None, 1], other[None, :, 1]) - starts, 0)


def _area(shares: Float[np.ndarray, "C P"], rates: Float[np.ndarray, "C P"], scenario: Scenario) -> float:
    """Under the stairs of the labels' mean share over false ones an hour, as a part of the whole."""
    steps = np.unique(np.r_[rates.ravel(), scenario.most_an_hour])
    # of each label the best share at no more than so many
    best = np.stack(
        [
            np.maximum.accumulate(own[np.argsort(rate, kind="stable")])
            for own, rate in zip(shares, rates, strict=True)
        ]
    )
    counts = [np.searchsorted(np.sort(rate), steps, "right") for rate in rates]
    curves = np.stack(
        [np.where(count > 0, own[count - 1], 0.0) for own, count in zip(best, counts, strict=True)]
    )
    together = np.maximum(curves.mean(axis=0) - scenario.spread_weight * curves.std(axis=0), 0)
    inside = steps <= scenario.most_an_hour
    return float((together[inside][:-1] * np.diff(steps[inside])).sum() / scenario.most_an_hour)
