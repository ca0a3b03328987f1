"""A stream on stdin is the sound that the same file is."""

import io

import numpy as np
import pytest
import soundfile

from ast_jax.features import AudioError, load_audio
from ast_jax.inference.live import Pcm, live_blocks

SUBTYPES = {"PCM_U8": "u8", "PCM_16": "s16", "PCM_24": "s24", "PCM_32": "s32", "FLOAT": "f32"}


class Pipe(io.BytesIO):
    """Gives few bytes at a time: headers and samples are cut anywhere."""

    def read1(self, size=-1):
        return super().read1(min(size, 1001))


def wav(rate: int, channels: int, subtype: str, kind: str = "WAV") -> bytes:
    rng, out = np.random.default_rng(0), io.BytesIO()
    samples = 0.3 * rng.standard_normal((rate // 3, channels)).clip(-3, 3)
    soundfile.write(out, samples, rate, format=kind, subtype=subtype)
    return out.getvalue()


RAW = Pcm()


def heard(data: bytes, raw: Pcm = RAW, *, at: int = 16_000, channels: str = "mean") -> np.ndarray:
    return np.concatenate(list(live_blocks(Pipe(data), raw, sample_rate_hz=at, channels=channels)))


@pytest.mark.parametrize("kind", ["WAV", "WAVEX"])
@pytest.mark.parametrize("subtype", SUBTYPES)
@pytest.mark.parametrize(
    ("rate", "channels", "at"), [(16_000, 1, 16_000), (44_100, 2, 16_000), (8_000, 2, 32_000)]
)
def test_a_wav_file_in_a_pipe_is_what_it_is_on_disk(kind, subtype, rate, channels, at):
    data = wav(rate, channels, subtype, kind)
    for mix in ("mean", "first"):
        # resampled in pieces: to float32's rounding
        wanted = load_audio(data, channels=mix, sample_rate_hz=at)
        np.testing.assert_allclose(heard(data, at=at, channels=mix), wanted, atol=2e-6)


@pytest.mark.parametrize(("subtype", "kind"), SUBTYPES.items())
def test_raw_samples_are_what_they_are_said_to_be(subtype, kind):
    data = wav(22_050, 2, subtype)
    raw = data[data.index(b"data") + 8 :]
    np.testing.assert_array_equal(heard(raw, Pcm(22_050, 2, kind)), heard(data))


def test_a_recorders_header_with_other_chunks_and_without_lengths_is_understood():
    data = bytearray(wav(16_000, 1, "PCM_16"))
    at = data.index(b"data")
    data[4:8] = data[at + 4 : at + 8] = b"\xff\xff\xff\xff"
    data[at:at] = b"LIST\x03\x00\x00\x00abc\x00"
    np.testing.assert_array_equal(heard(bytes(data)), load_audio(wav(16_000, 1, "PCM_16")))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "no samples: got an empty stream; wanted a WAV file or raw s16 at 16000 Hz, 1 channel"),
        (b"x", "no samples"),
        (wav(16_000, 1, "PCM_16")[:30], "truncated"),
        (wav(16_000, 1, "PCM_16")[:44], "no samples"),
        (wav(16_000, 1, "ALAW"), "WAV format 6 of 8 bits, 1 channels, 16000 Hz; wanted PCM"),
        (b"RIFF\0\0\0\0WAVEdata\0\0\0\0" + bytes(64), "does not say its format"),
        (np.float32([0, np.nan]).tobytes(), "NaN"),
    ],
)
def test_what_cannot_be_heard_is_one_line(data, message):
    raw = Pcm(kind="f32") if "NaN" in message else Pcm()
    with pytest.raises(AudioError, match=message):
        heard(data, raw)
