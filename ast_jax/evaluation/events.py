"""How well events are found in a whole set by a model that judges steps of time, and from which score on a
step of each class counts.

N clips of which it is known what is heard when, R steps that hold sound, of all of them one after another, C
classes.
"""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float16

from ast_jax.datasets.pipeline import FrameGrid, step_labels
from ast_jax.datasets.prepared import PreparedSet
from ast_jax.evaluation.metrics import Scored, for_json
from ast_jax.events import SIMPLE, Decoder, Event, Rules
from ast_jax.events.metrics import ALL, Counts, f1_of, segment_based, three_ways
from ast_jax.events.psds import SCENARIOS, psds
from ast_jax.models.base import judges_steps, steps_with_sound

# A threshold of single steps knows nothing of gaps and of the lower one by which an event goes on.
TIMES = 2.0 ** np.array([0, -0.25, 0.25, -0.5, 0.5, -0.75, 0.75, -1, 1])
# PSDS is of what is found at each of these; clips times classes beyond which that would take too long.
PSDS_THRESHOLDS = np.linspace(0.01, 0.99, 50)
PSDS_MOST = 100_000


def judged(model: Any, prepared: PreparedSet, splits: Sequence[str]) -> bool:
    """Whether there are events in these splits, and the model says when."""
    events = prepared.events(splits)
    return any(own is not None and len(own) for own in events or ()) and judges_steps(model)


@dataclass(frozen=True)
class StepScores:
    """Scores of steps beside what is heard in them. A clip that is longer than the model hears is its
    beginning.
    """

    ids: list[str]
    label_names: tuple[str, ...]
    # seconds that were heard of each clip, and its events, [n, 3]: onset and offset in these, label
    seconds: list[float]
    events: list[np.ndarray]
    grid: FrameGrid
    # steps of each clip
    counts: list[int]
    scores: Float16[np.ndarray, "R C"]
    # clips of which it is not known when
    unknown: int = 0
    # clips whose ends were not heard
    cut: int = 0

    @classmethod
    def of(
        cls, model: Any, prepared: PreparedSet, splits: Sequence[str], frames: Iterable[np.ndarray]
    ) -> "StepScores":
        """From the scores of the steps of each clip of `splits` (`Scorer.frame_scores`), in their order."""
        front_end, longest = prepared.front_end, model.config.num_frames
        rate, most = front_end.sample_rate_hz, front_end.span(longest)
        events, samples = prepared.events(splits), prepared.num_samples(splits)
        assert events is not None  # `judged`
        held = [min(front_end.num_frames(int(count)), longest) for count in samples]
        counts = steps_with_sound(model, np.array(held))
        known = [own is not None for own in events]
        scores = np.empty((int(counts[known].sum()), len(prepared.label_names)), np.float16)
        ends = np.cumsum(np.where(known, counts, 0))
        for own, sure, end, count in zip(frames, known, ends, counts, strict=True):
            if sure:
                scores[end - count : end] = own[:count]
        chosen = np.flatnonzero(known).tolist()
        ids, seconds = prepared.ids(splits), np.minimum(samples, most) / rate
        return cls(
            [ids[i] for i in chosen],
            prepared.label_names,
            [float(seconds[i]) for i in chosen],
            [_within(events[i], seconds[i]) for i in chosen],
            FrameGrid.of(front_end, model.time_steps),
            [int(counts[i]) for i in chosen],
            scores,
            unknown=len(known) - len(chosen),
            cut=int((samples[known] > most).sum()),
        )

    @cached_property
    def thresholds(self) -> Float[np.ndarray, " C"]:
        """From which score on each class is heard: that with the best F1 of these very steps one by one, or
        of its `TIMES` the one whose events cover steps best; NaN for a class that is never heard.
        """
        single = Scored(self.scores, self.labels).thresholds
        offered, truth = np.minimum(np.outer(TIMES, single), 1), self.truth
        nothing = Counts(0, 1, 0)
        f1 = []
        for thresholds in offered:
            covered = segment_based(truth, self.found(thresholds), segment_s=self.grid.step_s).labels
            f1.append([covered.get(name, nothing).f1 for name in self.label_names])
        # of equals the first, which is closest to that of single steps
        return offered[np.argmax(f1, axis=0), np.arange(len(single))]

    @cached_property
    def labels(self) -> Bool[np.ndarray, "R C"]:
        """What is heard in each step."""
        num_classes = len(self.label_names)
        pairs = zip(self.events, self.counts, strict=True)
        hot = [step_labels(own, num_classes, self.grid)[:count] > 0 for own, count in pairs]
        return np.concatenate(hot)

    @property
    def truth(self) -> list[Event]:
        """What is there."""
        pairs = zip(self.ids, self.events, strict=True)
        return [
            Event(name, float(onset_s), float(offset_s), self.label_names[int(label)])
            for name, own in pairs
            for onset_s, offset_s, label in own
        ]

    def found(self, thresholds: Float[np.ndarray, " C"], rules: Rules = SIMPLE) -> list[Event]:
        """What `predict --events` would find in each clip; .5 for a class without a threshold."""
        high = np.where(np.isnan(thresholds), 0.5, thresholds)
        begin_s = self.grid.first_s - self.grid.step_s / 2
        events, ends = [], np.cumsum(self.counts)
        for name, count, end, ends_s in zip(self.ids, self.counts, ends, self.seconds, strict=True):
            decoder = Decoder(rules, high, self.grid.step_s)
            stretches = itertools.chain(decoder.push(self.scores[end - count : end]), decoder.end())
            when: dict[str, Any] = {"first_s": begin_s, "step_s": self.grid.step_s}
            when |= {"steps": count, "ends_s": ends_s}
            found = (stretch.event(name, self.label_names, **when) for stretch in stretches)
            events += [event for event in found if event is not None]
        return events

    def figures(
        self, thresholds: Float[np.ndarray, " C"] | None = None, rules: Rules = SIMPLE
    ) -> dict[str, Any]:
        """How well events are found at these thresholds, or else at those chosen on these very clips, which
        flatters: ready for JSON. `f1` has each way of counting with each label; `psds` is None for a set so
        large that it would take too long.
        """
        own = thresholds is None
        chosen = self.thresholds if thresholds is None else thresholds
        truth, found = self.truth, self.found(chosen, rules)
        hours = sum(self.seconds) / 3600
        curve = None
        if truth and len(self.ids) * len(self.label_names) <= PSDS_MOST:
            points = [self.found(np.full(chosen.shape, each), rules) for each in PSDS_THRESHOLDS]
            curve = {key: psds(truth, points, hours=hours, scenario=way) for key, way in SCENARIOS.items()}
        return for_json(
            {
                "f1": {way: f1_of(scores) for way, scores in three_ways(truth, found).items()},
                "psds": curve,
                "thresholds": dict(zip(self.label_names, map(float, chosen), strict=True)),
                "chosen_here": own,
                "rules": asdict(rules),
                "clips": len(self.ids),
                "clips_unknown": self.unknown,
                "clips_cut": self.cut,
                "hours": hours,
                "events": len(truth),
                "found": len(found),
            }
        )


def told(figures: Mapping[str, Any]) -> str:
    """What `StepScores.figures` has found, in a line."""
    number = lambda value: "-" if value is None else f"{value:.4f}"
    f1 = ", ".join(f"{number(shares[ALL])} ({way})" for way, shares in figures["f1"].items())
    curve = figures["psds"] or {}
    area = ", ".join(f"{name} {number(share)}" for name, share in curve.items())
    area = area or f"PSDS left out, of over {PSDS_MOST:,} clips times classes or of no events"
    where = "on them, which flatters" if figures["chosen_here"] else "elsewhere"
    extent = f"{figures['events']} events in {figures['clips']} clips, thresholds chosen {where}"
    if figures["clips_unknown"]:
        extent += f"; of {figures['clips_unknown']} clips more it is not known when"
    if figures["clips_cut"]:
        extent += f"; {figures['clips_cut']} are longer than the model hears: their beginnings"
    return f"events: F1 {f1}; {area}  ({extent})"


def _within(events: np.ndarray | None, seconds: float) -> np.ndarray:
    """Events as far as they lie in so many seconds."""
    assert events is not None  # those of a clip of which they are known
    inside = events[events[:, 0] < seconds]
    return np.stack([inside[:, 0], np.minimum(inside[:, 1], seconds), inside[:, 2]], axis=1)
