r"""A program that decodes one sound and ends: hostile bytes harm this process alone.

  python -m ast_jax.inference.serve.decoder \
      CHANNELS RATE_HZ MAX_SECONDS MAX_BYTES MAX_CPU_SECONDS < sound > samples

Samples are float32 at RATE_HZ. Exit status: 0 done, 10 it cannot be heard or is too long, 11 it is no sound
(both with a line on stderr), 12 not enough memory.
"""

import os
import sys
from typing import Any, BinaryIO, NoReturn

from ast_jax import system
from ast_jax.features.audio import AudioError, duration_s, stream_audio

CANNOT, NO_SOUND, NO_MEMORY = 10, 11, 12


def main() -> None:
    channels, rate_hz, seconds, memory, cpu_s = sys.argv[1], *map(float, sys.argv[2:])
    samples, words = _own_pipes()
    system.limit(memory_bytes=int(memory), cpu_s=int(cpu_s))

    def refuse(line: str, status: int = CANNOT) -> NoReturn:
        os.write(words, line.encode())
        sys.exit(status)

    try:
        sound = sys.stdin.buffer.read()
        # By its header, so that an hour need not be decoded to be refused.
        told = duration_s(sound)
        if told > seconds:
            refuse(f"it lasts {told:,.0f} s, and {seconds:,.0f} s is the most: cut it")
        left = round(seconds * rate_hz)
        options: dict[str, Any] = {"channels": channels, "sample_rate_hz": round(rate_hz), "block_s": 1.0}
        # nobody is there to read what is odd
        options["tell"] = lambda line: None
        for block in stream_audio(sound, **options):
            left -= len(block)
            if left < 0:
                refuse(f"it lasts more than {seconds:,.0f} s, which is the most: cut it")
            samples.write(block.tobytes())
        samples.flush()
    except AudioError as error:
        # Without its name, which is how many bytes it has.
        line = str(error).partition(": ")[2]
        refuse(line, NO_SOUND if error.reason == "not audio" else CANNOT)
    except MemoryError:
        sys.exit(NO_MEMORY)


def _own_pipes() -> tuple[BinaryIO, int]:
    """Stdout for samples, stderr for our line, out of reach of decoders that print: they print to nowhere."""
    samples, words = os.fdopen(os.dup(1), "wb"), os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    return samples, words


if __name__ == "__main__":
    main()
