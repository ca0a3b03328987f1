"""Log-mel spectrograms: waveform [..., S] at 16 kHz to [..., T, F] in nats.

The NumPy body, and the door to the device body. S samples, T = num_frames(S) frames, F mel bins. What is
computed stands in `spec.py`.
"""

from functools import lru_cache
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from ast_jax.features import spec

# Frames worked on at once: 128 x 512 float32 and their spectrum stay in the second-level cache.
_BLOCK = 128


def log_mel(
    waveform: Float[Any, "*batch S"],
    *,
    num_mel_bins: int = spec.NUM_MEL_BINS,
    num_samples: int | Int[Any, "*batch"] | None = None,
    povey: bool = False,
) -> Float[Any, "*batch T F"]:
    """The AST reference's Kaldi filterbank (torchaudio.compliance.kaldi.fbank), in nats, not normalised.

    A NumPy array gives a NumPy array of its own type: float64 runs in float64 and is the exact one. A jax
    array, or a tracer under jit, vmap or grad, runs on the device in float32 (float64 where jax has it
    switched on). Any leading axes. Less than 25 ms of sound, or none, is zero-padded to one frame.

    `num_samples` says how many samples of each waveform are sound, where a batch was padded to one length:
    the mean is taken over those, and the rest counts as silence. Rows from num_frames(num_samples) on then
    belong to the padding; the reference has 0 there, which is the caller's to write.

    With `povey` it is Kaldi's own filterbank, of 16-bit samples: another window, and a floor lower by 30 ln 2
    nats, which are not added.

    float32 agrees with float64 to 5e-4 nats where a bin's energy is within 50 dB of its frame's peak, and to
    3e-5 of the frame's peak in energy everywhere; further down the logarithm shows rounding noise, as the
    reference's does. Raises TypeError for integers: samples are floats in [-1, 1].
    """
    if not np.issubdtype(np.dtype(waveform.dtype), np.floating):
        got = f"log_mel got {waveform.dtype} samples"
        raise TypeError(f"{got}; it wants floats in [-1, 1]: divide 16-bit ones by 32768")
    if isinstance(waveform, np.ndarray):
        return _on_host(waveform, num_mel_bins, num_samples, povey)
    from ast_jax.features.log_mel_device import log_mel_on_device  # not above: the NumPy path needs no jax

    return log_mel_on_device(waveform, num_mel_bins=num_mel_bins, num_samples=num_samples, povey=povey)


def _on_host(waveform: np.ndarray, num_mel_bins: int, num_samples, povey: bool) -> np.ndarray:
    dtype = np.dtype(np.float64 if waveform.dtype == np.float64 else np.float32)
    batch, samples = waveform.shape[:-1], waveform.shape[-1]
    clips = waveform.reshape(-1, samples) if samples else np.zeros((int(np.prod(batch)), 0), dtype)
    lengths = np.broadcast_to(samples if num_samples is None else num_samples, batch).reshape(-1)
    out = np.empty((len(clips), spec.num_frames(samples), num_mel_bins), dtype)
    for clip, length, rows in zip(clips, lengths, out, strict=True):
        _one_clip(clip[:length], rows, povey)
    return out.reshape(*batch, *out.shape[1:])


def _one_clip(sound: np.ndarray, out: np.ndarray, povey: bool) -> None:
    """Fills `out` [T, F], which may span more than the sound: the rest is silence."""
    window, filters = _constants(out.shape[1], out.dtype, povey)
    floor = out.dtype.type(spec.LOG_FLOOR_16_BIT if povey else spec.LOG_FLOOR)
    x, emphasised = _emphasise(sound, spec.span(len(out)), out.dtype)
    offsets = _frame_means(x, len(out)) * out.dtype.type(1 - spec.PREEMPHASIS)
    frames = np.lib.stride_tricks.sliding_window_view(emphasised, spec.FRAME_LENGTH)[:: spec.FRAME_SHIFT]

    padded = np.zeros((min(_BLOCK, len(out)), spec.FFT_LENGTH), out.dtype)
    for start in range(0, len(out), _BLOCK):
        block = padded[: min(_BLOCK, len(out) - start)]
        windowed = block[:, : spec.FRAME_LENGTH]
        here = slice(start, start + len(block))
        np.subtract(frames[here], offsets[here], out=windowed)
        np.multiply(windowed, window, out=windowed)
        energy = filters @ _power(block)
        np.maximum(energy, floor, out=energy)
        np.log(energy, out=energy)
        out[here] = energy.T


def _emphasise(sound: np.ndarray, span: int, dtype: np.dtype) -> tuple[np.ndarray, np.ndarray]:
    """The waveform without its mean, and the same pre-emphasised, both cut or zero-padded to `span` samples.

    Pre-emphasis is done once here, not once a frame: removing a frame's mean m before it is removing 0.03 m
    after it. It is written x[n] - x[n-1] + 0.03 x[n-1]: on a slow wave the difference is exact, and rounding
    0.97 x[n-1] is not small beside it.
    """
    x = np.zeros(span, dtype)
    count = min(span, len(sound))
    if len(sound):
        np.subtract(sound[:count], np.mean(sound, dtype=dtype), out=x[:count], casting="same_kind")
    emphasised = np.empty_like(x)
    emphasised[0] = 0  # under the window's zero
    np.subtract(x[1:], x[:-1], out=emphasised[1:])
    emphasised[1:] += dtype.type(1 - spec.PREEMPHASIS) * x[:-1]
    return x, emphasised


def _frame_means(x: np.ndarray, frames: int) -> np.ndarray:
    """[T, 1]: each frame is five pieces of 80 samples, each piece summed once."""
    pieces = x.reshape(-1, spec.FRAME_SHIFT // 2).sum(axis=1)
    five = np.lib.stride_tricks.sliding_window_view(pieces, 5)[::2]
    return five.sum(axis=1, keepdims=True)[:frames] / x.dtype.type(spec.FRAME_LENGTH)


def _power(frames: np.ndarray) -> np.ndarray:
    """|FFT|^2 [256, T] of zero-padded frames [T, 512]."""
    # Here: 0.2 s of import, which decoding alone need not pay. Twice as fast as numpy's on rows.
    import scipy.fft

    parts = scipy.fft.rfft(frames, axis=-1).view(frames.dtype).T  # re, im, re, im ...
    np.square(parts, out=parts)
    return np.add(parts[0 : spec.FFT_LENGTH : 2], parts[1 : spec.FFT_LENGTH : 2], order="C")


@lru_cache(maxsize=8)
def _constants(num_mel_bins: int, dtype: np.dtype, povey: bool) -> tuple[np.ndarray, Any]:
    """The window [400], and the mel filters as a sparse matrix [F, 256].

    An FFT bin is in two filters at most, so that the sparse product is faster than the dense one; and a
    matrix library sums in another order with one thread than with two, which would make shards depend on how
    many workers wrote them.
    """
    from scipy.sparse import csr_array

    return spec.window(povey=povey).astype(dtype), csr_array(spec.mel_filters(num_mel_bins).T.astype(dtype))
