"""The device body of `log_mel`: the same front end as matrix products, for jit, vmap and any leading axes.

S samples, T frames, F mel bins. Frames come from a reshape and the spectrum from a product with the DFT
matrix: no gather and no FFT, which move five times the memory on a TPU. Every product runs at the highest
precision: bfloat16 passes, a TPU's default, would put errors of whole nats into quiet bins.
"""

from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ast_jax.features import spec

_HIGHEST = jax.lax.Precision.HIGHEST


def log_mel_on_device(
    waveform: Float[Array, "*batch S"],
    *,
    num_mel_bins: int = spec.NUM_MEL_BINS,
    num_samples: int | Int[Array, "*batch"] | Int[np.ndarray, "*batch"] | None = None,
    povey: bool = False,
) -> Float[Array, "*batch T F"]:
    """`log_mel` for jax arrays and tracers; see there.

    Traces to constant shapes: `num_samples` may be traced.
    """
    x = waveform.astype(jnp.float64 if waveform.dtype == jnp.float64 else jnp.float32)
    x = _without_mean(x, num_samples)
    frames = _emphasised_frames(_fit(x, spec.span(spec.num_frames(x.shape[-1]))))
    parts = jnp.matmul(frames, _windowed_dft(x.dtype, povey), precision=_HIGHEST)
    power = jnp.square(parts[..., : spec.FFT_BINS]) + jnp.square(parts[..., spec.FFT_BINS :])
    energy = jnp.matmul(power, spec.mel_filters(num_mel_bins).astype(x.dtype), precision=_HIGHEST)
    return jnp.log(jnp.maximum(energy, spec.LOG_FLOOR_16_BIT if povey else spec.LOG_FLOOR))


def _without_mean(x: jax.Array, num_samples) -> jax.Array:
    """Subtracts each waveform's mean over its own samples and leaves 0 past them."""
    if x.shape[-1] == 0:
        return x
    if num_samples is None:
        return x - _rounded(jnp.mean(x, axis=-1, keepdims=True))
    count = jnp.broadcast_to(jnp.clip(num_samples, 0, x.shape[-1]), x.shape[:-1])[..., None]
    is_sound = jnp.broadcast_to(jnp.arange(x.shape[-1]), x.shape) < count
    # typed: jax2onnx writes a bare 0 as a double
    zero = jnp.zeros((), x.dtype)
    total = jnp.sum(jnp.where(is_sound, x, zero), axis=-1, keepdims=True)
    mean = total / jnp.maximum(count, 1).astype(x.dtype)
    return jnp.where(is_sound, x - _rounded(mean), zero)


def _rounded(mean: jax.Array) -> jax.Array:
    """The mean to one bit less: a number the compiler cannot fuse away.

    Left alone, jax 0.10 on CPUs computes x[n] - sum / S in one rounding for one use and in two for the next;
    differences of neighbours then hold an offset of 4e-9, and quiet sound on a loud offset came out 9e-4 nats
    wrong (2e-5 with this).
    """
    kind = jnp.finfo(mean.dtype)
    return jax.lax.reduce_precision(mean, exponent_bits=kind.nexp, mantissa_bits=kind.nmant - 1)


def _emphasised_frames(x: jax.Array) -> jax.Array:
    """[..., 400 + 160 (T - 1)] to frames [..., T, 400], their means removed, pre-emphasised.

    A frame is two and a half shifts of 160 samples: two rows and a half of one reshape. Removing a frame's
    mean m before the pre-emphasis is removing 0.03 m after it, so that is done once on the waveform (as a
    difference plus 0.03 x[n-1]; see the NumPy body). It must not move into the DFT matrix: sounds with most
    of their energy near 0 Hz would lose to rounding what the pre-emphasis brings out.
    """
    shift, half = spec.FRAME_SHIFT, spec.FRAME_SHIFT // 2
    before = jnp.concatenate([jnp.zeros_like(x[..., :1]), x[..., :-1]], axis=-1)

    def in_shifts(samples):  # [..., T + 2, 160], of which the last half row is padding
        padded = _fit(samples, samples.shape[-1] + half)
        return padded.reshape(*padded.shape[:-1], padded.shape[-1] // shift, shift)

    rows, sound = in_shifts((x - before) + (1 - spec.PREEMPHASIS) * before), in_shifts(x)
    frames = jnp.concatenate([rows[..., :-2, :], rows[..., 1:-1, :], rows[..., 2:, :half]], axis=-1)
    sums, half_sums = sound.sum(axis=-1), sound[..., :half].sum(axis=-1)
    means = (sums[..., :-2] + sums[..., 1:-1] + half_sums[..., 2:]) / spec.FRAME_LENGTH
    return frames - (1 - spec.PREEMPHASIS) * means[..., None]


def _fit(x: jax.Array, length: int) -> jax.Array:
    """Cuts the last axis, or appends zeros to it, to `length`."""
    x = x[..., :length]
    return jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, length - x.shape[-1])])


@lru_cache(maxsize=2)
def _windowed_dft(dtype, povey: bool) -> np.ndarray:
    """[400, 512]: window times cosines of bins 0..255, then window times sines."""
    angles = 2 * np.pi / spec.FFT_LENGTH * np.outer(np.arange(spec.FRAME_LENGTH), np.arange(spec.FFT_BINS))
    waves = np.concatenate([np.cos(angles), np.sin(angles)], axis=1)
    return (spec.window(povey=povey)[:, None] * waves).astype(dtype)
