"""Patch geometry on the host: the grid of a spectrogram, and how kernels and positions of another grid are made to fit it.

Letters: F mel bins, T frames, f x t the patch grid, D width. Shapes, strides and grids are always (frequency, time).
"""

from ast_jax.errors import InputError


def grid_shape(
    num_mel_bins: int, num_frames: int, patch_shape: tuple[int, int], strides: tuple[int, int]
) -> tuple[int, int]:
    """The patch grid (f, t) of a spectrogram of `num_mel_bins` x `num_frames`, patches laid without padding.

    f = (F - pf) // sf + 1 and t = (T - pt) // st + 1, as a convolution without padding has it (AST paper, section 2.1).

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
