"""Sounds that libsndfile does not know and ffmpeg does, where one is on the PATH: what telephones, browsers
and cameras record.

By their first bytes. The first sound of a file is decoded to a temporary WAV file, which is then read like
any other; ffmpeg is a process of its own, under the limits of this one.
"""

import contextlib
import io
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

# What a file begins with, at which byte.
_SIGNS = (
    ("MP4 (m4a, mp4, mov)", 4, b"ftyp"),
    ("Matroska (webm, mka, mkv)", 0, bytes.fromhex("1a45dfa3")),
    ("Windows Media (wma)", 0, bytes.fromhex("3026b2758e66cf11")),
    ("AMR", 0, b"#!AMR"),
    ("AAC", 0, b"\xff\xf1"),
    ("AAC", 0, b"\xff\xf9"),
)


class ForeignError(Exception):
    """ffmpeg is not there, or has found no sound; in a few words."""


def kind_of(file: io.BytesIO | io.FileIO) -> str | None:
    """What a file is, if it is none of libsndfile's and one of these."""
    file.seek(0)
    start = file.read(16)
    return next((kind for kind, at, sign in _SIGNS if start[at : at + len(sign)] == sign), None)


@contextlib.contextmanager
def decoded(source: str | os.PathLike | bytes) -> Iterator[io.FileIO]:
    """The WAV file of a file's first sound, at its own rate and with all its channels; gone afterwards.

    Raises ForeignError.
    """
    ffmpeg = _program("ffmpeg")
    with _folder() as folder:
        out = Path(folder, "sound.wav")
        _run(
            [ffmpeg, "-nostdin", "-v", "error", "-xerror", "-i", _on_disk(source, folder)],
            ["-map", "0:a:0", "-c:a", "pcm_s16le", "-rf64", "auto", "-bitexact", str(out)],
        )
        with io.FileIO(out) as file:
            yield file


def duration_s(source: str | os.PathLike | bytes) -> float:
    """Seconds by the file's own account, without decoding. Raises ForeignError."""
    probe = _program("ffprobe")
    with _folder() as folder:
        asked = ["-of", "json", "-show_entries", "format=duration", "-i", _on_disk(source, folder)]
        told = json.loads(_run([probe, "-v", "error", "-select_streams", "a:0"], asked))
    try:
        return float(told["format"]["duration"])
    except (KeyError, ValueError):
        raise ForeignError("no length in its header") from None


@contextlib.contextmanager
def _folder() -> Iterator[str]:
    try:
        made = tempfile.TemporaryDirectory(prefix="ast_jax_")
    except OSError:
        # as in the decoders of `serve`
        raise ForeignError("no temporary file for ffmpeg may be written here") from None
    with made as folder:
        yield folder


def _on_disk(source: str | os.PathLike | bytes, folder: str) -> str:
    """A path for ffmpeg: in an MP4 file what to read first may be at the end, so that a pipe will not do."""
    if not isinstance(source, bytes):
        # a name with a colon, or that begins with a dash, is no address and no flag
        return f"file:{os.path.abspath(source)}"
    path = Path(folder, "given")
    path.write_bytes(source)
    return f"file:{path}"


def _program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise ForeignError(f"no {name} here that could decode it")
    return found


def _run(command: list[str], more: list[str]) -> bytes:
    """What it prints. Raises ForeignError with its last words."""
    done = subprocess.run([*command, *more], stdin=subprocess.DEVNULL, capture_output=True, check=False)
    if done.returncode:
        words = done.stderr.decode(errors="replace").strip().splitlines()
        last = words[-1].rpartition("] ")[2] if words else f"status {done.returncode}"
        raise ForeignError(f"ffmpeg says: {last}"[:200])
    return done.stdout
