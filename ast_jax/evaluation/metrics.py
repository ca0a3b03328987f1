"""Figures of a tagger from its scores and the truth, one row of `METRICS` each, and how sure they are.

Letters: N clips, C classes. NumPy only. Every figure equals scikit-learn's, tied scores included; a class for
which a figure has no meaning is NaN in arrays, None in tables, left out of means and counted. One sort of
each class's scores does it all: the ranks of the true clips follow by binary search, and true clips are few
(3 labels of 527 a clip in AudioSet).

A target of NaN is unknown. Figures of a class are of the clips of which it is known whether they have it;
those that ask which class is on top are of the clips of which everything is known.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import NormalDist
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Shaped

from ast_jax.errors import InputError
from ast_jax.tables import look_up

Scores = Float[np.ndarray, "N C"]
# bool, integers or floats; a class is true where its target is above 0, and not where it is 0
Targets = Shaped[np.ndarray, "N C"]
PerClass = Float[np.ndarray, " C"]

# A block of columns is copied class by class: 64 x 19,185 float32 = 5 MB, so memory stays flat.
_CLASSES_AT_ONCE = 64
_TOP = 5


def accuracy(scores: Scores, targets: Targets) -> float:
    """Share (0 to 1) of clips whose highest-scored class is among their true ones; NaN without clips.

    With one label a clip this is the ordinary accuracy. With several it is top-1 precision: the reference
    compares argmax(scores) with argmax(targets) there, which knows only the lowest-numbered label of each
    clip, so its figure is lower. The first of equal scores counts; a clip without any label counts as wrong.
    Raises InputError on shapes or scores that are NaN.
    """
    _check(scores, targets)
    scores, targets = _whole(scores, targets)
    if not len(scores):
        return float("nan")
    top = scores.argmax(axis=1)
    return float((targets[np.arange(len(top)), top] > 0).mean())


def average_precision(scores: Scores, targets: Targets) -> PerClass:
    """Average precision of each class, 0 to 1, as `sklearn.metrics.average_precision_score`; NaN for a class
    without true clips.
    """
    return Scored(scores, targets).average_precision


def roc_auc(scores: Scores, targets: Targets) -> PerClass:
    """Area under each class's ROC curve, as `sklearn.metrics.roc_auc_score`; NaN where true or untrue clips
    are missing.

    The reference stops there with an error.
    """
    return Scored(scores, targets).roc_auc


def mean_average_precision(scores: Scores, targets: Targets) -> float:
    """mAP: the mean of `average_precision` over the classes that have true clips; NaN when none has."""
    return _mean(average_precision(scores, targets))


def d_prime(auc: float) -> float:
    """Separation of two unit normal distributions that would give this AUC: sqrt(2) probit(auc).

    AudioSet takes it of the mean AUC (Gemmeke et al. 2017). An AUC of 1 gives inf, of 0 -inf, of NaN NaN.
    """
    if auc in (0, 1):
        return float("inf") if auc else float("-inf")
    return 2**0.5 * NormalDist().inv_cdf(float(auc)) if 0 < auc < 1 else float("nan")


class Scored:
    """Scores beside the truth; what several figures need is computed once. Raises InputError on shapes or
    scores that are NaN.

    `thresholds` [C] decide from which score on a class counts as found; by default each class's best on these
    very clips, which flatters F1: give those of another set where there is one.
    """

    def __init__(self, scores: Scores, targets: Targets, thresholds: PerClass | None = None):
        _check(scores, targets)
        self.scores, self.targets, self._given = scores, targets, thresholds

    @cached_property
    def _by_class(self) -> np.ndarray:
        return _from_one_sort(self.scores, self.targets)

    @property
    def average_precision(self) -> PerClass:
        """See the function of that name."""
        return self._by_class[0]

    @property
    def roc_auc(self) -> PerClass:
        """See the function of that name."""
        return self._by_class[1]

    @property
    def thresholds(self) -> PerClass:
        """From which score on each class is found; NaN for a class without true clips."""
        return self._by_class[2] if self._given is None else self._given

    @cached_property
    def found(self) -> np.ndarray:
        """[C, 3] counts: classes found and true, found and untrue, true and not found."""
        found, true = self.scores >= self.thresholds[None], self.targets > 0
        untrue = self.targets <= 0
        return np.stack([(found & true).sum(0), (found & untrue).sum(0), (~found & true).sum(0)], axis=1)

    @property
    def f1(self) -> PerClass:
        """2 TP / (2 TP + FP + FN) of each class; NaN for one without true clips."""
        hits, false, missed = self.found.T
        return np.where(hits + missed > 0, 2 * hits / np.maximum(2 * hits + false + missed, 1), np.nan)

    @property
    def micro_f1(self) -> float:
        """The same of all decisions together, over the classes with true clips."""
        hits, false, missed = self.found[self.found[:, 0] + self.found[:, 2] > 0].sum(axis=0)
        return float(2 * hits / (2 * hits + false + missed)) if hits + missed else float("nan")

    @property
    def top_k(self) -> float:
        """Share of clips with a true class among the five best; NaN where there are no more than five
        classes.
        """
        scores, targets = _whole(self.scores, self.targets)
        if not len(scores) or scores.shape[1] <= _TOP:
            return float("nan")
        best = np.argpartition(-scores, _TOP - 1, axis=1)[:, :_TOP]
        return float((np.take_along_axis(targets, best, axis=1) > 0).any(axis=1).mean())

    @property
    def lwlrap(self) -> float:
        """Label-weighted label-ranking average precision (Plakal and Ellis, DCASE 2019 task 2): of each true
        label of each clip, the share of true ones among the classes scored at least as high; NaN without
        labels.
        """
        scores, targets = _whole(self.scores, self.targets)
        clips, labels = np.nonzero(targets > 0)
        if not len(clips):
            return float("nan")
        total = 0.0
        # a thousand labels' rows at a time, so that memory stays flat
        for some in np.array_split(np.arange(len(clips)), len(clips) // 1000 + 1):
            rows = scores[clips[some]]
            at_least = rows >= rows[np.arange(len(some)), labels[some]][:, None]
            true = targets[clips[some]] > 0
            total += float(((at_least & true).sum(axis=1) / at_least.sum(axis=1)).sum())
        return total / len(clips)


@dataclass(frozen=True)
class Metric:
    """A row of the table: what to call a figure in a heading and in a line, how to compute and print it, what
    is better.

    `headline` ones are told after each epoch and stand on top of a report; all of them are in results.json.
    """

    label: str
    word: str
    of: Callable[[Scored], float]
    # for people: on the page and in tables
    shown_as: Callable[[float], str] = "{:.3f}".format
    higher_is_better: bool = True
    headline: bool = False

    def text(self, value: Any) -> str:
        """For a page; a dash for what has no meaning."""
        number = isinstance(value, int | float) and not isinstance(value, bool) and np.isfinite(value)
        return self.shown_as(value) if number else "-"

    def better(self, value: float, than: float) -> bool:
        """Whether a later figure replaces an earlier one: of equals the later one, and anything in the place
        of NaN.
        """
        if np.isnan(than):
            return True
        return value >= than if self.higher_is_better else value <= than


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


METRICS: dict[str, Metric] = {
    "accuracy": Metric(
        "Accuracy",
        "accuracy",
        lambda scored: accuracy(scored.scores, scored.targets),
        _percent,
        headline=True,
    ),
    "mAP": Metric("mAP", "mAP", lambda scored: _mean(scored.average_precision), headline=True),
    "auc": Metric("ROC AUC", "AUC", lambda scored: _mean(scored.roc_auc), headline=True),
    "d_prime": Metric(
        "d'", "d'", lambda scored: d_prime(_mean(scored.roc_auc)), "{:.2f}".format, headline=True
    ),
    "f1_macro": Metric("F1, mean of classes", "F1", lambda scored: _mean(scored.f1)),
    "f1_micro": Metric("F1, of all decisions", "micro F1", lambda scored: scored.micro_f1),
    "top5": Metric("Top-5 accuracy", "top-5", lambda scored: scored.top_k, _percent),
    "lwlrap": Metric("lwlrap", "lwlrap", lambda scored: scored.lwlrap),
}
HEADLINES = tuple(name for name, metric in METRICS.items() if metric.headline)


def metric_called(name: str) -> Metric:
    """A row of the table, or `module:metric` of the user's own. Raises InputError."""
    return look_up(METRICS, name, "metric")


def summary(
    scores: Scores, targets: Targets, *, also: str = "", thresholds: PerClass | None = None
) -> dict[str, float | int]:
    """Every figure of the table, and the one called `also`.

    'mAP' and 'auc' are means over the classes that have them, 'd_prime' is of the mean AUC. 'num_examples'
    counts all clips, also those of which nothing is known.
    'classes_left_out' counts the classes without true clips, 'classes_left_out_of_auc' those without true or
    without untrue ones. Figures that have no meaning are NaN and a perfect AUC makes d' inf: neither is JSON,
    see `for_json`. Raises InputError on shapes or NaN.
    """
    scored = Scored(scores, targets, thresholds)
    rows = METRICS | ({also: metric_called(also)} if also else {})
    return {
        **{name: float(metric.of(scored)) for name, metric in rows.items()},
        "num_examples": len(scores),
        "classes_left_out": int(np.isnan(scored.average_precision).sum()),
        "classes_left_out_of_auc": int(np.isnan(scored.roc_auc).sum()),
    }


def per_class(scores: Scores, targets: Targets, label_names: Sequence[str]) -> list[dict[str, Any]]:
    """One row a class, in the order of the labels, ready for JSON: label, ap, auc, d_prime, positives,
    accuracy, f1, threshold.

    'positives' counts true clips; 'accuracy' is the share of them with this class on top (recall), of clips
    of which everything is known; 'f1' is at 'threshold', the best on these clips. None = has no meaning, or
    is infinite (d' of a perfect AUC). Raises InputError when the names do not number C.
    """
    scored = Scored(scores, targets)
    precision, area = scored.average_precision, scored.roc_auc
    if len(label_names) != len(precision):
        raise InputError(
            f"got {len(label_names)} label names for {len(precision)} classes: give one name a class"
        )
    positives = (targets > 0).sum(axis=0)
    scores, targets = _whole(scores, targets)
    true = targets > 0
    hits = np.zeros(len(precision), np.int64)
    if scores.size:
        top = scores.argmax(axis=1)
        np.add.at(hits, top, true[np.arange(len(top)), top])
    recalls = [int(hit) / int(count) if count else None for hit, count in zip(hits, true.sum(0), strict=True)]
    rows = zip(label_names, precision, area, positives, recalls, scored.f1, scored.thresholds, strict=True)
    return [
        for_json(
            {
                "label": str(label),
                "ap": float(ap),
                "auc": float(auc),
                "d_prime": d_prime(float(auc)),
                "positives": int(count),
                "accuracy": recall,
                "f1": float(f1),
                "threshold": float(threshold),
            }
        )
        for label, ap, auc, count, recall, f1, threshold in rows
    ]


def for_json(value: Any) -> Any:
    """The same nest of lists and dictionaries with None for NaN and the infinities, which JSON does not
    have.
    """
    if isinstance(value, Mapping):
        return {key: for_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [for_json(item) for item in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


def bootstrap_interval(
    scores: Scores,
    targets: Targets,
    metric: Callable[[np.ndarray, np.ndarray], float],
    *,
    repeats: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> tuple[float, float]:
    """Bootstrap interval (low, high) of `metric(scores, targets)` over clips drawn with replacement.

    It tells how far the figure depends on which clips are in the evaluation set, not on the training seed.
    The same seed gives the same interval. Draws for which the metric is NaN are left out; (NaN, NaN) when
    that is all of them.

    The percentiles are moved by twice the bootstrap's bias: a drawn set holds clips twice, which lifts
    average precision above the set's own, and the set's own is above the population's by about as much again.
    With 30 true clips a class the plain percentiles held the population's mAP in 77 of 100 trials, these in
    92, 95 being promised; accuracy has no bias.
    """
    _check(scores, targets)
    if repeats < 1 or not 0 < level < 1 or not len(scores):
        raise InputError(
            f"got {repeats} repeats, level {level}, {len(scores)} clips: "
            "a bootstrap needs at least one repeat, a level between 0 and 1 and at least one clip"
        )
    rng = np.random.default_rng(seed)
    values = np.empty(repeats)
    for i in range(repeats):
        drawn = rng.integers(len(scores), size=len(scores))
        values[i] = metric(scores[drawn], targets[drawn])
    values = values[~np.isnan(values)]
    if not len(values):
        return float("nan"), float("nan")
    bias = values.mean() - metric(scores, targets)
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2]) - 2 * bias
    return float(low), float(high)


def interval_of(scores: Scores, targets: Targets, metric: str) -> tuple[float, float]:
    """The 95 % `bootstrap_interval` of a metric by its name, with as many draws as take seconds: 200, or 50
    for a set as large as AudioSet's. F1 keeps the thresholds of the whole set.
    """
    if metric == "d_prime":  # grows with the AUC, and is infinite where that is 1
        low, high = interval_of(scores, targets, "auc")
        return d_prime(max(low, 0.0)), d_prime(min(high, 1.0))
    row, thresholds = metric_called(metric), Scored(scores, targets).thresholds
    repeats = 200 if scores.size < 1_000_000 else 50
    return bootstrap_interval(
        scores, targets, lambda drawn, true: row.of(Scored(drawn, true, thresholds)), repeats=repeats
    )


@dataclass(frozen=True)
class Gap:
    """How far one epoch's figure lies from the published one; `inside` is whether that is within the band."""

    epoch: int
    measured: float
    published: float
    band: float

    @property
    def difference(self) -> float:
        """Measured minus published."""
        return self.measured - self.published

    @property
    def inside(self) -> bool:
        """False for NaN as well: a run that broke is outside.

        The slack forgives the rounding of decimal fractions.
        """
        return abs(self.difference) <= self.band + 1e-12


def published_gap(epoch: int, value: float, curve: Mapping[int, float], band: float) -> Gap | None:
    """Compares an epoch's figure with the published curve {epoch: value}; None where nothing is published for
    that epoch.
    """
    if epoch not in curve:
        return None
    return Gap(epoch=epoch, measured=float(value), published=float(curve[epoch]), band=float(band))


def _check(scores: np.ndarray, targets: np.ndarray) -> None:
    if scores.ndim != 2 or scores.shape != targets.shape:
        raise InputError(
            f"got scores {scores.shape} and targets {targets.shape}: both must be [clips, classes]"
        )
    if not np.isfinite(scores.sum(dtype=np.float64)) and not np.isfinite(scores).all():
        raise InputError(
            "got scores with NaN or infinity: they cannot be ranked; look for the step at which the loss "
            "broke"
        )


def known_pairs(targets: Targets) -> Bool[np.ndarray, "N C"] | None:
    """Where it is known whether a clip has a class; None if everything is."""
    if not np.isnan(targets.sum(dtype=np.float64)):
        return None
    return ~np.isnan(targets)


def _whole(scores: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The clips of which everything is known."""
    known = known_pairs(targets)
    if known is None:
        return scores, targets
    whole = known.all(axis=1)
    return scores[whole], targets[whole]


def _from_one_sort(scores: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """AP, AUC and the threshold of the best F1 of every class, [3, C] float64, from one sort."""
    num_classes, known = scores.shape[1], known_pairs(targets)
    figures = np.full((3, num_classes), np.nan)
    for start in range(0, num_classes, _CLASSES_AT_ONCE):
        block = slice(start, start + _CLASSES_AT_ONCE)
        # Half precision is widened: exact, and NumPy sorts float32 ten times faster.
        by_class = np.array(scores[:, block].T, dtype=np.result_type(scores.dtype, np.float32), order="C")
        true = np.ascontiguousarray((targets[:, block] > 0).T)
        own = [np.sort(row[chosen]) for row, chosen in zip(by_class, true, strict=True)]
        if known is None:
            by_class.sort(axis=1)
            ordered: Iterable[np.ndarray] = by_class
        else:
            pairs = zip(by_class, known[:, block].T, strict=True)
            ordered = [np.sort(row[judged]) for row, judged in pairs]
        figures[:, block] = np.array([_from_ranks(*pair) for pair in zip(ordered, own, strict=True)]).T
    return figures


def _from_ranks(ordered: np.ndarray, true: np.ndarray) -> tuple[float, float, float]:
    """AP, AUC and the best threshold of one class from the ascending scores of all clips and of the true
    ones.

    AP: the mean, over true clips, of the precision among all clips scored at least as high (so ties share one
    threshold). AUC: the share of (true, untrue) pairs ranked rightly, a tie counting half. Counts are
    integers, hence exact. Threshold: half way between the true clip's score that gives the best F1 (of
    several the highest) and the next lower one.
    """
    positives, negatives = len(true), len(ordered) - len(true)
    if not positives:
        return float("nan"), float("nan"), float("nan")
    at_least = len(ordered) - np.searchsorted(ordered, true, "left")
    true_at_least = positives - np.searchsorted(true, true, "left")
    precision = float((true_at_least / at_least).mean())
    f1 = 2 * true_at_least / (at_least + positives)
    best = len(f1) - 1 - int(f1[::-1].argmax())
    below = len(ordered) - at_least[best] - 1
    threshold = float(true[best])
    if below >= 0:
        # in the scores' own precision: half way must not round up to where this clip is not found
        threshold = min(threshold, float(ordered[below] + (true[best] - ordered[below]) / 2))
    if not negatives:
        return precision, float("nan"), threshold
    above = len(ordered) - np.searchsorted(ordered, true, "right")
    true_above = positives - np.searchsorted(true, true, "right")
    untrue_at_least, untrue_above = at_least - true_at_least, above - true_above
    halves = int((2 * negatives - untrue_at_least - untrue_above).sum())  # 2 a right pair, 1 a tied one
    return precision, halves / (2 * positives * negatives), threshold


def _mean(values: np.ndarray) -> float:
    """Mean of what is not NaN; NaN, without NumPy's warning, when nothing is left."""
    kept = values[~np.isnan(values)]
    return float(kept.mean()) if len(kept) else float("nan")
