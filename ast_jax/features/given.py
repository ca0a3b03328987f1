"""Features that exist already, of somebody else's front end, taken as they come; `arrays.py` reads files.

T frames, F mel bins.
"""

import dataclasses
import math
from typing import Any, ClassVar

from jaxtyping import Float

from ast_jax.errors import InputError
from ast_jax.features.front_end import FrontEnd

# Nats of power in one unit of the features; None: they are no logarithms of power.
LOGS: dict[str, float | None] = {"none": None, "ln": 1.0, "log10": math.log(10), "db": math.log(10) / 10}
AXES = ("tf", "ft")
# The power below which librosa and torchaudio take no logarithm.
FLOOR = 1e-10
# Beyond, float16 (which shards hold) is infinite; and where nothing is larger, it is too coarse.
LARGEST, SMALLEST = 65504.0, 1e-3


@dataclasses.dataclass(frozen=True)
class Given(FrontEnd):
    """What there is to say of them: `frame_shift` samples at `sample_rate_hz` from one frame to the next, of
    which `frame_length` is as long.

    `axes` of a file: tf, [frames, mel bins], as Kaldi writes, or ft, [mel bins, frames], as librosa and
    torchaudio do. `log` is what was taken of powers: ln, log10, db (10 log10), or none. `pad` fills a clip
    up, and is taken for silence; None: the logarithm of 1e-10, where librosa and torchaudio stop, and 0
    without one.
    """

    sample_rate_hz: int = 16_000
    frame_length: int = 160
    frame_shift: int = 160
    num_mel_bins: int = 128
    axes: str = "tf"
    log: str = "none"
    pad: float | None = None
    # as an AST sees them; with mean 0: as they are
    std: float = 0.5
    spread: float = 2.0

    kind: ClassVar[str] = "given"
    of_sound: ClassVar[bool] = False

    def __post_init__(self):
        whole = (self.sample_rate_hz, self.frame_length, self.frame_shift, self.num_mel_bins)
        if not all(isinstance(number, int) and number >= 1 for number in whole):
            raise InputError(
                f"features at {self.sample_rate_hz} Hz, {self.frame_length} samples every {self.frame_shift} "
                f"and {self.num_mel_bins} bins: wanted whole numbers above 0"
            )
        if self.frame_length != self.frame_shift:
            raise InputError(
                f"the front end given has frames of {self.frame_length} samples every {self.frame_shift}: "
                "wanted one number, since nobody knows how much sound a frame saw"
            )
        if self.axes not in AXES or self.log not in LOGS:
            raise InputError(
                f"features with axes={self.axes} and log={self.log}: choose {' or '.join(AXES)}, and one of "
                f"{', '.join(LOGS)}"
            )
        nats = LOGS[self.log]
        floor = 0.0 if nats is None else round(math.log(FLOOR) / nats, 4)
        pad = floor if self.pad is None else self.pad
        if isinstance(pad, bool) or not isinstance(pad, int | float) or not abs(pad) <= LARGEST:
            raise InputError(f"features are filled up with pad={pad}: wanted a number")
        # constants of other front ends
        own = {"pad": float(pad), "padding": float(pad), "silence": float(pad)}
        own |= {"nats": nats or 1.0, "in_powers": nats is not None}
        for name, value in own.items():
            object.__setattr__(self, name, value)

    def num_frames(self, num_samples: int) -> int:
        return max(1, num_samples // self.frame_shift)

    def features(
        self, waveform: Float[Any, "*batch T F"], *, num_samples: Any = None
    ) -> Float[Any, "*batch T F"]:
        """Features as they are. Raises InputError for a waveform."""
        if waveform.ndim < 2 or waveform.shape[-1] != self.num_mel_bins:
            raise InputError(
                f"this model takes features that exist already ([frames, {self.num_mel_bins}], .npy or "
                f".npz), no sound: got {list(waveform.shape)}"
            )
        return waveform
