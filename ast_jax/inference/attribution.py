"""Which part of a spectrogram a model's answer rests on: gradient x input, of any family.

T frames, F mel bins, K labels.
"""

from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Int

MARKED_SHARE = 0.15  # of a clip's cells
_SMOOTHED = 9  # cells a side: single cells of a gradient say little (Smilkov et al. 2017)


def gradient_times_input(
    model: Any, x: Float[Array, "T F"], labels: Int[Array, " K"]
) -> Float[Array, "K T F"]:
    """x times the gradient of each label's logit: to first order, what a cell adds to it beyond a cell of
    average level.

    `x` is normalised, so that 0 is the average level of the training set. Negative cells speak against the
    label.
    """
    gradient = jax.grad(lambda clip, label: model(clip[None])[0][0, label])
    return jax.lax.map(lambda label: x * gradient(x, label), labels)


def smoothed(relevance: Float[np.ndarray, "T F"]) -> Float[np.ndarray, "T F"]:
    """The mean of each cell and its neighbours."""
    from scipy.ndimage import uniform_filter

    return uniform_filter(np.asarray(relevance, np.float64), _SMOOTHED, mode="nearest")


def marked_region(
    relevance: Float[np.ndarray, "T F"], share: float = MARKED_SHARE
) -> Bool[np.ndarray, "T F"]:
    """The `share` of cells, exactly, where the smoothed relevance is highest."""
    smooth = smoothed(relevance)
    count = max(1, round(share * smooth.size))
    marked = np.zeros(smooth.size, bool)
    marked[np.argsort(-smooth, axis=None, kind="stable")[:count]] = True
    return marked.reshape(smooth.shape)
