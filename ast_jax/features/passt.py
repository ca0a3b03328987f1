"""PaSST's front end: Kaldi's filters at 32 kHz over centred, pre-emphasised frames, log(x + 1e-5).

K FFT bins, F mel bins. As `hear21passt` computes it for the published models (Koutini et al. 2022): y[n] =
x[n + 1] - .97 x[n], a symmetric Hann window of 25 ms in the middle of an FFT of 1,024, power, Kaldi's
triangles from 0 to 15 kHz. A model sees (x + 4.5) / 5.
"""

import dataclasses
import math
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float

from ast_jax.features import spec
from ast_jax.features.centred import Centred, hann

_OFFSET = 1e-5


@dataclasses.dataclass(frozen=True)
class PaSSTMel(Centred):
    """25 ms every 10 ms."""

    sample_rate_hz: int = 32_000
    frame_length: int = 800
    frame_shift: int = 320
    num_mel_bins: int = 128
    high_hz: float = 15_000.0
    mean: float | Float[Any, ""] = -4.5
    std: float | Float[Any, ""] = 5.0

    kind: ClassVar[str] = "passt"
    padding: ClassVar[float] = math.log(_OFFSET)
    silence: ClassVar[float] = math.log(_OFFSET)

    @property
    def fft_length(self) -> int:
        """The next power of two."""
        return 1 << (self.frame_length - 1).bit_length()

    def num_frames(self, num_samples: int) -> int:
        """Of one sample fewer, for the first has no predecessor."""
        return super().num_frames(num_samples - 1)

    def span(self, num_frames: int) -> int:
        return super().span(num_frames) + 1

    def before(self, waveform: Any, own: Any) -> tuple[Any, Any]:
        """Pre-emphasis."""
        return waveform[..., 1:] - spec.PREEMPHASIS * waveform[..., :-1], (own - 1).clip(0)

    def window(self) -> Float[np.ndarray, " fft_length"]:
        before = (self.fft_length - self.frame_length) // 2
        after = self.fft_length - self.frame_length - before
        return np.pad(hann(self.frame_length, periodic=False), (before, after))

    def filters(self) -> Float[np.ndarray, "K F"]:
        found = spec.mel_filters(
            self.num_mel_bins,
            sample_rate_hz=self.sample_rate_hz,
            fft_length=self.fft_length,
            low_hz=self.low_hz,
            high_hz=self.high_hz,
        )
        return np.pad(found, ((0, 1), (0, 0)))

    def compressed(self, energy: Any, xp: Any) -> Any:
        """Nats."""
        return xp.log(energy + _OFFSET)
