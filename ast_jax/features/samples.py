"""Sound as it is, for models that look at the waveform: each row of features is the samples of one hop.

S samples, T frames, F samples a hop.
"""

import dataclasses
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float

from ast_jax.errors import InputError
from ast_jax.features.front_end import FrontEnd
from ast_jax.features.slaney import Slaney


@dataclasses.dataclass(frozen=True)
class Samples(FrontEnd):
    """Wavegram-Logmel-CNN14's 10 ms at 32 kHz, where nothing else is said. A last row that is not full ends
    in zeros.
    """

    sample_rate_hz: int = 32_000
    frame_length: int = 320
    frame_shift: int = 320
    num_mel_bins: int = 320

    kind: ClassVar[str] = "samples"
    silence: ClassVar[float] = 0.0
    in_powers: ClassVar[bool] = False

    def __post_init__(self):
        if not self.frame_length == self.frame_shift == self.num_mel_bins >= 1:
            raise InputError(
                f"the front end samples has rows of {self.frame_length} samples every {self.frame_shift} in "
                f"{self.num_mel_bins} columns: wanted one number for all three"
            )

    def num_frames(self, num_samples: int) -> int:
        """Rows that hold all samples, at least one."""
        return max(1, -(-num_samples // self.frame_shift))

    def features(
        self, waveform: Float[Any, "*batch S"], *, num_samples: Any = None
    ) -> Float[Any, "*batch T F"]:
        """The waveform, row by row; past its own end it is silent already."""
        if isinstance(waveform, np.ndarray):
            xp: Any = np
        else:
            import jax.numpy as xp
        rows = self.num_frames(waveform.shape[-1])
        missing = rows * self.frame_shift - waveform.shape[-1]
        padded = xp.pad(waveform, [(0, 0)] * (waveform.ndim - 1) + [(0, missing)])
        return padded.reshape(*waveform.shape[:-1], rows, self.frame_shift)

    def picture(self, features: Float[np.ndarray, "T F"]) -> Float[np.ndarray, "T bins"]:
        """Decibels in mel bands, a row for each of its own."""
        rate_hz, shift = self.sample_rate_hz, self.frame_shift
        half_a_frame = 1 << max(1, shift.bit_length() - 1)
        mel = Slaney(rate_hz, 2 * half_a_frame, shift, high_hz=0.4375 * rate_hz)
        return mel.features(np.asarray(features, np.float32).reshape(-1))[: len(features)]
