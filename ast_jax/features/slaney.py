"""The front end of PANNs and of librosa's users: Slaney's mel scale over a centred spectrogram, in decibels.

K FFT bins, F mel bins. As `torchlibrosa` computes it for the published models (Kong et al. 2020, section
III): a periodic Hann window as long as the FFT, centred frames with the sound mirrored at its ends, power,
`librosa.filters.mel` with its area norm, 10 log10(max(x, 1e-10)).
"""

import dataclasses
import math
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float

from ast_jax.features.centred import Centred

_FLOOR = 1e-10


@dataclasses.dataclass(frozen=True)
class Slaney(Centred):
    """CNN14's 32 kHz front end, where nothing else is said; its frames are as long as its FFT."""

    sample_rate_hz: int = 32_000
    frame_length: int = 1024
    frame_shift: int = 320
    num_mel_bins: int = 64
    low_hz: float = 50.0
    high_hz: float = 14_000.0

    kind: ClassVar[str] = "slaney"
    padding: ClassVar[float] = 10 * math.log10(_FLOOR)
    silence: ClassVar[float] = 10 * math.log10(_FLOOR)
    nats: ClassVar[float] = math.log(10) / 10
    # of librosa's filters, other than its own
    options: ClassVar[dict[str, Any]] = {}

    def compressed(self, energy: Any, xp: Any) -> Any:
        """Decibels."""
        return 10 * xp.log10(xp.maximum(energy, _FLOOR))

    def filters(self) -> Float[np.ndarray, "K F"]:
        # half a second of import, which other front ends need not pay
        from librosa.filters import mel

        bins = mel(
            sr=self.sample_rate_hz,
            n_fft=self.fft_length,
            n_mels=self.num_mel_bins,
            fmin=self.low_hz,
            fmax=self.high_hz,
            dtype=np.float64,
            **self.options,
        )
        return bins.T


@dataclasses.dataclass(frozen=True)
class HTKDecibels(Slaney):
    """torchaudio's MelSpectrogram and AmplitudeToDB as they are by default: the HTK mel scale, triangles of
    height 1. CED's (Dinkel et al. 2023), where nothing else is said.
    """

    sample_rate_hz: int = 16_000
    frame_length: int = 512
    frame_shift: int = 160
    low_hz: float = 0.0
    high_hz: float = 8000.0

    kind: ClassVar[str] = "htk_decibels"
    options: ClassVar[dict[str, Any]] = {"htk": True, "norm": None}
