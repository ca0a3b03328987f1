"""A live sound: samples from a pipe, as they come, raw or after a WAV header."""

import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import soxr
from jaxtyping import Float32

from ast_jax.features import AudioError
from ast_jax.features.containers import unfilled

# bytes at most: 2 s at 16 kHz
_READ = 1 << 16
_ENDLESS = 1 << 62
Kind = Literal["u8", "s16", "s24", "s32", "f32"]
_BYTES = {"u8": 1, "s16": 2, "s24": 3, "s32": 4, "f32": 4}
# of a WAV header: (format, bits a sample); 1 is PCM, 3 floats
_OF_WAV: dict[tuple[int, int], Kind] = {
    (1, 8): "u8",
    (1, 16): "s16",
    (1, 24): "s24",
    (1, 32): "s32",
    (3, 32): "f32",
}
_EXTENSIBLE = 0xFFFE


@dataclass(frozen=True)
class Pcm:
    """How samples lie in a stream: little-endian, channels side by side."""

    rate_hz: int = 16_000
    channels: int = 1
    kind: Kind = "s16"

    def samples(self, data: bytes) -> Float32[np.ndarray, " n"]:
        """In [-1, 1], channels side by side."""
        if self.kind == "f32":
            return np.frombuffer(data, "<f4")
        if self.kind == "u8":
            return (np.frombuffer(data, "u1").astype(np.float32) - 128) / 128
        if self.kind == "s24":
            # into the upper three bytes of four
            wide = np.zeros((len(data) // 3, 4), np.uint8)
            wide[:, 1:] = np.frombuffer(data, np.uint8).reshape(-1, 3)
            data = wide.tobytes()
        bits = 16 if self.kind == "s16" else 32
        return np.frombuffer(data, f"<i{bits // 8}").astype(np.float32) / np.float32(1 << bits - 1)

    def __str__(self) -> str:
        return f"{self.kind} at {self.rate_hz} Hz, {self.channels} channel{'s' * (self.channels > 1)}"


def live_blocks(
    stream: io.BufferedIOBase, raw: Pcm, *, sample_rate_hz: int, channels: str = "mean"
) -> Iterator[Float32[np.ndarray, " _"]]:
    """Mono at `sample_rate_hz`, a block for whatever the pipe holds, without waiting for more.

    Samples are as the WAV header says that the stream begins with; without one, `raw`.

    Raises AudioError if the stream ends before the first sample, or its header is of no such format.
    """
    # read1 gives what is there; read would wait until it has all
    read = getattr(stream, "read1", stream.read)
    start = b""
    while len(start) < 4 and (data := read(_READ)):
        start += data
    has_header = start[:4] in (b"RIFF", b"RF64")
    how, rest, left = _after_wav_header(start, read) if has_header else (raw, start, _ENDLESS)
    resampler = soxr.ResampleStream(how.rate_hz, sample_rate_hz, 1, dtype="float32")
    size, heard, energy = _BYTES[how.kind] * how.channels, False, np.zeros(how.channels)
    while True:
        # half a frame waits for its rest, if a write was cut there
        whole = min(len(rest), left) // size * size
        left -= whole
        block, rest = rest[:whole], rest[whole:]
        if whole:
            heard = True
            frames = how.samples(block).reshape(-1, how.channels)
            if not np.isfinite(frames).all():
                raise AudioError(
                    f"<stdin>: not finite: NaN or infinity among samples taken as {how}", "not finite"
                )
            if channels == "loudest":
                # so far: what comes is not known
                energy += np.square(frames).sum(axis=0)
            mono = frames.mean(axis=1) if channels == "mean" else frames[:, energy.argmax()]
            out = mono if how.rate_hz == sample_rate_hz else resampler.resample_chunk(mono)
            if len(out):
                yield np.ascontiguousarray(out)
        # what follows the samples of a WAV file is about them
        if left < size or not (data := read(_READ)):
            break
        rest += data
    if not heard:
        raise AudioError(
            f"<stdin>: no samples: got an empty stream; wanted a WAV file or raw {raw}", "no samples"
        )
    if how.rate_hz != sample_rate_hz and len(
        out := resampler.resample_chunk(np.zeros(0, np.float32), last=True)
    ):
        yield out


def _after_wav_header(start: bytes, read) -> tuple[Pcm, bytes, int]:
    """What the header says of the samples, the first bytes of them, and how many there are: no end of them
    where the writer could not know.
    """

    def held(size: int) -> bytes:
        nonlocal start
        while len(start) < size:
            if not (data := read(_READ)):
                raise AudioError("<stdin>: truncated: the stream ends within its WAV header", "truncated")
            start += data
        return start[:size]

    how, at = None, 12
    while True:
        kind, length = struct.unpack("<4sI", held(at + 8)[at:])
        at += 8
        if kind == b"data":
            break
        if kind == b"fmt ":
            how = _stated(held(at + length)[at:])
        at += length + length % 2
        if at > 1 << 24:
            raise AudioError("<stdin>: damaged: 16 MB of a WAV header without samples", "damaged")
    if how is None:
        raise AudioError("<stdin>: damaged: a WAV header that does not say its format", "damaged")
    return how, start[at:], _ENDLESS if not length or unfilled(length) else length


def _stated(fmt: bytes) -> Pcm:
    if len(fmt) < 16:
        raise AudioError("<stdin>: damaged: a WAV header with half a format", "damaged")
    tag, channels, rate, _, _, bits = struct.unpack("<HHIIHH", fmt[:16])
    if tag == _EXTENSIBLE and len(fmt) >= 26:
        tag = struct.unpack("<H", fmt[24:26])[0]
    kind = _OF_WAV.get((tag, bits))
    if kind is None or not channels or not 1_000 <= rate <= 1_000_000:
        got = f"WAV format {tag} of {bits} bits, {channels} channels, {rate} Hz"
        raise AudioError(
            f"<stdin>: not audio: {got}; wanted PCM of 8 to 32 bits or 32-bit floats", "not audio"
        )
    return replace(Pcm(), rate_hz=rate, channels=channels, kind=kind)
