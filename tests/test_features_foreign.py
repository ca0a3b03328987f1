"""What ffmpeg decodes: the same sound as from a WAV file; and one line where it cannot."""

import shutil
import subprocess
import sys

import numpy as np
import pytest
import soundfile

from ast_jax.features import AudioError, duration_s, load_audio
from ast_jax.inference.serve.decoder import NO_SOUND

RATE = 16_000
needs_ffmpeg = pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="no ffmpeg on the PATH")


@pytest.fixture(scope="module")
def tone(tmp_path_factory):
    """Two seconds of a rising tone, in two channels."""
    t = np.arange(2 * RATE) / RATE
    wave = 0.4 * np.sin(2 * np.pi * (300 + 200 * t) * t)
    path = tmp_path_factory.mktemp("tone") / "tone.wav"
    soundfile.write(path, np.stack([wave, 0.5 * wave], axis=1), RATE)
    return path


@needs_ffmpeg
@pytest.mark.parametrize("codec", ["m4a", "mka", "mp4", "aac"])
def test_it_is_the_sound_of_the_wav_file(tone, tmp_path, codec):
    """From a path and from bytes; but for the codec's own loss and its delay of less than 70 ms."""
    path = tmp_path / f"- a:b.{codec}"
    more = ["-c:a", "flac"] if codec == "mka" else ["-c:a", "aac", "-b:a", "128k"]
    subprocess.run(["ffmpeg", "-v", "error", "-i", str(tone), *more, f"file:{path}"], check=True)
    wanted, heard = load_audio(tone), load_audio(path)
    np.testing.assert_array_equal(load_audio(path.read_bytes()), heard)
    assert duration_s(path) == pytest.approx(2, abs=0.15)
    if codec == "mka":
        np.testing.assert_allclose(heard, wanted, atol=2 / 32768)
        return
    shared = max(np.correlate(heard[: len(wanted)], wanted[1100:-1100], "valid"))
    assert shared > 0.98 * np.square(wanted[1100:-1100]).sum()


@pytest.mark.parametrize("start", [b"\0\0\0\x20ftypM4A ", bytes.fromhex("1a45dfa3")])
def test_without_ffmpeg_the_line_says_what_to_do(tmp_path, monkeypatch, start):
    monkeypatch.setenv("PATH", str(tmp_path))
    path = tmp_path / "x.m4a"
    path.write_bytes(start + bytes(400))
    for ask in (load_audio, duration_s):
        with pytest.raises(
            AudioError, match=r"no ff(mpeg|probe) here .* wanted of M.* an ffmpeg on the PATH"
        ):
            ask(path)


@needs_ffmpeg
def test_a_broken_one_is_refused_with_ffmpegs_words(tone, tmp_path):
    path = tmp_path / "x.m4a"
    subprocess.run(["ffmpeg", "-v", "error", "-i", str(tone), str(path)], check=True)
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(AudioError, match="ffmpeg says: "):
        load_audio(path)


@needs_ffmpeg
def test_the_guarded_decoder_writes_no_file_and_says_so(tone, tmp_path):
    path = tmp_path / "x.m4a"
    subprocess.run(["ffmpeg", "-v", "error", "-i", str(tone), str(path)], check=True)
    command = [sys.executable, "-m", "ast_jax.inference.serve.decoder"]
    limits = ["mean", "16000", "3600", "2000000000", "60"]
    done = subprocess.run([*command, *limits], input=path.read_bytes(), capture_output=True, check=False)
    assert done.returncode == NO_SOUND
    assert b"no temporary file for ffmpeg" in done.stderr
    assert not done.stdout
