"""What is easy about a data set: the figures of answers that hear next to nothing, which a model has to beat.

N clips, M held-out clips, C classes, F mel bins.
"""

import math
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from ast_jax.datasets.extract import from_int16
from ast_jax.datasets.folds import folded, owners
from ast_jax.datasets.prepared import PreparedSet
from ast_jax.evaluation.predictions import Predictions
from ast_jax.features import REFERENCE, FrontEnd

# Clips that are read, at most, of each side: seconds, whatever the set's size.
MOST = 3000
# Above, one least-squares fit takes the place of a logistic regression a class.
MOST_CLASSES = 64
# Of clips' lengths: the shortest few, the middle, the longest few, the longest.
QUANTILES = (0.05, 0.5, 0.95, 1.0)
# Of root mean square difference: a sound and the same as Ogg or MP3 are .1 to .2 apart.
TWINS_DB = 0.3
# Inverse weights of the L2 term, as scikit-learn has it.
STRENGTHS = (0.01, 0.1, 1.0)


def easy(
    prepared: PreparedSet,
    train: Sequence[str],
    held_out: Sequence[str],
    *,
    metric: str = "accuracy",
    most: int = MOST,
) -> dict[str, Any]:
    """Figures of two answers on the held-out clips, fitted to training clips alone:

    - `majority`: each class's share of the training clips, the same for every clip;
    - `logistic_regression` on mean and deviation over time of each mel bin, its strength chosen inside the
      training clips, of whole groups where the set's notes say whose clips are (of more than 64 classes
      `least_squares` in its place).

    Both are of the clips of which anything is known, class by class of those of which it is known whether
    they have it; where there is none on one side, there are no figures.

    Figures are those of the table of metrics and `metric`. `train_clips` and `clips` say how many clips that
    was: at most `most` of each, drawn by a fixed seed; `seconds` are QUANTILES of training clips' lengths,
    and `on_both_sides` the ids of clips held out that are as good as a training clip, and of those.
    """
    own, held = described(prepared, train, most), described(prepared, held_out, most)
    y, held_y = own.labels, held.labels
    if not len(y) or not len(held_y):
        return {"train_clips": len(y), "clips": len(held_y)}
    told = ["loss", "num_examples"]  # of no model's loss

    def figures(scores: np.ndarray) -> dict[str, Any]:
        found = Predictions([""] * len(held_y), scores, held_y, 0.0).summary(also=metric)
        return {name: value for name, value in found.items() if name not in told}

    fitted = _fitted(own, held.vectors, prepared.multi_label)
    name = "logistic_regression" if y.shape[1] <= MOST_CLASSES else "least_squares"
    return {
        "train_clips": len(y),
        "clips": len(held_y),
        "seconds": np.quantile(own.seconds, QUANTILES).round(2).tolist(),
        "on_both_sides": [list(pair) for pair in twins(own, held, prepared.front_end)],
        "majority": figures(np.broadcast_to(_shares(y), held_y.shape).copy()),
        name: figures(fitted),
    }


class Described(NamedTuple):
    """Of some clips: mean and deviation over time of features [N, 2 F], labels as 0 and 1, NaN where they are
    not known, seconds, ids; whose they are, where the set has groups.
    """

    vectors: Float[np.ndarray, "N _"]
    labels: Float[np.ndarray, "N C"]
    seconds: Float[np.ndarray, " N"]
    ids: list[str]
    groups: list[str] | None = None


def described(prepared: PreparedSet, splits: Sequence[str], most: int = MOST) -> Described:
    """Some splits' clips, at most `most` of them; those of which nothing is known are passed over."""
    source, front_end, known = prepared.source(splits), prepared.front_end, prepared.known(splits)
    chosen = np.arange(len(source)) if known is None else np.flatnonzero(known.any(axis=1))
    if len(chosen) > most:
        chosen = np.sort(np.random.default_rng(0).choice(len(chosen), most, replace=False))
    rows, labels = [], np.zeros((len(chosen), len(prepared.label_names)), np.float32)
    seconds, ids = np.zeros(len(chosen)), []
    for place, position in enumerate(chosen.tolist()):
        example = source[position]
        if "fbank" in example:
            features = example["fbank"].astype(np.float32)
        else:
            features = front_end.features(from_int16(example["waveform"]))
        rows.append(np.concatenate([features.mean(axis=0), features.std(axis=0)]))
        labels[place, example["labels"]] = 1
        if known is not None:
            labels[place, ~known[position]] = np.nan
        seconds[place] = front_end.seconds(len(features))
        ids.append(example["id"])
    groups = None
    if prepared.metadata["notes"].get("groups"):
        whose = owners(prepared, splits)
        groups = [whose[position] for position in chosen]
    return Described(np.stack(rows) if rows else np.zeros((0, 0)), labels, seconds, ids, groups)


def twins(own: Described, held: Described, front_end: FrontEnd = REFERENCE) -> list[tuple[str, str]]:
    """(id held out, id of a training clip) of clips as long as one another whose mean spectra and deviations
    differ by less than TWINS_DB: the same sound, perhaps encoded once more. Among features that are no log
    powers none are looked for.
    """
    if not front_end.in_powers:
        return []
    unit_db = front_end.nats * 10 / math.log(10)
    found = []
    for number, (vector, seconds) in enumerate(zip(held.vectors, held.seconds, strict=True)):
        near = np.flatnonzero(np.abs(own.seconds - seconds) < 0.05)
        apart = np.sqrt(np.square(own.vectors[near] - vector).mean(axis=1))
        if len(near) and apart.min() * unit_db < TWINS_DB:
            found.append((held.ids[number], own.ids[near[apart.argmin()]]))
    return found


def _shares(y: np.ndarray) -> Float[np.ndarray, " C"]:
    """Of the clips of which it is known, those that have a class; of a class known of none, none."""
    known = ~np.isnan(y)
    return np.nansum(y, axis=0, dtype=np.float32) / np.maximum(known.sum(axis=0, dtype=np.float32), 1)


def _fitted(own: Described, held_x: np.ndarray, several: bool) -> Float[np.ndarray, "M C"]:
    x, y = own.vectors, own.labels
    mean, deviation = x.mean(axis=0), x.std(axis=0) + 1e-6
    x, held_x = (x - mean) / deviation, (held_x - mean) / deviation
    if y.shape[1] > MOST_CLASSES:
        # what is not known of a clip counts as its class's share, which pulls it nowhere
        apart = np.nan_to_num(y - (shares := _shares(y)))
        ridge = x.T @ x + len(x) * np.eye(x.shape[1], dtype=np.float32)
        return (held_x @ np.linalg.solve(ridge, x.T @ apart) + shares).clip(0, 1)
    inside = _inside(own)
    if inside.all() or len(x) < 10:
        return _scores(x, y, held_x, several, STRENGTHS[1])
    loss = {}
    for strength in STRENGTHS:
        p = np.clip(_scores(x[inside], y[inside], x[~inside], several, strength), 1e-6, 1 - 1e-6)
        loss[strength] = -np.nanmean(y[~inside] * np.log(p) + (1 - y[~inside]) * np.log(1 - p))
    return _scores(x, y, held_x, several, min(loss, key=lambda key: loss[key]))


def _inside(own: Described) -> Bool[np.ndarray, " N"]:
    """All but the fifth of the training clips, or the groups, that choose the strength; all of one group."""
    if own.groups is None:
        return np.arange(len(own.ids)) % 5 > 0
    count = min(5, len(set(own.groups)))
    labels = [[str(label) for label in np.flatnonzero(row > 0)] for row in own.labels]
    return np.array(folded(own.groups, labels, count)) > (count > 1)


def _scores(
    x: np.ndarray, y: np.ndarray, held_x: np.ndarray, several: bool, strength: float
) -> Float[np.ndarray, "M C"]:
    from sklearn.linear_model import LogisticRegression

    def fit(target: np.ndarray, x: np.ndarray) -> np.ndarray:
        """The chance of each value of the target that occurs, by its place among them."""
        with warnings.catch_warnings():
            # close enough for what is easy
            warnings.simplefilter("ignore")
            return LogisticRegression(C=strength, max_iter=300).fit(x, target).predict_proba(held_x)

    scores = np.broadcast_to(_shares(y), (len(held_x), y.shape[1])).astype(np.float32)
    if not several:
        target = y.argmax(axis=1)
        if len(there := np.unique(target)) > 1:
            scores[:] = 0
            scores[:, there] = fit(target, x)
        return scores
    for label in range(y.shape[1]):
        known = ~np.isnan(y[:, label])
        own = y[known, label] > 0
        if own.any() and not own.all():
            scores[:, label] = fit(own, x[known])[:, 1]
    return scores


def leaks(found: dict[str, Any]) -> list[str]:
    """What to say where sounds stand on both sides."""
    pairs = found.get("on_both_sides") or []
    if not pairs:
        return []
    listed = ", ".join(" = ".join(pair) for pair in pairs[:3]) + ", ..." * (len(pairs) > 3)
    return [
        f"{len(pairs)} of {found['clips']} clips held out sound like a training clip ({listed}): figures are "
        "flattered; what belongs together stays on one side by a column group, or group=PATTERN"
    ]


def lengths(found: dict[str, Any], heard_s: float) -> list[str]:
    """What to say where clips are much longer or shorter than the `heard_s` seconds of the model."""
    if "seconds" not in found:  # a run from before
        return []
    _, median, most, longest = found["seconds"]
    span = (
        f"half of the clips last up to {median:g} s, nineteen of twenty {most:g} s, the longest {longest:g} s"
    )
    if most > 1.1 * heard_s:
        return [
            f"{span}: of longer ones the model hears the first {heard_s:g} s (config.num_frames; seconds=...)"
        ]
    if most < 0.5 * heard_s:
        return [
            f"{span}: the model hears {heard_s:g} s, mostly padding; a shorter one is faster (seconds=...)"
        ]
    return []


def told(found: dict[str, Any], metric: str) -> str:
    """In a line: what a model has to beat, by one metric."""
    shares = [f"{name.replace('_', ' ')} {value:.4f}" for name, value in answers(found, metric).items()]
    return (
        f"what is easy, {metric}: {', '.join(shares) or 'not known, for no clip to learn it from has labels'}"
    )


def answers(found: dict[str, Any], metric: str) -> dict[str, float]:
    """{answer: its figure}, of those that have one."""
    own = {name: value.get(metric) for name, value in found.items() if isinstance(value, dict)}
    return {name: v for name, v in own.items() if isinstance(v, int | float) and math.isfinite(v)}


def doubts(found: dict[str, Any], metric: str, value: float, *, higher_is_better: bool) -> list[str]:
    """What to say of a model that answers no better than what is easy, and what to do."""
    sign = 1 if higher_is_better else -1
    beaten_by = {name: other for name, other in answers(found, metric).items() if sign * (value - other) <= 0}
    if not beaten_by:
        return []
    listed = ", ".join(f"{name.replace('_', ' ')} {other:.4f}" for name, other in beaten_by.items())
    return [
        f"{metric} {value:.4f} is no better than what is easy ({listed}): look at labels and sounds, start "
        "from pretrained weights (config.init_from), or try a linear warm-up (config.lr_warmup=linear), "
        "config.clip_norm=1, a lower config.lr, of an AST patches of whole columns "
        "(config.model.patch_shape=(128,4), config.model.strides=(128,4))"
    ]
