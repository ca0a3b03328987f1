"""The front end of VGGish (Hershey et al. 2017; tensorflow/models, research/audioset/vggish): logarithms of
mel-weighted magnitudes at 16 kHz.

S samples, T frames, K FFT bins, F mel bins. Frames of 25 ms every 10 ms under a periodic Hann window, none of
them padded; |FFT| of 512 samples; triangles of peak 1, linear in HTK's mel from 125 to 7,500 Hz, without the
bin at 0 Hz; log(x + 0.01). One specification for NumPy and for devices.
"""

import dataclasses
import functools
import math
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float

from ast_jax.errors import InputError
from ast_jax.features.centred import hann, power_of
from ast_jax.features.front_end import FrontEnd

_OFFSET, _FFT_LENGTH = 0.01, 512
_LOW_HZ, _HIGH_HZ = 125.0, 7_500.0


@dataclasses.dataclass(frozen=True)
class VGGishMel(FrontEnd):
    """As published; no number of it is a choice."""

    sample_rate_hz: int = 16_000
    frame_length: int = 400
    frame_shift: int = 160
    num_mel_bins: int = 64

    kind: ClassVar[str] = "vggish"
    padding: ClassVar[float] = math.log(_OFFSET)
    silence: ClassVar[float] = math.log(_OFFSET)
    # of magnitudes
    nats: ClassVar[float] = 2.0

    def __post_init__(self):
        own = (self.sample_rate_hz, self.frame_length, self.frame_shift, self.num_mel_bins)
        if own != (fixed := (16_000, 400, 160, 64)):
            raise InputError(f"the front end vggish has {fixed} (Hz, samples, samples, bins), got {own}")

    def features(
        self, waveform: Float[Any, "*batch S"], *, num_samples: Any = None
    ) -> Float[Any, "*batch T F"]:
        """Past its own end a waveform is silent already, and so are its features."""
        on_host = isinstance(waveform, np.ndarray)
        import jax.numpy as jnp

        xp: Any = np if on_host else jnp
        missing = max(0, self.frame_length - waveform.shape[-1])
        x = xp.pad(waveform, [(0, 0)] * (waveform.ndim - 1) + [(0, missing)])
        starts = self.frame_shift * xp.arange(self.num_frames(x.shape[-1]))
        frames = x[..., starts[:, None] + xp.arange(self.frame_length)[None]]
        magnitude = xp.sqrt(power_of(frames, hann(self.frame_length), _FFT_LENGTH))
        filters = mel_matrix().astype(magnitude.dtype)
        # float32 whatever a device's products are by default
        mel = magnitude @ filters if on_host else jnp.matmul(magnitude, filters, precision="highest")
        return xp.log(mel + _OFFSET).astype(waveform.dtype)


@functools.lru_cache(maxsize=1)
def mel_matrix() -> np.ndarray:
    """[K, F]: magnitudes to mel bands."""
    to_mel = lambda hertz: 1127 * np.log1p(np.asarray(hertz) / 700)
    edges = np.linspace(to_mel(_LOW_HZ), to_mel(_HIGH_HZ), 64 + 2)
    bins = to_mel(np.linspace(0, 8_000, _FFT_LENGTH // 2 + 1))[:, None]
    rising = (bins - edges[:-2]) / np.diff(edges[:-1])
    falling = (edges[2:] - bins) / np.diff(edges[1:])
    matrix = np.maximum(0, np.minimum(rising, falling))
    matrix[0] = 0
    return matrix
