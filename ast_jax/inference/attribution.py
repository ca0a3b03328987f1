"""Which part of a spectrogram a model's answer rests on: attention rollout, attention of every head, gradient
x input.

T frames, F mel bins, N tokens (P class and distillation tokens, then patches), L layers, H heads, f x t the
patch grid, K labels.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from ast_jax.models import ASTConfig

MARKED_SHARE = 0.15  # of a clip's cells
_SMOOTHED = 9  # cells a side: single cells of a gradient say little (Smilkov et al. 2017)


def attention_maps(
    weights: Float[Array, "B L H N N"], config: ASTConfig
) -> tuple[Float[Array, "B L H f t"], Float[Array, "B f t"]]:
    """How the class and distillation tokens (their mean) attend to each patch: head by head, and rolled out.

    Rollout (Abnar and Zuidema 2020): the product over layers of (mean over heads + identity) / 2, the
    identity standing for the residual connection. Rows stay sums to 1. It says where the answer may have come
    from, for no label in particular.
    """
    prefix, identity = config.num_prefix_tokens, jnp.eye(config.num_tokens)
    rolled = jnp.broadcast_to(identity, (len(weights), *identity.shape))
    for layer in range(weights.shape[1]):
        rolled = (weights[:, layer].mean(axis=1) + identity[None]) / 2 @ rolled
    heads = weights[:, :, :, :prefix, prefix:].mean(axis=3)
    found = rolled[:, :prefix, prefix:].mean(axis=1)
    return heads.reshape(*heads.shape[:3], *config.grid), found.reshape(-1, *config.grid)


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


def over_cells(grid: Float[np.ndarray, "*batch f t"], config: ASTConfig) -> Float[np.ndarray, "*batch T F"]:
    """A value a patch to a value a cell: the mean over the patches that cover it, 0 where none does."""
    rows = _covers(config.num_mel_bins, config.patch_shape[0], config.strides[0], config.grid[0])
    columns = _covers(config.num_frames, config.patch_shape[1], config.strides[1], config.grid[1])
    count = np.outer(columns.sum(axis=1), rows.sum(axis=1))
    return columns @ np.swapaxes(grid, -1, -2) @ rows.T / np.maximum(count, 1)


def _covers(cells: int, size: int, stride: int, patches: int) -> Float[np.ndarray, "cells patches"]:
    """1 where a patch covers a cell, along one axis."""
    after_start = np.arange(cells)[:, None] - stride * np.arange(patches)
    return ((after_start >= 0) & (after_start < size)).astype(np.float64)


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
