"""What is gathered over epochs: averages of weights and of scores, the figures of an evaluation, the best
epoch so far.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ast_jax.evaluation import metrics
from ast_jax.evaluation.predictions import Predictions
from ast_jax.settings import Averages, Data, Settings


def initial_averages(
    settings: Averages, variables: Mapping[str, Array], scores: tuple[int, int]
) -> dict[str, Any]:
    """What the checkpoint keeps besides the step's state: `average` of the weights and `cumulative` scores,
    where asked for.
    """
    averages: dict[str, Any] = {}
    if settings.average_epochs:
        averages["average"] = jax.tree.map(jnp.zeros_like, dict(variables))
    if settings.cumulative:
        averages["cumulative"] = jnp.zeros(scores)
    return averages


def num_averaged(settings: Averages, epoch: int) -> int:
    """How many epochs' weights the average holds after `epoch`, the first twice where a recipe says so."""
    if not settings.average_epochs:
        return 0
    first, last = settings.average_epochs
    later = min(epoch, last) - first
    return max(0, later + 1) + (settings.average_first_twice and later > 0)


def advance(
    averages: Mapping[str, Any],
    variables: Mapping[str, Array],
    scores: Float[np.ndarray, "N C"],
    *,
    count: int,
    takes_part: bool,
) -> dict[str, Any]:
    """The averages after another epoch; `count` epochs' weights are in it, this one's if it `takes_part`."""
    new = dict(averages)
    if "average" in new and takes_part:
        new["average"] = running_mean(new["average"], dict(variables), count)
    if "cumulative" in new:
        new["cumulative"] = new["cumulative"] + scores
    return new


@jax.jit
def running_mean(mean, value, count):
    """The mean of `count` values from the mean of all but the last, and the last."""
    return jax.tree.map(lambda m, v: m + (v - m) / count, mean, value)


def figures(
    settings: Settings, epoch: int, predictions: Predictions, averages: Mapping[str, Any]
) -> dict[str, Any]:
    """An evaluation's figures: every metric, that of the ensemble of all epochs so far, and the published
    one.
    """
    metric = settings.run.metric
    summary = predictions.summary(also=metric)
    if "cumulative" in averages:
        mean = np.asarray(averages["cumulative"]) / epoch
        ensemble = metrics.metric_called(metric).of(metrics.Scored(mean, predictions.targets))
        summary[f"ensemble_{metric}"] = ensemble
    return summary | coverage(settings.data, predictions) | published_gap(settings, epoch, summary)


def coverage(data: Data, predictions: Predictions) -> dict[str, Any]:
    """{expected_examples, coverage} where a recipe says how many clips its evaluation should have: AudioSet's
    vanish from the net.
    """
    expected, there = data.expected, len(predictions.ids)
    return {"expected_examples": expected, "coverage": there / expected} if expected else {}


def published_gap(
    settings: Settings, epoch: int, summary: Mapping[str, Any], *, averaged: bool = False
) -> dict[str, Any]:
    """{published, difference, inside} of an epoch's figures, or of those of the weights `averaged` up to it,
    where the recipe knows the published one, else {}.
    """
    known = settings.published.published
    if not known:
        return {}
    curve = {int(key): figure for key, figure in known.get("curve", {}).items()}
    if averaged:
        curve = {epoch: known["average"]} if "average" in known else {}
    gap = metrics.published_gap(epoch, summary[known["metric"]], curve, known["band"])
    if gap is None:
        return {}
    return {"published": gap.published, "difference": gap.difference, "inside": gap.inside}


def better(best: dict[str, Any] | None, row: Mapping[str, Any], metric: str) -> dict[str, Any]:
    """The best epoch so far; of equals the later one."""
    if best is not None and not metrics.metric_called(metric).better(row[metric], best["value"]):
        return best
    return {"epoch": row["epoch"], "step": row["step"], "metric": metric, "value": row[metric]}
