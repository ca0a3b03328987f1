"""Augmentation of one example at a time, keyed by (seed, step, position in the stream), so that it does not depend on
how many devices there are or on whether a run was resumed.

B batch, T frames, F mel bins.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key


def example_keys(seed: int, step: Int[Array, ""], index: Int[Array, "B"]) -> Key[Array, "B"]:
    """One random key an example."""
    key = jax.random.fold_in(jax.random.key(seed), step)
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, index)


def spec_mask(key: Key[Array, ""], fbank: Float[Array, "T F"], *, freq_mask: int, time_mask: int) -> Float[Array, "T F"]:
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
