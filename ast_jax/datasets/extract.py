"""From a sound file to what the shards store of it: float16 log-mels or an int16 waveform.

Letters: S samples, T frames.
"""

import os
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int16

from ast_jax.datasets.listing import Clip, Listing
from ast_jax.errors import InputError
from ast_jax.features import SAMPLE_RATE, load_audio, log_mel

FEATURE_VERSION = (
    1  # raise it when load_audio, log_mel or the stored form changes: older shards are then never used again
)
VERSION = "1.0.0"  # of the records' schema
KINDS = ("log_mel", "waveform")
CHANNELS = ("mean", "first")
FULL_SCALE = 32768  # int16 steps of amplitude 1


@dataclass(frozen=True)
class Extraction:
    """How clips are stored: the kind of record, how channels are mixed down, and the length to cut long recordings to.

    `log_mel` rounds to float16. Half a step is 0.0039 nats for values of 8 to 16 in size (silence is -15.94), 0.002 for 4 to 8 and
    less below: at most 0.0004 in the model's normalised units at AudioSet's deviation.
    `waveform` rounds to 16 bits, which is exact for 16-bit sources at 16 kHz.
    """

    kind: str = "log_mel"
    channels: str = "mean"
    cut_s: float | None = None

    def __post_init__(self):
        if self.kind not in KINDS:
            raise InputError(f"kind {self.kind!r}: shards are of kind {' or '.join(KINDS)}")
        if self.channels not in CHANNELS:
            raise InputError(f"channels {self.channels!r}: give {' or '.join(CHANNELS)}")
        if self.cut_s is not None and not self.cut_s >= 0.1:
            raise InputError(f"cut_s {self.cut_s}: a piece is 0.1 s or longer; None leaves recordings whole")

    def __str__(self) -> str:
        return f"{self.kind}, channels {self.channels}, cut {self.cut_s}, version {FEATURE_VERSION}"


def set_name(listing: Listing, source_dir: str | os.PathLike, how: Extraction) -> str:
    """The TFDS config's name, `kind-fingerprint`: other sounds, labels, settings or features make another name."""
    return f"{how.kind}-{listing.fingerprint(source_dir, str(how))}"


@dataclass(frozen=True)
class Record:
    """One example as stored, with its length and the sums from which the set's mean and deviation come."""

    id: str
    data: np.ndarray  # float16 [T, 128] or int16 [S]
    labels: tuple[int, ...]
    num_samples: int
    cells: int
    total: float
    squares: float


def to_int16(waveform: Float32[np.ndarray, " S"]) -> Int16[np.ndarray, " S"]:
    """Rounds to 16 bits and clips at full scale, as sox does; `/ 32768` in float32 is its inverse, bit for bit."""
    return np.clip(np.rint(waveform * FULL_SCALE), -FULL_SCALE, FULL_SCALE - 1).astype(np.int16)


def from_int16(waveform: Int16[np.ndarray, " S"]) -> Float32[np.ndarray, " S"]:
    """The waveform that a `waveform` record stands for, in [-1, 1)."""
    return waveform.astype(np.float32) / np.float32(FULL_SCALE)


def extract(clip: Clip, how: Extraction) -> list[Record]:
    """Decodes a clip; one record, or several if it is longer than `how.cut_s`. Raises what load_audio raises (AudioError)."""
    waveform = load_audio(clip.path, channels=how.channels)
    if how.cut_s is None:
        return [_record(clip.id, waveform, clip.labels, how)]
    return [_record(clip.id + mark, part, clip.labels, how) for mark, part in pieces(waveform, how.cut_s)]


def pieces(waveform: Float32[np.ndarray, " S"], cut_s: float) -> list[tuple[str, Float32[np.ndarray, " P"]]]:
    """Consecutive pieces of `cut_s` seconds with a mark for the id (`@` start in seconds); a short clip stays whole, without a mark.

    What is left at the end is a piece of its own from half the length on, and left out below: it would carry the label of a sound
    that it may not hold.
    """
    size = round(cut_s * SAMPLE_RATE)
    if len(waveform) <= size:
        return [("", waveform)]
    starts = range(0, len(waveform), size)
    kept = [(s, waveform[s : s + size]) for s in starts if 2 * (len(waveform) - s) >= size]
    return [(f"@{start / SAMPLE_RATE:g}", part) for start, part in kept]


def _record(id: str, waveform: np.ndarray, labels: tuple[int, ...], how: Extraction) -> Record:
    if how.kind == "waveform":
        data = to_int16(waveform)
        fbank = log_mel(from_int16(data)).astype(np.float64)
    else:
        data = log_mel(waveform).astype(np.float16)
        fbank = data.astype(np.float64)
    return Record(
        id, data, labels, len(waveform), fbank.size, float(fbank.sum()), float(np.square(fbank).sum())
    )
