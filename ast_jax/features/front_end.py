"""What a model hears, as a value: sample rate, frames, mel bins, silence and padding, normalisation.

Shards, pipeline, training, evaluation, predict, serve and exports read it; none of them knows a number of its
own. S samples, T frames, F mel bins. NumPy only: a front end's device body is imported when a jax array
comes.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float

from ast_jax.errors import InputError
from ast_jax.features import spec
from ast_jax.features.log_mel import log_mel
from ast_jax.tables import look_up


@dataclasses.dataclass(frozen=True)
class FrontEnd:
    """From a waveform to the features that a model takes.

    Subclasses say how; this one says what all have in common. `mean` and `std` are of the features that a
    model was trained on; they change no shard.
    """

    sample_rate_hz: int
    frame_length: int  # samples a frame sees
    frame_shift: int  # samples from one frame to the next
    num_mel_bins: int
    # Numbers; or arrays where one program is for several.
    mean: float | Float[Any, ""] = 0.0
    std: float | Float[Any, ""] = 1.0
    # A model sees (x - mean) / (spread * std).
    spread: float = 1.0

    kind: ClassVar[str]
    # What rows past a clip's end hold, before normalisation; and a silent cell.
    padding: ClassVar[float] = 0.0
    silence: ClassVar[float]
    # Nats of power in one unit of the features: 1 for a natural logarithm, ln(10) / 10 for decibels.
    nats: ClassVar[float] = 1.0
    # Whether features are log powers of bands, which can be mixed, masked by band and made louder as such.
    in_powers: ClassVar[bool] = True
    # Whether it makes features of sounds; else files hold them already (given.py).
    of_sound: ClassVar[bool] = True

    def features(
        self, waveform: Float[Any, "*batch S"], *, num_samples: Any = None
    ) -> Float[Any, "*batch T F"]:
        """Not yet normalised; NumPy in, NumPy out, and jax in, jax out.

        `num_samples` of each waveform are sound.
        """
        raise TypeError(f"{type(self).__name__} does not say how features are made")

    def normalise(self, x: Float[Any, "*batch T F"]) -> Float[Any, "*batch T F"]:
        """What the model takes."""
        return (x - self.mean) / (self.spread * self.std)

    def picture(self, features: Float[np.ndarray, "T F"]) -> Float[np.ndarray, "T bins"]:
        """What is drawn of them: log powers of rising bands."""
        return features

    def num_frames(self, num_samples: int) -> int:
        """Frames of `num_samples` samples: only whole ones, but never none."""
        return 1 + max(0, num_samples - self.frame_length) // self.frame_shift

    def span(self, num_frames: int) -> int:
        """Samples that many frames cover."""
        return self.frame_length + (num_frames - 1) * self.frame_shift

    def seconds(self, frames: int | float) -> float:
        """From the beginning of a frame to that of the frame that comes `frames` later."""
        return frames * self.frame_shift / self.sample_rate_hz

    def with_statistics(self, mean: float, std: float) -> "FrontEnd":
        """The same for features of this mean and standard deviation.

        Raises InputError where they cannot be such.
        """
        if not (np.isfinite(mean) and np.isfinite(std) and std > 0):
            raise InputError(
                f"mean {mean:g} and std {std:g} of the features: wanted finite ones, and std above 0"
            )
        return dataclasses.replace(self, mean=float(mean), std=float(std))

    def card(self) -> dict[str, Any]:
        """How features are made, as a model card stores it; `from_card` is the inverse, but for how they are
        normalised.
        """
        stated = {key: value for key, value in dataclasses.asdict(self).items() if key not in _NORMALISATION}
        return {"kind": self.kind, **stated}

    @property
    def identity(self) -> str:
        """What tells its features from another's: shards of log-mels are never shared across it."""
        return " ".join(f"{key}={value}" for key, value in self.card().items())


_NORMALISATION = ("mean", "std", "spread")


def require_sound(front_end: FrontEnd, what: str) -> None:
    """Raises InputError where a model takes features that exist already, and `what` is of sounds."""
    if not front_end.of_sound:
        raise InputError(
            f"{what} needs a model that hears sound, and this one takes features that exist already (.npy, "
            ".npz): `predict` and `embed` read such files, `evaluate` a set of them"
        )


@dataclasses.dataclass(frozen=True)
class Kaldi(FrontEnd):
    """The AST reference's: Kaldi's filterbank at 16 kHz, 25 ms every 10 ms, in nats; see `spec.py`."""

    sample_rate_hz: int = spec.SAMPLE_RATE
    frame_length: int = spec.FRAME_LENGTH
    frame_shift: int = spec.FRAME_SHIFT
    num_mel_bins: int = spec.NUM_MEL_BINS
    # With mean 0: features as they are.
    std: float | Float[Any, ""] = 0.5
    spread: float = 2.0

    kind: ClassVar[str] = "kaldi"
    silence: ClassVar[float] = spec.SILENCE

    def __post_init__(self):
        fixed = (spec.SAMPLE_RATE, spec.FRAME_LENGTH, spec.FRAME_SHIFT)
        if (self.sample_rate_hz, self.frame_length, self.frame_shift) != fixed:
            raise InputError(
                f"the front end {self.kind} has {fixed} (Hz, samples, samples): only mel bins may differ"
            )

    def features(
        self, waveform: Float[Any, "*batch S"], *, num_samples: Any = None
    ) -> Float[Any, "*batch T F"]:
        """`log_mel`."""
        return log_mel(waveform, num_mel_bins=self.num_mel_bins, num_samples=num_samples)


@dataclasses.dataclass(frozen=True)
class Povey(Kaldi):
    """Kaldi's own defaults on 16-bit samples, as BEATs hears (Chen et al. 2022): the Povey window; 30 ln 2
    nats lower than Kaldi says, which is left to the mean.
    """

    kind: ClassVar[str] = "povey"
    silence: ClassVar[float] = math.log(spec.LOG_FLOOR_16_BIT)
    padding: ClassVar[float] = silence

    def features(
        self, waveform: Float[Any, "*batch S"], *, num_samples: Any = None
    ) -> Float[Any, "*batch T F"]:
        """`log_mel` with `povey`."""
        return log_mel(waveform, num_mel_bins=self.num_mel_bins, num_samples=num_samples, povey=True)


# A string is imported on first use.
FRONT_ENDS: dict[str, Any] = {
    "kaldi": Kaldi,
    "povey": Povey,
    "slaney": "ast_jax.features.slaney:Slaney",
    "htk_decibels": "ast_jax.features.slaney:HTKDecibels",
    "passt": "ast_jax.features.passt:PaSSTMel",
    "samples": "ast_jax.features.samples:Samples",
    "vggish": "ast_jax.features.vggish:VGGishMel",
    "given": "ast_jax.features.given:Given",
}

# What a set or a model hears that states none.
REFERENCE = Kaldi()


def from_card(stated: Mapping[str, Any] | None, *, num_mel_bins: int = spec.NUM_MEL_BINS) -> FrontEnd:
    """The front end that a card states; older cards state none, and mean the reference's.

    Raises:
        InputError: an unknown kind or field.
    """
    if stated is None:
        return Kaldi(num_mel_bins=num_mel_bins)
    fields = dict(stated)
    kind = look_up(FRONT_ENDS, str(fields.pop("kind", "kaldi")), "front end")
    if unknown := fields.keys() - {field.name for field in dataclasses.fields(kind)}:
        raise InputError(
            f"the front end {kind.kind} has no {', '.join(sorted(unknown))}: a newer version's card?"
        )
    return kind(**fields)
