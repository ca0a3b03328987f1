"""Patch geometry on the host: the grid of a spectrogram, and how kernels and positions of another grid are
made to fit it.

Letters: F mel bins, T frames, f x t the patch grid, D width. Shapes, strides and grids are always (frequency,
time). I input channels, h x w and pf x pt patch sizes. NumPy only: this runs once, on the host.
"""

import numpy as np
from jaxtyping import Float

from ast_jax.errors import InputError


def grid_shape(
    num_mel_bins: int, num_frames: int, patch_shape: tuple[int, int], strides: tuple[int, int]
) -> tuple[int, int]:
    """The patch grid (f, t) of a spectrogram of `num_mel_bins` x `num_frames`, patches laid without padding.

    f = (F - pf) // sf + 1 and t = (T - pt) // st + 1, as a convolution without padding has it (AST paper,
    section 2.1).

    Raises:
        InputError: the spectrogram is smaller than one patch, or a size or stride is below 1.
    """
    if min(*patch_shape, *strides) < 1:
        raise InputError(f"patch_shape {patch_shape} and strides {strides} must be 1 or more on each axis")
    if num_mel_bins < patch_shape[0] or num_frames < patch_shape[1]:
        raise InputError(
            f"a spectrogram of {num_mel_bins} mel bins x {num_frames} frames is smaller than one patch of "
            f"{patch_shape[0]} x {patch_shape[1]}: raise num_frames, or take a smaller patch_shape"
        )
    (pf, pt), (sf, st) = patch_shape, strides
    return (num_mel_bins - pf) // sf + 1, (num_frames - pt) // st + 1


def over_cells(
    values: Float[np.ndarray, "*batch f t"],
    extent: tuple[int, int],
    patch_shape: tuple[int, int],
    strides: tuple[int, int],
) -> Float[np.ndarray, "*batch T F"]:
    """A value a patch to a value a cell of a spectrogram of this extent (F, T): the mean over the patches
    that cover it, 0 where none does.
    """
    rows, columns = (
        _covers(*axis) for axis in zip(extent, patch_shape, strides, values.shape[-2:], strict=True)
    )
    count = np.outer(columns.sum(axis=1), rows.sum(axis=1))
    return columns @ np.swapaxes(values, -1, -2) @ rows.T / np.maximum(count, 1)


def _covers(cells: int, size: int, stride: int, patches: int) -> Float[np.ndarray, "cells patches"]:
    """1 where a patch covers a cell, along one axis."""
    after_start = np.arange(cells)[:, None] - stride * np.arange(patches)
    return ((after_start >= 0) & (after_start < size)).astype(np.float64)


def adapt_kernel(
    kernel: Float[np.ndarray, "h w I D"], patch_shape: tuple[int, int], *, rgb: str = "sum"
) -> Float[np.ndarray, "pf pt 1 D"]:
    """A patch kernel for one-channel spectrogram patches of `patch_shape`, from any other patch kernel.

    Channels fold first. `rgb='sum'` is what the reference's code does: the kernel then answers a grey image
    as the ViT did. `rgb='mean'` is the AST paper's wording (section 2.2): the same divided by three. A patch
    of another size is resized by FlexiViT's pseudo-inverse rule (PI-resize, Beyer et al. 2023, section 3.4):
    a patch enlarged bilinearly gives the same token as before; bilinear, half-pixel centres, no antialiasing.

    Raises:
        InputError: `rgb` is neither.
    """
    if rgb not in ("sum", "mean"):
        raise InputError(f"rgb={rgb!r}: choose 'sum' (the published code) or 'mean' (the paper's wording)")
    grey = getattr(kernel.astype(np.float64), rgb)(axis=2, keepdims=True)
    for axis, size in enumerate(patch_shape):
        if grey.shape[axis] != size:
            resize = _linear_weights(_half_pixel(grey.shape[axis], size), grey.shape[axis])
            grey = _along(np.linalg.pinv(resize.T), grey, axis)
    return grey.astype(np.float32)


def adapt_positions(
    positions: Float[np.ndarray, "f t D"], grid: tuple[int, int], *, mode: str = "bilinear"
) -> Float[np.ndarray, "g u D"]:
    """The reference's rule from one grid to another, for ImageNet grids (24 x 24) and AudioSet's (12 x 101)
    alike.

    Time first, then frequency. An axis that gets shorter keeps its middle, [old // 2 - new // 2 : + new]; one
    that gets longer is interpolated linearly (half-pixel centres, no antialiasing), or by nearest neighbour
    where `mode='nearest'` (the AST paper's ablation, its table 5).

    Raises:
        InputError: `mode` is neither.
    """
    if mode not in ("bilinear", "nearest"):
        raise InputError(f"positions={mode!r}: choose 'bilinear', 'nearest' or 'reinit'")
    for axis in (1, 0):
        old, new = positions.shape[axis], grid[axis]
        if new <= old:
            positions = positions.take(np.arange(new) + old // 2 - new // 2, axis=axis)
        elif mode == "nearest":
            positions = positions.take(np.arange(new) * old // new, axis=axis)
        else:
            positions = _along(_linear_weights(_half_pixel(old, new), old), positions, axis)
    return positions.astype(np.float32)


def positions_by_place(
    positions: Float[np.ndarray, "f t D"],
    *,
    extent: tuple[int, int],
    patch_shape: tuple[int, int],
    strides: tuple[int, int],
    new_patch_shape: tuple[int, int],
    new_strides: tuple[int, int],
    mode: str = "bilinear",
) -> Float[np.ndarray, "g u D"]:
    """Positions of the patches that new strides lay over the *same* spectrogram, taken where their centres
    fall.

    `extent` is that spectrogram, (mel bins, frames). A patch i has its centre at i x stride + size / 2; a new
    centre between two old ones mixes their positions, one outside them all takes the outermost. Equal strides
    and shapes give the positions back. For another length, `adapt_positions` follows. The reference has no
    such rule (it crashes at strides other than the checkpoint's).
    """
    grid = grid_shape(*extent, new_patch_shape, new_strides)
    for axis in (1, 0):
        centres = np.arange(grid[axis]) * new_strides[axis] + new_patch_shape[axis] / 2
        places = (centres - patch_shape[axis] / 2) / strides[axis]
        if mode == "nearest":
            places = np.floor(places + 0.5)
        positions = _along(_linear_weights(places, positions.shape[axis]), positions, axis)
    return positions.astype(np.float32)


def _half_pixel(old: int, new: int) -> np.ndarray:
    """Where `new` cells, spread over `old` ones, have their centres."""
    return (np.arange(new) + 0.5) * old / new - 0.5


def _linear_weights(places: np.ndarray, size: int) -> np.ndarray:
    """The matrix [len(places), size] that interpolates a line of `size` values at `places`, held constant
    outside.
    """
    places = np.clip(places, 0, size - 1)
    return np.maximum(0, 1 - np.abs(places[:, None] - np.arange(size)[None]))


def _along(matrix: np.ndarray, array: np.ndarray, axis: int) -> np.ndarray:
    """`matrix` applied along one axis, in float64."""
    return np.moveaxis(np.tensordot(matrix, array.astype(np.float64), axes=(1, axis)), 0, axis)
