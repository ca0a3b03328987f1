"""The front end of PANNs and of librosa's users: Slaney's mel scale over a centred spectrogram, in decibels.

S samples, T frames, K FFT bins, F mel bins. As `torchlibrosa` computes it for the published models (Kong et
al. 2020, section III): a periodic Hann window as long as the FFT, centred frames with the sound mirrored at
its ends, power, `librosa.filters.mel` with its area norm, 10 log10(max(x, 1e-10)). One specification, a NumPy
body and a device body.
"""

import dataclasses
import functools
import math
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float

from ast_jax.errors import InputError
from ast_jax.features.front_end import FrontEnd

_FLOOR = 1e-10


@dataclasses.dataclass(frozen=True)
class Slaney(FrontEnd):
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

    def __post_init__(self):
        if not 0 <= self.low_hz < self.high_hz <= self.sample_rate_hz / 2:
            raise InputError(
                f"the front end slaney hears from {self.low_hz:g} to {self.high_hz:g} Hz at "
                f"{self.sample_rate_hz} Hz: "
                "wanted 0 or more, rising, and half the sample rate at most"
            )
        if min(self.frame_length, self.frame_shift, self.num_mel_bins) < 1 or self.frame_length % 2:
            raise InputError(
                f"the front end slaney has frames of {self.frame_length} samples every {self.frame_shift} "
                f"and {self.num_mel_bins} bins: wanted an even length, and all above 0"
            )

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
        """Decibels; a waveform's own end is mirrored where `num_samples` says that padding follows it."""
        on_host = isinstance(waveform, np.ndarray)
        import jax.numpy as jnp

        xp: Any = np if on_host else jnp
        length, shift, half = self.frame_length, self.frame_shift, self.frame_length // 2
        samples = waveform.shape[-1]
        own = xp.asarray(samples if num_samples is None else num_samples)[..., None]
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
        starts = shift * xp.arange(self.num_frames(samples))
        frames = x[..., starts[:, None] + xp.arange(length)[None]]
        # Float32 whatever a device's products are by default. Its spectrum is a product too, as the reference
        # front end's is: exporters know no FFT.
        product: Any = np.matmul if on_host else functools.partial(jnp.matmul, precision="highest")
        real: Any
        if on_host:
            hann = window(length).astype(frames.dtype).reshape(*(1,) * (frames.ndim - 1), -1)
            spectrum = np.fft.rfft(frames * hann, axis=-1)
            real, imaginary = spectrum.real, spectrum.imag
        else:
            parts = product(frames, _windowed_dft(length).astype(frames.dtype))
            real, imaginary = parts[..., : half + 1], parts[..., half + 1 :]
        power = xp.square(real) + xp.square(imaginary)
        energy = product(power, mel_matrix(self).astype(power.dtype))
        return (10 * xp.log10(xp.maximum(energy, _FLOOR))).astype(waveform.dtype)


@functools.lru_cache(maxsize=4)
def window(length: int) -> np.ndarray:
    """The periodic Hann window."""
    return 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(length) / length)


@functools.lru_cache(maxsize=4)
def _windowed_dft(length: int) -> np.ndarray:
    """[length, 2 K]: window times cosines, then window times sines."""
    turns = np.outer(np.arange(length), np.arange(length // 2 + 1)) % length
    angles = 2 * np.pi / length * turns
    return window(length)[:, None] * np.concatenate([np.cos(angles), np.sin(angles)], axis=1)


@functools.lru_cache(maxsize=4)
def mel_matrix(front_end: Slaney) -> np.ndarray:
    """[K, F]: power to mel bands."""
    # half a second of import, which other front ends need not pay
    from librosa.filters import mel

    return mel(
        sr=front_end.sample_rate_hz,
        n_fft=front_end.frame_length,
        n_mels=front_end.num_mel_bins,
        fmin=front_end.low_hz,
        fmax=front_end.high_hz,
        dtype=np.float64,
    ).T
