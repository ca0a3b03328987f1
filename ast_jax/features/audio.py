"""Sound files to waveforms: float32 [S], one channel; whole (`load_audio`) or in pieces (`stream_audio`).

S samples, C channels. libsndfile decodes (by content, not by name), soxr resamples; neither librosa nor its
seconds of import are needed for wav, flac, ogg and mp3. Every way a file can be bad ends in an `AudioError`
with a reason of one or two words.
"""

import io
import math
import os
import stat
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any, Literal, get_args

import numpy as np
import soundfile
import soxr
from jaxtyping import Float32

from ast_jax.errors import InputError
from ast_jax.features import containers, foreign
from ast_jax.features.spec import SAMPLE_RATE

SoundSource = str | os.PathLike | bytes
# is given what a file does not keep to, in a line
Tell = Callable[[str], None]
Channels = Literal["mean", "first", "loudest"]

# Frames decoded at once: 2 MB of stereo.
_BLOCK = 1 << 18
# Outside, a header is taken for damaged: at 1 Hz a small file would fill the memory.
_RATES_HZ = (1_000, 1_000_000)
# libsndfile's length, in frames, of a file that does not say how long it is, is near 2^63.
_UNKNOWN = 1 << 62
# Floats beyond are no sound, but a flipped bit of an exponent. Integers' values held as floats stay below.
_LOUDEST = float(1 << 24)
# Of the mean of channels that cancel, against theirs, in energy: -40 dB.
_CANCELLED = 1e-4
# The other half of an old Macintosh file; looked for beside whatever is not known by its first bytes.
_FORK = "._"
WANTED = (
    "a wav, flac, ogg, mp3, aiff, au, caf, w64 or sphere file (of others `ffmpeg -i FILE NEW.wav` makes one)"
)
# Frames: an MP3 may end two MPEG frames before its header says, by encoder delay and padding.
_MP3_SLACK = 2 * 1152
# soxr's, and librosa's default.
_QUALITY = "HQ"


class AudioError(InputError):
    """A file that gives no waveform, or no features where these should lie in it (`arrays.py`).

    `reason` is one of: 'unreadable' (missing, a directory, a pipe or device, no permission, no stated
    length), 'empty file', 'not audio', 'truncated', 'damaged', 'no samples', 'not finite', 'too long'.
    """

    def __init__(self, message: str, reason: str = "unreadable"):
        super().__init__(" ".join(message.split()))
        # The default above lets the error survive pickling between processes.
        self.reason = reason


class AudioWarning(UserWarning):
    """A file that was heard, but is not what it says of itself."""


def name_of(source: SoundSource) -> str:
    """What a source is called in messages and tables: its path, or how many bytes it is."""
    return f"<{len(source)} bytes>" if isinstance(source, bytes) else os.fspath(source)


def load_audio(
    source: SoundSource,
    *,
    channels: Channels | int = "mean",
    sample_rate_hz: int = SAMPLE_RATE,
    longest_s: float = math.inf,
    tell: Tell | None = None,
) -> Float32[np.ndarray, " S"]:
    """Decodes a sound file, given by path or as bytes, to mono at `sample_rate_hz`.

    `channels='mean'` mixes all channels down; 'first' keeps the first one, as the AST reference does;
    'loudest' keeps the one with most energy in the whole file, which is decoded once more for that; a number
    keeps that one, counted from 0. Samples are nominally in [-1, 1]; resampling and float files may exceed
    that, and nothing is clipped. Raises AudioError, for a header that states more than `longest_s` seconds
    too.

    `tell` is given what is odd and was heard all the same (more sound than the header states, channels that
    cancel); without it, that is a warning.
    """
    whole, kept = [], _kept(source, channels, longest_s)
    for sound, name in _opened(source, longest_s, tell or _warn):
        blocks = list(_mono_blocks(sound, name, kept, _BLOCK, tell or _warn))
        waveform = blocks[0] if len(blocks) == 1 else np.concatenate(blocks)
        if sound.samplerate != sample_rate_hz:
            waveform = soxr.resample(waveform, sound.samplerate, sample_rate_hz, quality=_QUALITY)
        whole.append(waveform)
    waveform = whole[0] if len(whole) == 1 else np.concatenate(whole)
    if not len(waveform):
        raise _too_short(name_of(source), sample_rate_hz)
    return waveform


def stream_audio(
    source: SoundSource,
    *,
    channels: Channels | int = "mean",
    sample_rate_hz: int = SAMPLE_RATE,
    block_s: float = 30.0,
    longest_s: float = math.inf,
    tell: Tell | None = None,
) -> Iterator[Float32[np.ndarray, " _"]]:
    """Yields the waveform of `load_audio` in pieces of about `block_s` seconds, holding about two of them.

    The pieces put together are what `load_audio` returns (to 1e-6 where they are resampled). Raises
    AudioError: at the first piece for a file that cannot be opened, and later for one that turns out
    truncated or not finite, after the pieces before the fault.
    """
    any_yet, kept = False, _kept(source, channels, longest_s)
    for sound, name in _opened(source, longest_s, tell or _warn):
        same, size = sound.samplerate == sample_rate_hz, max(1, round(block_s * sound.samplerate))
        resampler = soxr.ResampleStream(
            sound.samplerate, sample_rate_hz, 1, dtype="float32", quality=_QUALITY
        )
        for block in _mono_blocks(sound, name, kept, size, tell or _warn):
            piece = block if same else resampler.resample_chunk(block)
            if len(piece):  # the resampler holds back its first few milliseconds
                any_yet = True
                yield piece
        rest = resampler.resample_chunk(np.zeros(0, np.float32), last=True)
        if len(rest):
            any_yet = True
            yield rest
    if not any_yet:
        raise _too_short(name_of(source), sample_rate_hz)


def duration_s(source: SoundSource) -> float:
    """The sound's length in seconds by its headers, without decoding. Raises AudioError."""
    name = name_of(source)
    try:
        with _file_of(source, name) as file:
            kind = foreign.kind_of(file)
        if kind:
            return foreign.duration_s(source)
    except foreign.ForeignError as error:
        raise _undecodable(name, kind or "", error) from error
    except OSError as error:
        raise _unreadable(name, error) from error
    return sum(sound.frames / sound.samplerate for sound, _ in _opened(source))


def num_channels(source: SoundSource) -> int:
    """Of a file, by its headers; of sounds that are joined in it, the most. Raises AudioError."""
    return max(sound.channels for sound, _ in _opened(source))


def _warn(line: str) -> None:
    warnings.warn(line, AudioWarning, stacklevel=3)


class _Straight(soundfile.SoundFile):
    """Read from beginning to end: soundfile seeks after each read of a file that allows it, and an MP3
    decoder that was sent to where it stands gives a few hundred wrong samples.
    """

    def seekable(self) -> bool:
        return False


def _opened(
    source: SoundSource, longest_s: float = math.inf, tell: Tell = lambda line: None
) -> Iterator[tuple[soundfile.SoundFile, str]]:
    """The sounds of a file, one after the other: one, unless several are joined in it."""
    name, before_s = name_of(source), 0.0
    with ExitStack() as stack:
        try:
            file: Any = stack.enter_context(_file_of(source, name))
            if kind := foreign.kind_of(file):
                file = stack.enter_context(foreign.decoded(source))
            parts = _checked(file, name)
        except foreign.ForeignError as error:
            raise _undecodable(name, kind or "", error) from error
        except OSError as error:
            raise _unreadable(name, error) from error
        for note in parts.notes:
            tell(f"{name}: {note}")
        for part in parts.parts:
            if part is not None:
                handle: Any = io.BytesIO(part)
            else:
                file.seek(0)
                # The descriptor, not the path: a name ending in .raw would make soundfile ask for a rate.
                handle = file if isinstance(file, io.BytesIO) else file.fileno()
            try:
                sound = _Straight(handle, closefd=False)
            except soundfile.LibsndfileError as error:
                if os.path.exists(_FORK):
                    got = (
                        f"a file {_FORK!r} in the working directory, which the decoder takes for a part of it"
                    )
                    raise _error(name, "unreadable", got, "none there: delete it") from error
                raise _error(name, *_verdict(error), WANTED) from error
            with sound:
                _check_header(sound, name)
                before_s += sound.frames / sound.samplerate
                if before_s > longest_s:
                    wanted = f"at most {longest_s / 3600:g} h at once: split the file, or cut it (cut_s)"
                    raise _error(name, "too long", f"{before_s / 3600:.1f} h of sound", wanted)
                yield sound, name


def _file_of(source: SoundSource, name: str) -> io.BytesIO | io.FileIO:
    return io.BytesIO(source) if isinstance(source, bytes) else _regular_file(source, name)


def _unreadable(name: str, error: OSError) -> AudioError:
    got = (error.strerror or str(error)).lower()
    return _error(name, "unreadable", got, "a sound file: check path and permissions")


def _undecodable(name: str, kind: str, error: foreign.ForeignError) -> AudioError:
    wanted = f"of {kind} a whole file with a sound in it and an ffmpeg on the PATH, or {WANTED}"
    return _error(name, "not audio", str(error), wanted)


def _checked(file: io.BytesIO | io.FileIO, name: str) -> containers.Parts:
    size = file.seek(0, os.SEEK_END)
    if not size:
        raise _error(name, "empty file", "0 bytes", "a sound file: copy or download it again")
    parts = containers.parts_of(file)
    if parts is None:
        raise _error(name, "not audio", "another format, or none", WANTED)
    if parts.least > size:
        got = f"{size} bytes of at least {parts.least}"
        raise _error(name, "truncated", got, "the whole file: copy or download it again")
    return parts


def _check_header(sound: soundfile.SoundFile, name: str) -> None:
    if not _RATES_HZ[0] <= sound.samplerate <= _RATES_HZ[1]:
        raise _error(name, "damaged", f"a rate of {sound.samplerate} Hz", "one from 1 kHz to 1 MHz")
    if sound.frames >= _UNKNOWN:
        raise _error(name, "unreadable", "no length in its header", "one there: encode the file again")


def _regular_file(path: str | os.PathLike, name: str) -> io.FileIO:
    """Opened, unless that might wait for ever: on a pipe nobody writes to, on a device."""
    if os.path.isdir(path) and not os.access(path, os.R_OK | os.X_OK):
        raise _error(name, "unreadable", "a directory that may not be opened", "one that may be read")
    mode = os.stat(path).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise _error(name, "unreadable", "a pipe, socket or device", "a sound file")
    return io.FileIO(path)


def _verdict(error: soundfile.LibsndfileError) -> tuple[str, str]:
    """The reason and the finding behind libsndfile's refusal to open a file."""
    if error.code == 3:  # SF_ERR_MALFORMED_FILE: the format is known, what follows is not
        return "damaged", error.error_string
    if error.code == 7:  # its guess was MP3; its text then speaks of a missing file or a pipe
        return "not audio", "no sound that decodes"
    return "not audio", error.error_string


def _kept(source: SoundSource, channels: str | int, longest_s: float) -> int | None:
    """Which channel is heard; None for the mean of all.

    Raises InputError for another word, and for a channel that is not there.
    """
    if isinstance(channels, int):
        own = num_channels(source)
        if not 0 <= channels < own:
            raise InputError(f"channels is {channels}; {name_of(source)} has {own}, counted from 0")
        return channels
    if channels not in get_args(Channels):
        raise InputError(f"channels is {channels!r}; wanted 'mean', 'first' or 'loudest'")
    if channels != "loudest":
        return None if channels == "mean" else 0
    energy = np.zeros(1)
    try:
        for sound, name in _opened(source, longest_s):
            if sound.channels == 1:
                continue
            energy = np.pad(energy, (0, max(0, sound.channels - len(energy))))
            for block in _blocks(sound, name, _BLOCK):
                energy[: block.shape[1]] += np.square(block, dtype=np.float64).sum(axis=0)
    except AudioError:
        # told by whoever reads it in earnest
        pass
    return int(energy.argmax())


def _mono_blocks(
    sound: soundfile.SoundFile, name: str, kept: int | None, frames: int, tell: Tell
) -> Iterator[Float32[np.ndarray, " _"]]:
    """One channel, or the mean of all; says where that is near silence for they cancel."""
    # of the channels and of their mean
    energy = np.zeros(2)
    for block in _blocks(sound, name, frames):
        mono = _mono(block, kept)
        if block.shape[1] > 1 and kept is None:
            energy += (
                np.square(block, dtype=np.float64).mean(axis=1).sum(),
                np.square(mono, dtype=np.float64).sum(),
            )
        yield mono
    if energy[1] < _CANCELLED * energy[0]:
        tell(
            f"{name}: its channels cancel each other, their mean is near silence: channels=first hears one, "
            "channels=loudest too"
        )


def _blocks(sound: soundfile.SoundFile, name: str, frames: int) -> Iterator[Float32[np.ndarray, "_ C"]]:
    """Decodes in blocks, so that a header's wild promise costs no memory.

    Checks that the promise is kept and samples are finite.
    """
    total, promised, failure = 0, sound.frames, None
    while total < promised:
        try:
            block = sound.read(frames, dtype="float32", always_2d=True)  # [frames, C]
        except soundfile.SoundFileError as error:
            failure = error  # it says only that a block came out short, often in an empty text
            break
        if not len(block):
            break
        if not np.isfinite(block).all():
            at = (total + int(np.argmin(np.isfinite(block).all(axis=1)))) / sound.samplerate
            raise _error(name, "not finite", f"NaN or infinity at {at:.3f} s", "finite samples")
        if (loudest := float(np.abs(block).max())) > _LOUDEST:
            at = (int(np.argmax(np.abs(block).max(axis=1))) + total) / sound.samplerate
            raise _error(name, "damaged", f"a sample of {loudest:.2g} at {at:.3f} s", "samples near [-1, 1]")
        total += len(block)
        yield block
    if total < promised - (_MP3_SLACK if sound.format == "MP3" and not failure else 0):
        got = f"fewer than the {promised} samples its header promises"
        raise _error(name, "truncated", got, "the whole file: copy or download it again") from failure
    if not total:
        raise _error(name, "no samples", "a header without any sound", "a file with samples")


def _mono(block: np.ndarray, kept: int | None) -> np.ndarray:
    if kept is not None or block.shape[1] == 1:
        # of sounds joined in a file, one may have fewer channels
        return np.ascontiguousarray(block[:, min(kept or 0, block.shape[1] - 1)])
    # Channel by channel: ten times as fast as mean(axis=1), and the same bits on every machine.
    mono = block[:, 0] + block[:, 1]
    for channel in block.T[2:]:
        mono += channel
    mono *= np.float32(1 / block.shape[1])
    return mono


def _too_short(name: str, sample_rate_hz: int) -> AudioError:
    # Three samples at 192 kHz are not one at 16 kHz.
    got = f"less than one sample at {sample_rate_hz / 1000:g} kHz"
    return _error(name, "no samples", got, "a longer sound")


def _error(name: str, reason: str, got: str, wanted: str) -> AudioError:
    return AudioError(f"{name}: {reason}: {got.rstrip('. ')}; wanted {wanted}", reason)
