"""A header's claim against the bytes that are there: nothing is lost, and what is odd is told."""

import io
import struct

import numpy as np
import pytest
import soundfile

from ast_jax.features import AudioError, duration_s, load_audio, stream_audio
from ast_jax.features.audio import AudioWarning

RATE = 16_000


def noise(seconds: float, level: float = 0.3, seed: int = 0) -> np.ndarray:
    return level * np.random.default_rng(seed).uniform(-1, 1, round(seconds * RATE))


def encoded(samples: np.ndarray, form: str, **kw) -> bytes:
    out = io.BytesIO()
    soundfile.write(out, samples, RATE, format=form, **kw)
    return out.getvalue()


def heard(data: bytes, **kw) -> tuple[np.ndarray, list[str]]:
    """The waveform, the same as a stream gives, and what was told."""
    notes: list[str] = []
    whole = load_audio(data, tell=notes.append, **kw)
    streamed = np.concatenate(list(stream_audio(data, tell=notes.append, block_s=0.4, **kw)))
    np.testing.assert_allclose(streamed, whole, atol=1e-6)
    assert notes[::2] == notes[1::2] or notes[: len(notes) // 2] == notes[len(notes) // 2 :]
    return whole, notes[: len(notes) // 2]


def variable_mp3(channels: int = 1, rate: int = RATE) -> tuple[bytes, int]:
    """An MP3 that begins quietly, at a low bit rate, and the length of its Xing frame."""
    samples = np.concatenate([noise(1, 0.001), noise(3, 0.5)])
    out = io.BytesIO()
    options = {"bitrate_mode": "VARIABLE", "compression_level": 0.5}
    soundfile.write(out, np.stack([samples] * channels, axis=1), rate, format="MP3", **options)
    data = out.getvalue()
    return data, data.index(b"\xff", 200)


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("rate", [8_000, 16_000, 44_100])
def test_an_mp3_of_variable_rate_without_its_header_is_heard_whole(channels, rate):
    data, first = variable_mp3(channels, rate)
    # of the encoder's delay and padding only the header tells
    for bare in (data[first:], b"ID3\x04\0\0\0\0\x01\x00" + bytes(128) + data[first:] + b"TAG" + bytes(125)):
        samples = len(heard(bare)[0]) * rate / RATE
        assert 0 <= samples - 4 * RATE <= 3 * 1152
        assert duration_s(bare) == pytest.approx(samples / rate, abs=0.01)


@pytest.mark.parametrize("form", ["MP3", "OGG"])
def test_joined_files_are_heard_to_the_end_and_told(form):
    first, second = noise(1.0), noise(2.0, 0.2, seed=1)
    whole, notes = heard(encoded(first, form) + encoded(second, form))
    assert len(notes) == 1
    assert "2 sounds joined in one file" in notes[0]
    np.testing.assert_array_equal(
        whole, np.concatenate([heard(encoded(x, form))[0] for x in (first, second)])
    )
    assert duration_s(encoded(first, form) + encoded(second, form)) == pytest.approx(3.0, abs=0.01)


@pytest.mark.parametrize("form", ["WAV", "WAVEX"])
@pytest.mark.parametrize("claimed", [0, 32_000])
def test_a_wav_whose_recorder_died_is_heard_whole(form, claimed):
    samples = noise(3.0)
    data = bytearray(encoded(samples, form, subtype="PCM_16"))
    at = data.index(b"data") + 4
    data[at : at + 4] = struct.pack("<I", claimed)
    whole, notes = heard(bytes(data))
    np.testing.assert_allclose(whole, samples, atol=1e-4)
    assert f"speaks of {claimed} bytes of samples, 96000 are there" in notes[0]


def test_chunks_and_tags_behind_the_samples_are_no_sound():
    data = encoded(noise(1.0), "WAV", subtype="PCM_16")
    for tail in (b"LIST" + struct.pack("<I", 200) + bytes(200), b"TAG" + bytes(125)):
        whole, notes = heard(data + tail)
        assert (len(whole), notes) == (RATE, [])


def test_a_length_that_counts_the_header_is_played_as_everywhere():
    data = bytearray(encoded(noise(1.0), "WAV", subtype="PCM_16"))
    at = data.index(b"data") + 4
    data[at : at + 4] = struct.pack("<I", 2 * RATE + 44)
    assert len(heard(bytes(data))[0]) == RATE


def test_claims_of_gigabytes_are_checked_but_not_those_of_pipes():
    data = bytearray(encoded(noise(1.0), "WAV", subtype="PCM_16"))
    at = data.index(b"data") + 4
    for pipes in (0xFFFFFFFF, 0x80000000, 0x7FFFF000, 0x7FFFFFFF - 36):
        data[at : at + 4] = struct.pack("<I", pipes)
        assert len(heard(bytes(data))[0]) == RATE
    for claimed in (2_500_000_000, 3_900_000_000):
        data[at : at + 4] = struct.pack("<I", claimed)
        with pytest.raises(AudioError, match="truncated"):
            load_audio(bytes(data))


@pytest.mark.parametrize(
    "form", ["RF64", "W64", "AU", "CAF", "NIST", "AIFF", "WAV", "WAVEX", "FLAC", "OGG", "MP3"]
)
@pytest.mark.parametrize("kept", [0.5, 0.97])
def test_what_was_cut_is_refused_in_every_format_that_is_read(form, kept):
    data = encoded(noise(2.0), form)
    assert len(heard(data)[0]) == 2 * RATE
    with pytest.raises(AudioError) as error:
        load_audio(data[: int(kept * len(data))])
    assert error.value.reason == "truncated"


@pytest.mark.parametrize(
    "form", ["SDS", "VOC", "PAF", "SVX", "IRCAM", "MAT5", "PVF", "HTK", "AVR", "WVE", "MPC2K"]
)
def test_formats_whose_end_nobody_can_check_are_named_a_way_out(form):
    out = io.BytesIO()
    rate = 8000 if form == "WVE" else RATE
    soundfile.write(out, noise(1.0), rate, format=form, subtype="ALAW" if form == "WVE" else "PCM_16")
    if form == "SVX":
        # a kin of AIFF, whose whole length is stated
        assert len(load_audio(out.getvalue())) == RATE
        return
    with pytest.raises(AudioError, match=r"not audio.*ffmpeg -i FILE NEW\.wav"):
        load_audio(out.getvalue())


def test_channels_that_cancel_are_told():
    left = noise(1.0)
    data = encoded(np.stack([left, -left], axis=1), "WAV", subtype="FLOAT")
    whole, notes = heard(data)
    assert not whole.any()
    assert "channels cancel each other" in notes[0]
    assert "channels=first" in notes[0]
    assert heard(data, channels="first")[1] == []
    with pytest.warns(AudioWarning, match="cancel"):
        load_audio(data)
    # silence, and channels that differ
    assert heard(encoded(np.zeros((RATE, 2)), "WAV"))[1] == []
    assert heard(encoded(np.stack([left, noise(1.0, seed=1)], axis=1), "WAV"))[1] == []


@pytest.mark.parametrize("level", [1e30, 1e18, -1e9])
def test_a_sample_beyond_all_sound_is_damage(level):
    samples = noise(2.0).astype(np.float32)
    samples[20_000] = level
    with pytest.raises(AudioError, match=r"damaged: a sample of 1e\+(30|18|09) at 1\.250 s"):
        load_audio(encoded(samples, "WAV", subtype="FLOAT"))


def test_floats_that_hold_integers_are_heard():
    samples = 32_767 * noise(1.0)
    np.testing.assert_allclose(load_audio(encoded(samples, "WAV", subtype="FLOAT")), samples, rtol=1e-6)
