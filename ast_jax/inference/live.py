"""A live sound: raw samples from a pipe, as they come."""

import io
from collections.abc import Iterator

import numpy as np
from jaxtyping import Float32

from ast_jax.features import AudioError

_READ = 1 << 16  # bytes at most: 2 s


def pcm_blocks(stream: io.BufferedIOBase) -> Iterator[Float32[np.ndarray, " _"]]:
    """16-bit little-endian mono at 16 kHz to samples in [-1, 1], a block for whatever the pipe holds, without
    waiting for more.

    Raises AudioError if the stream ends before the first sample.
    """
    rest, heard = b"", False
    read = getattr(
        stream, "read1", stream.read
    )  # read1 gives what is there; read would wait until it has all
    while data := read(_READ):
        data = rest + data
        whole = len(data) // 2 * 2
        rest = data[whole:]  # half a sample, if a write was cut there
        if whole:
            heard = True
            yield np.frombuffer(data[:whole], "<i2").astype(np.float32) / 32768
    if not heard:
        raise AudioError(
            "<stdin>: no samples: got an empty stream; wanted raw 16-bit mono PCM at 16 kHz", "no samples"
        )
