"""Decoding: formats, rates and channels in, one channel out; bad files are named for what is wrong."""

import io
import os
import pickle
import struct

import numpy as np
import pytest
import soundfile

from ast_jax.errors import InputError
from ast_jax.features import SAMPLE_RATE, AudioError, duration_s, load_audio, stream_audio
from ast_jax.features.audio import num_channels

FORMATS = ["wav", "flac", "ogg", "mp3"]


def sine(hertz: float, rate: int, seconds: float = 1.0, level: float = 0.5) -> np.ndarray:
    return level * np.sin(2 * np.pi * hertz * np.arange(int(rate * seconds)) / rate)


def write(path, channels: list[np.ndarray], rate: int, **kw):
    soundfile.write(path, np.stack(channels, axis=1), rate, **kw)
    return path


def loudest_hertz(waveform: np.ndarray) -> float:
    spectrum = np.abs(np.fft.rfft(waveform * np.hanning(len(waveform))))
    return float(np.argmax(spectrum)) * SAMPLE_RATE / len(waveform)


def encoded(form: str, samples: np.ndarray, rate: int = 16_000, **kw) -> bytes:
    out = io.BytesIO()
    soundfile.write(out, samples, rate, format=form.upper(), **kw)
    return out.getvalue()


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("rate", [8_000, 16_000, 22_050, 44_100, 48_000])
@pytest.mark.parametrize("count", [1, 2])
def test_a_sine_comes_back_with_its_frequency(tmp_path, form, rate, count):
    path = write(tmp_path / f"tone.{form}", [sine(1000, rate)] * count, rate)
    waveform = load_audio(path)
    assert waveform.dtype == np.float32
    assert waveform.ndim == 1
    assert abs(len(waveform) - SAMPLE_RATE) <= 1
    assert loudest_hertz(waveform) == pytest.approx(1000, abs=2)
    middle = waveform[2000:-2000]
    assert np.sqrt(np.mean(middle**2)) == pytest.approx(
        0.5 / np.sqrt(2), rel=0.04
    )  # MP3 at 16 kHz is 3 % louder
    np.testing.assert_array_equal(load_audio(path.read_bytes()), waveform)
    np.testing.assert_array_equal(load_audio(str(path)), waveform)
    assert duration_s(path) == pytest.approx(1.0, abs=1e-3)


def test_samples_at_16_khz_are_the_files_own(tmp_path):
    x = np.random.default_rng(0).integers(-32768, 32768, 5000).astype(np.int16)
    waveform = load_audio(write(tmp_path / "x.wav", [x], 16_000, subtype="PCM_16"))
    np.testing.assert_array_equal(waveform, x / np.float32(32768))


def test_sound_above_8_khz_is_filtered_not_folded(tmp_path):
    path = write(tmp_path / "x.wav", [sine(15_000, 48_000)], 48_000, subtype="FLOAT")
    assert np.abs(load_audio(path)[1000:-1000]).max() < 1e-4


def test_channels_are_mixed_or_the_first_is_taken(tmp_path):
    left, right, back = sine(500, 16_000), sine(900, 16_000), sine(2000, 16_000)
    path = write(tmp_path / "x.wav", [left, right, back], 16_000, subtype="FLOAT")
    np.testing.assert_allclose(load_audio(path), (left + right + back) / 3, atol=1e-6)
    np.testing.assert_allclose(load_audio(path, channels="first"), left, atol=1e-6)


def test_a_channel_is_heard_by_its_number(tmp_path):
    tones = [sine(500, 16_000), sine(900, 16_000), sine(2000, 16_000)]
    path = write(tmp_path / "x.wav", tones, 16_000, subtype="FLOAT")
    assert num_channels(path) == 3
    for number, tone in enumerate(tones):
        np.testing.assert_allclose(load_audio(path, channels=number), tone, atol=1e-6)
        np.testing.assert_array_equal(
            np.concatenate(list(stream_audio(path, channels=number, block_s=0.2))),
            load_audio(path, channels=number),
        )
    for number in (-1, 3):
        with pytest.raises(InputError, match=f"channels is {number}; .*x.wav has 3, counted from 0"):
            load_audio(path, channels=number)


def test_resampled_samples_are_not_clipped(tmp_path):
    square = np.sign(sine(440, 44_100))  # its band-limited version overshoots
    assert np.abs(load_audio(write(tmp_path / "x.wav", [square], 44_100, subtype="FLOAT"))).max() > 1.02


def test_the_loudest_channel_of_a_file_is_one_for_all_of_it(tmp_path):
    """The second one, though the first begins louder; whole and in pieces; of a mono file its only one."""
    rng = np.random.default_rng(0)
    left = rng.normal(size=48_000) * np.linspace(0.1, 0.0, 48_000)
    right = rng.normal(size=48_000) * np.linspace(0.0, 0.2, 48_000)
    path = tmp_path / "two.wav"
    soundfile.write(path, np.stack([left, right], axis=1), 16_000, subtype="FLOAT")
    whole = load_audio(path, channels="loudest")
    np.testing.assert_array_equal(whole, right.astype(np.float32))
    pieces = np.concatenate(list(stream_audio(path, channels="loudest", block_s=0.5)))
    np.testing.assert_array_equal(pieces, whole)
    soundfile.write(path, left, 16_000, subtype="FLOAT")
    np.testing.assert_array_equal(load_audio(path, channels="loudest"), left.astype(np.float32))


def test_a_fault_is_told_as_ever_where_the_loudest_channel_is_sought():
    """The first pass over a file says nothing of its own."""
    stereo = encoded("wav", np.stack([sine(700, 16_000), sine(300, 16_000)], axis=1))
    for channels in ("first", "loudest"):
        with pytest.raises(AudioError, match="truncated"):
            load_audio(stereo[: len(stereo) // 2], channels=channels)


@pytest.mark.parametrize("rate", [16_000, 22_050, 48_000])
@pytest.mark.parametrize("channels", ["mean", "first", "loudest"])
def test_streamed_pieces_make_the_whole(tmp_path, rate, channels):
    rng = np.random.default_rng(0)
    path = write(tmp_path / "x.flac", [rng.uniform(-0.5, 0.5, 3 * rate + 77) for _ in range(2)], rate)
    pieces = list(stream_audio(path, channels=channels, block_s=0.5))
    assert len(pieces) >= 6
    assert max(map(len, pieces)) <= 0.5 * SAMPLE_RATE + 400  # the resampler's own delay
    np.testing.assert_allclose(np.concatenate(pieces), load_audio(path, channels=channels), rtol=0, atol=1e-6)


@pytest.mark.parametrize("rate", [16_000, 32_000, 44_100])
def test_other_sample_rates(rate):
    flac = encoded("flac", 0.5 * sine(700, 32_000), rate=32_000)
    waveform = load_audio(flac, sample_rate_hz=rate)
    assert len(waveform) == pytest.approx(rate, abs=1)
    assert np.argmax(np.abs(np.fft.rfft(waveform))) == pytest.approx(700, abs=1)
    streamed = np.concatenate(list(stream_audio(flac, sample_rate_hz=rate, block_s=0.3)))
    np.testing.assert_allclose(streamed, waveform, rtol=0, atol=1e-6)


def test_long_files_are_decoded_in_several_blocks(tmp_path):
    x = (
        np.random.default_rng(0).integers(-32768, 32768, 600_000).astype(np.int16)
    )  # more than two blocks of 2^18
    np.testing.assert_array_equal(load_audio(write(tmp_path / "x.wav", [x], 16_000)), x / np.float32(32768))


def test_content_decides_not_the_name(tmp_path):
    ogg = encoded("ogg", sine(700, 16_000))
    for name in ("x.wav", "x.raw", "x", "an odd näme.txt"):
        (tmp_path / name).write_bytes(ogg)
        assert loudest_hertz(load_audio(tmp_path / name)) == pytest.approx(700, abs=2)


def reason(source, **kw) -> str:
    """The reason of the error, after checking that its text is one line and says what was wanted."""
    with pytest.raises(AudioError) as caught:
        load_audio(source, **kw)
    text = str(caught.value)
    assert "\n" not in text
    assert f"{caught.value.reason}: " in text
    assert "; wanted " in text
    return caught.value.reason


def test_half_a_macintosh_file_in_the_working_directory_is_named(tmp_path, monkeypatch):
    soundfile.write(tmp_path / "a.mp3", 0.1 * np.sin(np.arange(16_000) * 0.1), 16_000)
    monkeypatch.chdir(tmp_path)
    assert len(load_audio(tmp_path / "a.mp3")) > 15_000
    (tmp_path / "._").touch()
    with pytest.raises(AudioError, match=r"a file '\._' in the working directory.*delete it"):
        load_audio(tmp_path / "a.mp3")


def test_missing_files_and_directories_are_unreadable(tmp_path):
    assert reason(tmp_path / "none.wav") == "unreadable"
    assert reason(tmp_path) == "unreadable"
    with pytest.raises(AudioError, match=r"none\.wav"):
        load_audio(tmp_path / "none.wav")


def test_pipes_and_devices_are_not_opened(tmp_path):
    """Opening a pipe that nobody writes to would wait for ever."""
    os.mkfifo(tmp_path / "x.wav")
    assert reason(tmp_path / "x.wav") == reason("/dev/zero") == "unreadable"


def test_empty_files(tmp_path):
    (tmp_path / "x.wav").touch()
    assert reason(tmp_path / "x.wav") == reason(b"") == "empty file"


@pytest.mark.parametrize(
    "content",
    [b"hello\n" * 300, bytes(5000), b"%PDF-1.7\n" + bytes(500), b"RIFF\x04\0\0\0WAVE", b"x", b"RIFF"],
    ids=["text", "zeros", "pdf", "wav without chunks", "one byte", "four bytes"],
)
def test_not_audio(content, tmp_path):
    (tmp_path / "x.wav").write_bytes(content)
    assert reason(tmp_path / "x.wav") == reason(content) == "not audio"


def test_random_bytes_are_not_audio():
    for seed in range(20):
        assert reason(np.random.default_rng(seed).bytes(3000)) in {"not audio", "damaged"}


def test_a_broken_header_is_damaged():
    ogg = encoded("ogg", sine(700, 16_000))
    assert reason(ogg[:40] + bytes(200) + ogg[240:]) == "damaged"
    wav = bytearray(encoded("wav", sine(700, 16_000)))
    wav[24:28] = struct.pack("<I", 1)  # 1 Hz: resampling would ask for gigabytes
    assert reason(bytes(wav)) == "damaged"


@pytest.mark.parametrize("kept", [0.95, 0.5, 0.1])
@pytest.mark.parametrize("form", FORMATS)
def test_truncated(form, kept):
    whole = encoded(form, 0.5 * np.random.default_rng(0).uniform(-1, 1, 64_000))
    assert len(load_audio(whole)) == 64_000
    assert reason(whole[: int(kept * len(whole))]) == "truncated"


def test_truncated_inside_the_header():
    assert reason(encoded("wav", sine(700, 16_000))[:30]) == "truncated"
    assert reason(encoded("ogg", sine(700, 16_000))[:20]) == "truncated"


def test_streaming_finds_the_truncation_too():
    flac = encoded("flac", np.random.default_rng(0).uniform(-1, 1, 64_000))
    with pytest.raises(AudioError, match="truncated"):
        list(stream_audio(flac[: len(flac) // 2], block_s=0.25))


def test_wav_with_chunks_around_its_samples_is_whole():
    """Extra chunks before and after the samples, an odd one too, and a length that was never filled in."""
    wav = encoded("wav", sine(700, 16_000))
    assert wav[36:40] == b"data"
    odd, after = b"LIST" + struct.pack("<I", 3) + b"abc\0", b"note" + struct.pack("<I", 2) + b"ok"
    assert len(load_audio(wav[:36] + odd + wav[36:] + after)) == 16_000
    unfilled = wav[:4] + b"\xff" * 4 + wav[8:40] + b"\xff" * 4 + wav[44:]
    assert len(load_audio(unfilled)) == 16_000


def test_an_ogg_file_that_lost_its_last_byte_is_truncated():
    assert reason(encoded("ogg", sine(700, 16_000))[:-1]) == "truncated"


def test_an_mp3_may_end_up_to_two_of_its_frames_before_the_header_says():
    """Encoders' delay and padding; one that ends earlier is truncated."""
    mp3 = encoded("mp3", sine(700, 16_000))
    assert 16_000 - 2 * 1152 < len(load_audio(mp3[:-100])) < 16_000
    assert reason(mp3[:-800]) == "truncated"


def test_bytes_after_the_last_ogg_page_do_no_harm():
    assert len(load_audio(encoded("ogg", sine(700, 16_000)) + b"TAG" + bytes(125))) == 16_000


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_not_finite(bad, tmp_path):
    x = sine(700, 16_000).astype(np.float32)
    x[4000] = bad
    path = write(tmp_path / "x.wav", [np.zeros_like(x), x], 16_000, subtype="FLOAT")
    assert reason(path) == "not finite"
    with pytest.raises(AudioError, match=r"at 0\.250 s"):
        load_audio(path)


def test_the_time_of_a_fault_is_the_sounds_not_the_pieces():
    x = sine(700, 16_000).astype(np.float32)
    x[12_000] = np.nan
    with pytest.raises(AudioError, match=r"at 0\.750 s"):
        list(stream_audio(encoded("wav", x, subtype="FLOAT"), block_s=0.1))


def test_six_channels_are_mixed_to_their_mean():
    x = np.random.default_rng(0).uniform(-0.5, 0.5, (800, 6)).astype(np.float32)
    wav = encoded("wav", x, subtype="FLOAT")
    np.testing.assert_allclose(load_audio(wav), x.mean(axis=1), atol=1e-7)
    np.testing.assert_array_equal(load_audio(wav, channels="first"), x[:, 0])


def test_a_sound_of_just_the_longest_length_is_taken():
    wav = encoded("wav", sine(700, 16_000))
    assert len(load_audio(wav, longest_s=1.0)) == 16_000
    with pytest.raises(AudioError, match="cut_s") as caught:
        load_audio(wav, longest_s=0.99)
    assert caught.value.reason == "too long"


def test_wav_of_the_other_byte_order_is_whole_or_truncated():
    wav = encoded("wav", sine(700, 16_000), endian="BIG")
    assert wav[:4] == b"RIFX"
    assert len(load_audio(wav)) == 16_000
    assert reason(wav[:-100]) == "truncated"


def test_no_samples():
    assert reason(encoded("wav", np.zeros(0))) == "no samples"
    too_short = encoded("wav", np.zeros(3), rate=192_000)
    assert reason(too_short) == "no samples"  # less than one at 16 kHz
    with pytest.raises(AudioError, match="less than one sample at 16 kHz"):
        list(stream_audio(too_short))
    assert len(load_audio(too_short, sample_rate_hz=192_000)) == 3


def test_a_wild_promise_costs_no_memory():
    """A FLAC header may promise 2^36 samples: refused for what is missing, not by a MemoryError."""
    flac = bytearray(encoded("flac", sine(700, 16_000)))
    flac[21] |= 0x0F  # the upper bits of STREAMINFO's number of samples
    assert reason(bytes(flac)) == "truncated"


def test_unknown_channel_choices_are_the_callers_fault():
    with pytest.raises(InputError, match="'mean', 'first' or 'loudest'") as caught:
        load_audio.__wrapped__(encoded("wav", sine(700, 16_000)), channels="left")
    assert not isinstance(caught.value, AudioError)


def test_the_error_survives_the_way_between_processes():
    error = pickle.loads(pickle.dumps(AudioError("x.wav: truncated: 3 bytes; wanted 4", "truncated")))
    assert isinstance(error, InputError)
    assert (str(error), error.reason) == ("x.wav: truncated: 3 bytes; wanted 4", "truncated")


def test_real_clips_have_their_length_and_16_khz(shared):
    paths = sorted((shared / "data" / "ESC-50-master" / "audio").glob("*.ogg"))[::40]
    for path in paths:
        waveform = load_audio(path)
        assert len(waveform) == pytest.approx(duration_s(path) * SAMPLE_RATE, abs=1)
        assert 3.6 < duration_s(path) < 7.3
