"""Decodes what anybody may send, in a process of its own with limits on memory and time."""

import asyncio
import contextlib
import math
import signal
import sys
from http import HTTPStatus
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from ast_jax.inference.serve.decoder import CANNOT, NO_MEMORY, NO_SOUND
from ast_jax.inference.serve.limits import Limits, RequestRefused

_PACKAGE_HOME = str(Path(__file__).resolve().parents[3])
# One thread each: a pool of them reserves more address space than decoding needs. Nothing else of our
# environment goes along.
_ENVIRONMENT = {"PYTHONPATH": _PACKAGE_HOME, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}


async def decode(
    sound: bytes, *, channels: str, sample_rate_hz: int, limits: Limits
) -> Float32[np.ndarray, " S"]:
    """The waveform, mono at that rate. Raises RequestRefused: it is no sound, too long, or costs too much."""
    cpu_s = math.ceil(limits.decode_time_s)
    arguments = (channels, sample_rate_hz, limits.sound_s, limits.decode_bytes, cpu_s)
    pipe = asyncio.subprocess.PIPE
    try:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "ast_jax.inference.serve.decoder", *map(str, arguments)),
            stdin=pipe,
            stdout=pipe,
            stderr=pipe,
            env=_ENVIRONMENT,
            process_group=0,  # Ctrl-C reaches the server only, which ends its decoders
        )
    except OSError as error:  # no more files or processes
        line = f"the server has nothing left to decode with ({error.strerror}): try again"
        raise RequestRefused(HTTPStatus.SERVICE_UNAVAILABLE, line) from error
    try:
        async with asyncio.timeout(limits.decode_time_s):
            most = 4 * math.ceil(limits.sound_s * sample_rate_hz)
            samples, words = await _converse(process, sound, most)
            status = await process.wait()
    except TimeoutError:
        raise RequestRefused(*_too_dear("time", limits)) from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if status == 0:
        return np.frombuffer(samples, np.float32)
    if status in (CANNOT, NO_SOUND):
        kind = HTTPStatus.UNSUPPORTED_MEDIA_TYPE if status == NO_SOUND else HTTPStatus.UNPROCESSABLE_ENTITY
        raise RequestRefused(kind, f"this cannot be tagged: {words.decode(errors='replace')}")
    if status in (NO_MEMORY, -signal.SIGXCPU, -signal.SIGKILL):
        raise RequestRefused(*_too_dear("memory" if status == NO_MEMORY else "time", limits))
    line = f"this cannot be tagged: it ended the decoder with status {status}, as damaged files do"
    raise RequestRefused(HTTPStatus.UNPROCESSABLE_ENTITY, line)


def _too_dear(what: str, limits: Limits) -> tuple[HTTPStatus, str]:
    most = f"{limits.decode_bytes / 1e6:,.0f} MB" if what == "memory" else f"{limits.decode_time_s:g} s"
    line = f"this cannot be tagged: decoding it takes more {what} than {most}"
    return HTTPStatus.UNPROCESSABLE_ENTITY, line


async def _converse(process: asyncio.subprocess.Process, sound: bytes, most: int) -> tuple[bytes, bytes]:
    """Gives the sound in and takes at most `most` bytes of samples and 4 kB of words out."""
    stdin, stdout, stderr = process.stdin, process.stdout, process.stderr
    # All three were asked for.
    assert stdin is not None
    assert stdout is not None
    assert stderr is not None

    async def give() -> None:
        # Where it died, its status says how.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            stdin.write(sound)
            await stdin.drain()
            stdin.close()

    async def take(stream: asyncio.StreamReader, most: int) -> bytes:
        parts, size = [], 0
        while size < most and (part := await stream.read(min(1 << 16, most - size))):
            parts.append(part)
            size += len(part)
        return b"".join(parts)

    _, samples, words = await asyncio.gather(give(), take(stdout, most), take(stderr, 4096))
    return samples, words
