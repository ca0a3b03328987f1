"""From a file to what the shards store of it: float16 log-mels, of a sound or as the file holds them, or an
int16 waveform.

Letters: S samples, T frames, F mel bins.
"""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
from jaxtyping import Float32, Int16

from ast_jax.datasets.listing import Clip, Listing
from ast_jax.errors import InputError
from ast_jax.features import REFERENCE, SAMPLE_RATE, FrontEnd, load_audio, stream_audio
from ast_jax.features.arrays import load_features
from ast_jax.features.audio import Channels
from ast_jax.features.given import Given

# Raise it when load_audio, log_mel or the stored form changes: older shards are then never used again.
FEATURE_VERSION = 1
# Of the records' schema.
VERSION = "1.0.0"
KINDS = ("log_mel", "waveform")
CHANNELS = get_args(Channels)
# int16 steps of amplitude 1.
FULL_SCALE = 32768
# A whole recording is decoded into memory, and of one that is cut all pieces are held; a megabyte of FLAC may
# be days of silence. Longer ones are skipped.
LONGEST_WHOLE_S, LONGEST_CUT_S = 4 * 3600.0, 24 * 3600.0


@dataclass(frozen=True)
class Extraction:
    """How clips are stored: kind of record, mixing down of channels, length to cut to, front end.

    `log_mel` rounds to float16. Half a step is 0.0039 nats for values of 8 to 16 in size (silence is -15.94),
    0.002 for 4 to 8 and less below: at most 0.0004 in the model's normalised units at AudioSet's deviation.
    `waveform` rounds to 16 bits, which is exact for 16-bit sources at the front end's sample rate.
    """

    kind: str = "log_mel"
    channels: str = "mean"
    cut_s: float | None = None
    front_end: FrontEnd = REFERENCE

    def __post_init__(self):
        if self.kind not in KINDS:
            raise InputError(f"kind {self.kind!r}: shards are of kind {' or '.join(KINDS)}")
        if self.channels not in CHANNELS:
            raise InputError(f"channels {self.channels!r}: give {', '.join(CHANNELS)}")
        if self.cut_s is not None and not self.cut_s >= 0.1:
            raise InputError(f"cut_s {self.cut_s}: a piece is 0.1 s or longer; None leaves recordings whole")
        if not self.front_end.of_sound and (self.kind, self.channels, self.cut_s) != (
            "log_mel",
            "mean",
            None,
        ):
            raise InputError(
                f"kind={self.kind}, channels={self.channels}, cut_s={self.cut_s}: the model takes features "
                "that exist already, which are stored whole as they come (kind=log_mel), without channels"
            )

    @property
    def identity(self) -> str:
        """What tells its shards from another's."""
        return identity(self.kind, self.channels, self.cut_s, self.front_end.card())


def identity(kind: str, channels: str, cut_s: float | None, front_end: Mapping[str, Any] | None) -> str:
    """`Extraction.identity`, of what a set's metadata states.

    One from before there were several front ends states none. Waveforms depend on the sample rate alone. The
    reference's front end adds nothing: older sets keep their names.
    """
    stated = REFERENCE.card() if front_end is None else dict(front_end)
    if kind == "waveform":
        stated = {"sample_rate_hz": stated["sample_rate_hz"]}
    if stated.items() <= REFERENCE.card().items():
        stated = {}
    told = f"{kind}, channels {channels}, cut {cut_s}, version {FEATURE_VERSION}"
    return told + (f", front end {json.dumps(stated, sort_keys=True)}" if stated else "")


def set_name(
    listing: Listing,
    source_dir: str | os.PathLike,
    how: Extraction,
    contents: Mapping[str, str] | None = None,
) -> str:
    """The TFDS config's name, `kind-fingerprint`.

    Other sounds, labels, settings or features make another name. `contents`: as for `Listing.fingerprint`.
    """
    stored_as = how.identity
    # Before, each piece had the labels of its whole file.
    if how.cut_s is not None and listing.events is not None:
        stored_as += ", labels of pieces"
    return f"{how.kind}-{listing.fingerprint(source_dir, stored_as, contents)}"


@dataclass(frozen=True)
class Record:
    """One example as stored, with its length and the sums from which the set's mean and deviation come."""

    id: str
    data: np.ndarray  # float16 [T, F] or int16 [S]
    labels: tuple[int, ...]
    num_samples: int
    cells: int
    total: float
    squares: float
    # where in its file it begins
    start_s: float = 0.0
    # what is odd about its file, which was heard all the same
    note: str = ""


def to_int16(waveform: Float32[np.ndarray, " S"]) -> Int16[np.ndarray, " S"]:
    """Rounds to 16 bits and clips at full scale, as sox does; `/ 32768` in float32 is its exact inverse."""
    return np.clip(np.rint(waveform * FULL_SCALE), -FULL_SCALE, FULL_SCALE - 1).astype(np.int16)


def from_int16(waveform: Int16[np.ndarray, " S"]) -> Float32[np.ndarray, " S"]:
    """The waveform that a `waveform` record stands for, in [-1, 1)."""
    return waveform.astype(np.float32) / np.float32(FULL_SCALE)


def extract(clip: Clip, how: Extraction) -> Iterator[Record]:
    """Decodes a clip: one record, or several, piece by piece, if it is longer than `how.cut_s`.

    Raises what load_audio or load_features raises (AudioError), after the pieces before the fault.
    """
    if isinstance(how.front_end, Given):
        fbank = load_features(clip.path, how.front_end).astype(np.float16)
        yield record(clip, fbank, len(fbank) * how.front_end.frame_shift, how)
        return
    rate_hz = how.front_end.sample_rate_hz
    notes: list[str] = []
    form: dict[str, Any] = {"channels": how.channels, "sample_rate_hz": rate_hz, "tell": notes.append}
    if how.cut_s is None:
        waveform = load_audio(clip.path, longest_s=LONGEST_WHOLE_S, **form)
        yield _record(clip, "", 0, waveform, how, notes)
        return
    blocks = stream_audio(clip.path, longest_s=LONGEST_CUT_S, **form)
    for number, (mark, part) in enumerate(pieces(blocks, how.cut_s, rate_hz)):
        yield _record(clip, mark, number, part, how, notes)
        notes.clear()


def pieces(
    waveform: Iterable[Float32[np.ndarray, " _"]], cut_s: float, sample_rate_hz: int = SAMPLE_RATE
) -> Iterator[tuple[str, Float32[np.ndarray, " P"]]]:
    """A waveform given in blocks, in pieces of `cut_s` seconds with a mark for the id (`@` start in seconds).

    A short clip stays whole, without a mark. What is left at the end is a piece of its own from half the
    length on, and left out below: it would carry the label of a sound that it may not hold.
    """
    size, start = round(cut_s * sample_rate_hz), 0
    held = np.zeros(0, np.float32)
    for block in waveform:
        held = np.concatenate([held, block]) if len(held) else block
        while len(held) > size:
            yield f"@{start / sample_rate_hz:g}", held[:size]
            start, held = start + size, held[size:]
    if not start:
        yield "", held
    elif 2 * len(held) >= size:
        yield f"@{start / sample_rate_hz:g}", held


def _record(
    clip: Clip, mark: str, number: int, waveform: np.ndarray, how: Extraction, notes: list[str]
) -> Record:
    stored = (
        how.front_end.features(waveform).astype(np.float16) if how.kind == "log_mel" else to_int16(waveform)
    )
    return record(clip, stored, len(waveform), how, mark=mark, number=number, note="; ".join(notes))


def record(
    clip: Clip,
    stored: np.ndarray,
    num_samples: int,
    how: Extraction,
    *,
    mark: str = "",
    number: int = 0,
    note: str = "",
) -> Record:
    """The record of what is stored of a clip: all of it, or its piece of this `number` and `mark`."""
    rate_hz = how.front_end.sample_rate_hz
    start_s = number * round(how.cut_s * rate_hz) / rate_hz if how.cut_s is not None else 0.0
    labels = clip.labels_in(start_s, num_samples / rate_hz, piece=bool(mark))
    features = stored if how.kind == "log_mel" else how.front_end.features(from_int16(stored))
    known = sums(features.astype(np.float64))
    return Record(clip.id + mark, stored, labels, num_samples, *known, start_s=start_s, note=note)


def sums(features: np.ndarray) -> tuple[int, float, float]:
    """Cells, their sum and the sum of their squares: added up over clips, a mean and a deviation."""
    return features.size, float(features.sum()), float(np.square(features).sum())
