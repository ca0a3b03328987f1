"""From a batch of the pipeline to features on the device.

B batch, S samples, T frames, F mel bins.
"""

import functools
import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
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


def resampled(
    waveform: Float[Array, "B S"], num_samples: Int[Array, " B"], rates_hz: tuple[int, int]
) -> tuple[Float[Array, "B U"], Int[Array, " B"]]:
    """Sounds and their lengths from one rate to the other, on the device: scipy.signal.resample_poly's filter
    and places. U = ceil(S up / down).
    """
    up, down = (rate // math.gcd(*rates_hz) for rate in reversed(rates_hz))
    if up == down:
        return waveform, num_samples
    taps, samples = _low_pass(up, down), waveform.shape[1]
    half, length = len(taps) // 2, -(-samples * up // down)
    after = (length - 1) * down + half - (samples - 1) * up
    found = jax.lax.conv_general_dilated(
        waveform[:, None],
        jnp.asarray(taps, waveform.dtype)[None, None],
        window_strides=(down,),
        padding=[(half, after)],
        lhs_dilation=(up,),
        precision="highest",
    )
    return found[:, 0], -(-num_samples * up // down)


@functools.lru_cache(maxsize=8)
def _low_pass(up: int, down: int) -> np.ndarray:
    import scipy.signal

    most = max(up, down)
    return up * scipy.signal.firwin(20 * most + 1, 1 / most, window=("kaiser", 5.0))
