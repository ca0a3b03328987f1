"""Front ends over centred frames: the sound mirrored at its ends, windowed, its power in bands, a logarithm.
One body for the host and the device; a front end says its window, its filters and its logarithm.

S samples, T frames, K FFT bins, F mel bins.
"""

import dataclasses
import functools
from typing import Any

import numpy as np
from jaxtyping import Float

from ast_jax.errors import InputError
from ast_jax.features.front_end import FrontEnd


@dataclasses.dataclass(frozen=True)
class Centred(FrontEnd):
    """Frames around every `frame_shift`-th sample, as torch.stft and librosa cut them by default."""

    # of the lowest and the highest band
    low_hz: float = 0.0
    high_hz: float = 0.0

    def __post_init__(self):
        if not 0 <= self.low_hz < self.high_hz <= self.sample_rate_hz / 2:
            raise InputError(
                f"the front end {self.kind} hears from {self.low_hz:g} to {self.high_hz:g} Hz at "
                f"{self.sample_rate_hz} Hz: wanted 0 or more, rising, and half the sample rate at most"
            )
        if min(self.frame_length, self.frame_shift, self.num_mel_bins) < 1 or self.fft_length % 2:
            raise InputError(
                f"the front end {self.kind} has frames of {self.frame_length} samples every "
                f"{self.frame_shift} and {self.num_mel_bins} bins: wanted an even length, and all above 0"
            )

    @property
    def fft_length(self) -> int:
        return self.frame_length

    def window(self) -> Float[np.ndarray, " fft_length"]:
        """The periodic Hann window, where a front end has no other."""
        return hann(self.fft_length)

    def filters(self) -> Float[np.ndarray, "K F"]:
        """From power to bands."""
        raise TypeError(f"{type(self).__name__} does not say its filters")

    def compressed(self, energy: Any, xp: Any) -> Any:
        """The logarithm, in the array library `xp`."""
        raise TypeError(f"{type(self).__name__} does not say its logarithm")

    def before(self, waveform: Any, own: Any) -> tuple[Any, Any]:
        """What is done to the waveform first, and how many samples of it are then sound."""
        return waveform, own

    def num_frames(self, num_samples: int) -> int:
        """One at the first sample, and one at every hop after it."""
        return 1 + max(0, num_samples) // self.frame_shift

    def span(self, num_frames: int) -> int:
        """Samples from the middle of the first frame to that of the last; half a frame of silence or of the
        sound's own mirror lies outside.
        """
        return (num_frames - 1) * self.frame_shift

    def features(
        self, waveform: Float[Any, "*batch S"], *, num_samples: Any = None
    ) -> Float[Any, "*batch T F"]:
        """A waveform's own end is mirrored where `num_samples` says that padding follows it."""
        on_host = isinstance(waveform, np.ndarray)
        import jax.numpy as jnp

        xp: Any = np if on_host else jnp
        frames_of = self.num_frames(waveform.shape[-1])
        own = xp.asarray(waveform.shape[-1] if num_samples is None else num_samples)[..., None]
        waveform, own = self.before(waveform, own)
        half, samples = self.fft_length // 2, waveform.shape[-1]
        # Where each sample of the padded sound comes from; mirrored once at most, so that a very short one
        # ends in zeros.
        place = xp.arange(-half, samples + half).reshape(*(1,) * (own.ndim - 1), -1)
        source = xp.where(place >= own, 2 * (own - 1) - place, xp.abs(place))
        inside = (source >= 0) & (source < own) & (place < own + half)
        source = xp.broadcast_to(
            xp.clip(source, 0, max(samples - 1, 0)), (*waveform.shape[:-1], place.shape[-1])
        )
        x = (
            xp.take_along_axis(waveform, source, axis=-1)
            if samples
            else xp.zeros(source.shape, waveform.dtype)
        )
        x = xp.where(inside, x, 0)
        starts = self.frame_shift * xp.arange(frames_of)
        frames = x[..., starts[:, None] + xp.arange(2 * half)[None]]
        power, filters = power_of(frames, _window(self), self.fft_length), _filters(self)
        # float32 whatever a device's products are by default
        product: Any = np.matmul if on_host else functools.partial(jnp.matmul, precision="highest")
        energy = product(power, filters.astype(power.dtype))
        return self.compressed(energy, xp).astype(waveform.dtype)


def power_of(
    frames: Float[Any, "*batch T n"], window: Float[np.ndarray, " n"], fft_length: int
) -> Float[Any, "*batch T K"]:
    """|FFT|^2 of windowed frames, zero-padded to the FFT's length. On devices it is a product, as in the
    reference's front end: exporters know no FFT.
    """
    if isinstance(frames, np.ndarray):
        rows = window.astype(frames.dtype).reshape(*(1,) * (frames.ndim - 1), -1)
        spectrum = np.fft.rfft(frames * rows, fft_length, axis=-1)
        return np.square(spectrum.real) + np.square(spectrum.imag)
    import jax.numpy as jnp

    waves = window[:, None] * _waves(len(window), fft_length)
    parts = jnp.matmul(frames, waves.astype(frames.dtype), precision="highest")
    real, imaginary = jnp.split(parts, 2, axis=-1)
    return jnp.square(real) + jnp.square(imaginary)


def hann(length: int, *, periodic: bool = True) -> np.ndarray:
    """The Hann window; without `periodic` it is 0 at both ends."""
    return 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(length) / (length if periodic else length - 1))


@functools.lru_cache(maxsize=4)
def _window(front_end: Centred) -> np.ndarray:
    return front_end.window()


@functools.lru_cache(maxsize=4)
def _filters(front_end: Centred) -> np.ndarray:
    return front_end.filters()


@functools.lru_cache(maxsize=4)
def _waves(samples: int, fft_length: int) -> np.ndarray:
    """[samples, 2 K]: cosines, then sines."""
    turns = np.outer(np.arange(samples), np.arange(fft_length // 2 + 1)) % fft_length
    angles = 2 * np.pi / fft_length * turns
    return np.concatenate([np.cos(angles), np.sin(angles)], axis=1)
