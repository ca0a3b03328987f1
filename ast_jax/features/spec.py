"""The one specification of the front end: numbers, window and mel filters, for both bodies of `log_mel`.

S samples, T frames, K FFT bins, F mel bins.

It is Kaldi's filterbank as the AST reference calls it (torchaudio.compliance.kaldi.fbank with
htk_compat=True, use_energy=False, window_type='hanning', num_mel_bins=128, dither=0, frame_shift=10, the
waveform's mean removed):

    x = waveform - mean(waveform)
    per frame:  x - mean(frame);  y[n] = x[n] - 0.97 x[n-1];  times window;  zero-pad to 512;  |FFT|^2
    log(max(|FFT|^2 @ mel_filters, LOG_FLOOR))

The first sample of a frame has no predecessor (Kaldi takes itself), but the window is 0 there, so it never
matters.
"""

import math
from functools import lru_cache

import numpy as np
from jaxtyping import Float32, Float64

SAMPLE_RATE = 16_000  # Hz
FRAME_LENGTH = 400  # samples = 25 ms
FRAME_SHIFT = 160  # samples = 10 ms
FFT_LENGTH = 512  # samples: the frame, zero-padded
FFT_BINS = FFT_LENGTH // 2  # 0..255; bin 256, the Nyquist frequency, has weight 0 in every filter
PREEMPHASIS = 0.97
NUM_MEL_BINS = 128
LOW_HZ, HIGH_HZ = 20.0, 8000.0
LOG_FLOOR = 2.0**-23  # energy; float32's epsilon, 1.1920929e-7
SILENCE = math.log(LOG_FLOOR)  # nats; what a silent frame holds in every bin, -15.942
# The same floor where samples were multiplied by 2 ** 15 first, as Kaldi's recipes do.
LOG_FLOOR_16_BIT = LOG_FLOOR * 2.0**-30


def num_frames(num_samples: int) -> int:
    """How many frames `log_mel` makes of `num_samples` samples: only whole ones, but never none.

    A waveform under 25 ms, an empty one too, is zero-padded to one frame.
    """
    return 1 + max(0, num_samples - FRAME_LENGTH) // FRAME_SHIFT


def span(frames: int) -> int:
    """How many samples that many frames cover, from the first sample of the first to the last of the last."""
    return FRAME_LENGTH + (frames - 1) * FRAME_SHIFT


@lru_cache(maxsize=2)
def window(*, povey: bool = False) -> Float64[np.ndarray, "400"]:
    """The symmetric Hann window, 0 at both ends; with `povey` to the power .85, Kaldi's own.

    (The AST paper says Hamming; its code and weights use Hann.) Read-only.
    """
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(FRAME_LENGTH) / (FRAME_LENGTH - 1))
    hann[[0, -1]] = 0.0  # cos(2 pi) leaves no residue here, but the bodies rely on the zero
    return _read_only(hann**0.85 if povey else hann)


@lru_cache(maxsize=8)
def mel_filters(
    num_mel_bins: int = NUM_MEL_BINS,
    *,
    sample_rate_hz: int = SAMPLE_RATE,
    fft_length: int = FFT_LENGTH,
    low_hz: float = LOW_HZ,
    high_hz: float = HIGH_HZ,
) -> Float32[np.ndarray, "K F"]:
    """Triangles over FFT bins 0..255 (of another FFT, all but the last), peak 1, no area norm. Read-only.

    They are linear in mel = 1127 ln(1 + f / 700) from 20 Hz to 8 kHz. With 128 bins, filter 3 falls between
    two FFT bins and is empty; the reference keeps it, so does this. float32 throughout, as torchaudio
    computes them whatever the type of its input, and bit-equal to its own: exact weights would move a tone's
    outermost bins by up to 8e-4 nats, and the published models were trained on these.
    """
    if num_mel_bins < 1:
        raise ValueError(f"num_mel_bins is {num_mel_bins}; it must be at least 1")
    low, high = _mel(np.float64(low_hz)), _mel(np.float64(high_hz))
    edges = np.float32(low) + np.arange(num_mel_bins + 2, dtype=np.float32) * np.float32(
        (high - low) / (num_mel_bins + 1)
    )
    left, centre, right = edges[:-2], edges[1:-1], edges[2:]
    hertz = np.arange(fft_length // 2, dtype=np.float32) * np.float32(sample_rate_hz / fft_length)
    mel = _mel(hertz)[:, None]
    rising, falling = (mel - left) / (centre - left), (right - mel) / (right - centre)
    return _read_only(np.maximum(np.float32(0), np.minimum(rising, falling)))


def _mel(hertz):
    """In the type it is given; the logarithm is float64's, rounded to that: the same on every machine."""
    return 1127 * np.log(1 + hertz / 700, dtype=np.float64).astype(hertz.dtype)


def _read_only(array: np.ndarray) -> np.ndarray:
    array.flags.writeable = False  # it is cached: a caller's change would change every later spectrogram
    return array
