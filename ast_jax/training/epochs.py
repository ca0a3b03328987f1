"""What is gathered over epochs: averages of weights and of scores, the figures of an evaluation, the best epoch so far."""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from ml_collections import ConfigDict

from ast_jax.evaluation import metrics
from ast_jax.evaluation.evaluate import Predictions


def initial_averages(
    config: ConfigDict, params: Mapping[str, Array], scores: tuple[int, int]
) -> dict[str, Any]:
    """What the checkpoint keeps besides the step's state: `average` of the weights and `cumulative` scores, where asked for."""
    averages: dict[str, Any] = {}
    if config.average_epochs:
        averages["average"] = jax.tree.map(jnp.zeros_like, dict(params))
    if config.cumulative:
        averages["cumulative"] = jnp.zeros(scores)
    return averages


def num_averaged(config: ConfigDict, epoch: int) -> int:
    """How many epochs' weights the average holds after `epoch`."""
    if not config.average_epochs:
        return 0
    first, last = config.average_epochs
    return max(0, min(epoch, last) - first + 1)


def advance(
    averages: Mapping[str, Any],
    params: Mapping[str, Array],
    scores: Float[np.ndarray, "N C"],
    *,
    count: int,
    takes_part: bool,
) -> dict[str, Any]:
    """The averages after another epoch; `count` epochs' weights are in it, this one's if it `takes_part`."""
    new = dict(averages)
    if "average" in new and takes_part:
        new["average"] = running_mean(new["average"], dict(params), count)
    if "cumulative" in new:
        new["cumulative"] = new["cumulative"] + scores
    return new


@jax.jit
def running_mean(mean, value, count):
    """The mean of `count` values from the mean of all but the last, and the last."""
    return jax.tree.map(lambda m, v: m + (v - m) / count, mean, value)


def figures(
    config: ConfigDict, epoch: int, predictions: Predictions, averages: Mapping[str, Any]
) -> dict[str, Any]:
    """An evaluation's figures: the metrics, those of the ensemble of all epochs so far, and the published one to compare with."""
    summary = predictions.summary()
    if "cumulative" in averages:
        mean = np.asarray(averages["cumulative"]) / epoch
        ensemble = metrics.summary(mean, predictions.targets)[config.metric]
        summary[f"ensemble_{config.metric}"] = ensemble
    return summary | coverage(config, len(predictions.ids)) | published_gap(config, epoch, summary)


def coverage(config: ConfigDict, num_examples: int) -> dict[str, Any]:
    """{expected_examples, coverage} where the recipe says how many clips its evaluation should have: AudioSet's vanish from the net."""
    expected = config.dataset.expected
    return {"expected_examples": expected, "coverage": num_examples / expected} if expected else {}


def published_gap(config: ConfigDict, epoch: int, summary: Mapping[str, Any]) -> dict[str, Any]:
    """{published, difference, inside} of an epoch's figures where the recipe knows the published one, else {}."""
    known = config.published
    if not known:
        return {}
    curve = {int(key): figure for key, figure in known.curve.items()}
    gap = metrics.published_gap(epoch, summary[known.metric], curve, known.band)
    return (
        {}
        if gap is None
        else {"published": gap.published, "difference": gap.difference, "inside": gap.inside}
    )


def better(best: dict[str, Any] | None, row: Mapping[str, Any], metric: str) -> dict[str, Any]:
    """The best epoch so far; of equals the later one."""
    if best is not None and not row[metric] >= best["value"] and not math.isnan(best["value"]):
        return best
    return {"epoch": row["epoch"], "step": row["step"], "metric": metric, "value": row[metric]}
