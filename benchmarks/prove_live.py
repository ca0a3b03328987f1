"""How late the events of a live sound are told.

  python -m benchmarks.prove_live     # docs/proofs/live.json

A minute of bursts is written to `predict --stdin --events` in real time, a tenth of a second at once; each
line that comes is held against the end of its event. The model is a small random one that judges steps.
"""

import os
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from benchmarks.prove import record
from benchmarks.prove_events import RATE, command, noise, save_model

# The first seconds are behind: the model's program is made while they come.
SECONDS, FIRST_S, PIECE_S = 60, 20, 0.1


def lateness(model: Path, work: Path, *flags: str) -> dict[str, Any]:
    """Seconds from an event's end to its line, of those whose line came while the sound still went on; those
    that ended in the first seconds apart.
    """
    soundfile.write(work / "live.wav", noise(SECONDS, 0), RATE, subtype="PCM_16")
    head, piece = 44, 2 * round(PIECE_S * RATE)
    data = (work / "live.wav").read_bytes()
    words = [word for word in command(model, Path("-"), Path("-")) if word != "-" and "--out" not in word]
    process = subprocess.Popen(
        [*words, "--stdin", *flags], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    into, told = process.stdin, process.stderr
    # it listens once it has said how late it is
    said = told.readline().decode().strip()
    began = time.monotonic()
    first, later = list[float](), list[float]()

    def feed() -> None:
        into.write(data[:head])
        for number in range(-(-(len(data) - head) // piece)):
            time.sleep(max(0, began + (number + 1) * PIECE_S - time.monotonic()))
            into.write(data[head + number * piece : head + (number + 1) * piece])
            into.flush()
        into.close()

    feeder = threading.Thread(target=feed)
    feeder.start()
    for line in process.stdout:
        now, cells = time.monotonic() - began, line.decode().split("\t")
        if cells[0] == "<stdin>" and now < SECONDS:
            (first if float(cells[2]) < FIRST_S else later).append(now - float(cells[2]))
    feeder.join()
    assert process.wait() == 0
    late = {
        "median_s": float(np.median(later)),
        "most_s": max(later),
        f"most_of_first_{FIRST_S}_s": max(first),
    }
    return {"said": said, "events": len(later), **{name: round(value, 2) for name, value in late.items()}}


def main() -> None:
    """See above."""
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        save_model(work / "model")
        record(
            "live",
            "python -m benchmarks.prove_live",
            lambda: {
                "window of 5.12 s": lateness(work / "model", work),
                "window of 1 s": lateness(work / "model", work, "--window_s=1"),
            },
        )


if __name__ == "__main__":
    main()
