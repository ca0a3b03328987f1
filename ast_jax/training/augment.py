"""Augmentation of one example at a time, keyed by (seed, step, position in the stream), so that it does not depend on
how many devices there are or on whether a run was resumed.

B batch, T frames, F mel bins, S samples.
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from ast_jax.features.spec import LOG_FLOOR


def example_keys(seed: int, step: Int[Array, ""], index: Int[Array, " B"]) -> Key[Array, " B"]:
    """One random key an example."""
    key = jax.random.fold_in(jax.random.key(seed), step)
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, index)


def spec_mask(
    key: Key[Array, ""], fbank: Float[Array, "T F"], *, freq_mask: int, time_mask: int
) -> Float[Array, "T F"]:
    """SpecAugment as the reference has it: one frequency and one time mask, filled with 0 before normalisation.

    Each: v = U[0, 1) x widest, start = floor(U[0, 1) x (size - v)), width = floor(v).
    """
    keep = jnp.ones((), bool)
    for axis, widest, axis_key in zip((1, 0), (freq_mask, time_mask), jax.random.split(key), strict=True):
        size = fbank.shape[axis]
        u, w = jax.random.uniform(axis_key, (2,))
        value = u * min(widest, size)
        start = jnp.floor(w * (size - value))
        cell = jnp.arange(size)
        inside = (cell >= start) & (cell < start + jnp.floor(value))
        keep = keep & ~jnp.expand_dims(inside, 1 - axis)
    return jnp.where(keep, fbank, 0.0)


def mix_power(
    fbank: Float[Array, "T F"],
    length: Int[Array, ""],
    partner: Float[Array, "T F"],
    partner_length: Int[Array, ""],
    share: Float[Array, ""],
) -> Float[Array, "T F"]:
    """Mixup of log-mels, log(l^2 e^a + (1-l)^2 e^b): the expectation of mixing the waveforms, whose cross term has mean zero.

    Rows of the partner past its own end add no power; the floor of log_mel holds again afterwards; rows past `length` mean
    nothing here and are padded by the caller. `share` 1 returns the clip as it is.
    """
    rows = jnp.arange(fbank.shape[0])[:, None]
    other = jnp.where(rows < partner_length, jnp.exp(partner), 0.0)
    mixed = jnp.log(jnp.maximum(share**2 * jnp.exp(fbank) + (1 - share) ** 2 * other, LOG_FLOOR))
    return jnp.where(share < 1, mixed, fbank)


def mix_waveforms(
    waveform: Float[Array, " S"],
    num_samples: Int[Array, ""],
    partner: Float[Array, " S"],
    partner_samples: Int[Array, ""],
    share: Float[Array, ""],
) -> Float[Array, " S"]:
    """Mixup as the reference does it: both without their mean, the partner padded or cut to the clip's own length."""

    def centred(sound, count):
        own = jnp.arange(sound.shape[0]) < count
        return jnp.where(own, sound - jnp.where(own, sound, 0.0).sum() / jnp.maximum(count, 1), 0.0)

    mixed = share * centred(waveform, num_samples) + (1 - share) * centred(partner, partner_samples)
    mixed = jnp.where(jnp.arange(waveform.shape[0]) < num_samples, mixed, 0.0)
    return jnp.where(share < 1, mixed, waveform)


def gain(key: Key[Array, ""], fbank: Float[Array, "T F"], *, most_db: float) -> Float[Array, "T F"]:
    """Louder or softer by U(-most, most) dB: a constant added to the log power, the floor kept."""
    db = jax.random.uniform(key, minval=-most_db, maxval=most_db)
    return jnp.maximum(fbank + db * (math.log(10) / 10), math.log(LOG_FLOOR))


def noise(key: Key[Array, ""], x: Float[Array, "T F"]) -> Float[Array, "T F"]:
    """The reference's noise on normalised features: U[0, 1) a cell times one U[0, 1) an example, over 10."""
    cells, strength = jax.random.split(key)
    return x + jax.random.uniform(cells, x.shape) * jax.random.uniform(strength) / 10


def patchout(
    key: Key[Array, ""], grid: tuple[int, int], *, freq: int = 0, time: int = 0, patches: int = 0
) -> Int[Array, " K"]:
    """PaSST's patchout (Koutini et al. 2022, section 3): the numbers of the patches left in, frequency-major and ascending.

    Structured: `freq` whole rows and `time` whole columns of the grid (frequency, time) go, drawn without replacement; then
    unstructured: `patches` of the rest. Always K = (rows - freq) (columns - time) - patches of them.
    """
    row_key, column_key, patch_key = jax.random.split(key, 3)
    draw = lambda key, size, out: jnp.sort(jax.random.permutation(key, size)[: size - out])
    rows, columns = draw(row_key, grid[0], freq), draw(column_key, grid[1], time)
    left = (rows[:, None] * grid[1] + columns[None]).reshape(-1)
    return left[draw(patch_key, left.shape[0], patches)] if patches else left


def roll(key: Key[Array, ""], x: Float[Array, "T F"], *, most: int) -> Float[Array, "T F"]:
    """A circular shift by -most .. most - 1 frames, padding included, as in the reference (most 10)."""
    return jnp.roll(x, jax.random.randint(key, (), -most, most), axis=0)


def time_shift(key: Key[Array, ""], x: Float[Array, "T F"], *, most: int) -> Float[Array, "T F"]:
    """Earlier or later by up to `most` frames each way; what leaves is lost and padding, 0 before normalisation, comes in.

    Unlike `roll`, which is the reference's and turns the padded clip in a circle.
    """
    shift = jax.random.randint(key, (), -most, most + 1)
    source = jnp.arange(x.shape[0]) - shift
    inside = (source >= 0) & (source < x.shape[0])
    return jnp.where(inside[:, None], jnp.roll(x, shift, axis=0), 0.0)
