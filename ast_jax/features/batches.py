"""From a batch of the pipeline to features on the device.

B batch, S samples, T frames, F mel bins.
"""

from collections.abc import Mapping

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ast_jax.features.front_end import FrontEnd


def features(batch: Mapping[str, Array], front_end: FrontEnd) -> Float[Array, "B T F"]:
    """The batch's features, float32, not yet normalised, padded past each clip's own length."""
    return pad_rows(unpadded(batch, front_end), batch["length"], front_end.padding)


def unpadded(batch: Mapping[str, Array], front_end: FrontEnd) -> Float[Array, "B T F"]:
    """As stored, or made here from waveforms; what rows past a clip's own length hold means nothing."""
    if "fbank" in batch:
        return batch["fbank"].astype(jnp.float32)
    return front_end.features(waveform(batch), num_samples=batch["num_samples"])


def pad_rows(x: Float[Array, "B T F"], length: Int[Array, " B"], padding: float) -> Float[Array, "B T F"]:
    """`padding` on rows past each clip's own length. The reference pads with 0 *after* log_mel: a waveform
    padded with zeros would give -15.94 there.
    """
    own = jnp.arange(x.shape[1])[None, :] < length[:, None]
    return jnp.where(own[..., None], x, padding)


def waveform(batch: Mapping[str, Array], key: str = "waveform") -> Float[Array, "B S"]:
    """Samples in [-1, 1]; 16-bit as they are stored, or floats that were mixed already."""
    stored = batch[key]
    return stored if jnp.issubdtype(stored.dtype, jnp.floating) else stored.astype(jnp.float32) / 32768
