"""Events of long recordings and of many files: memory that stays, work that is killed and goes on.

  python -m benchmarks.prove_events     # docs/proofs/events.json

`predict --events` on an hour and on three hours of sound, its largest memory each; then on 10,000 short
files, killed by -9 at random moments and started again until it is done: every file once, the same table as
of a run that nobody stopped. The model is a small random one that judges steps of time.
"""

import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from flax import nnx

from ast_jax.events import read_events
from ast_jax.models import AST, ASTConfig
from ast_jax.weights import LoadedModel
from ast_jax.weights.convert import save
from benchmarks.prove import record

RATE, FILES, KILLS = 16_000, 10_000, 6


def save_model(path: Path) -> None:
    """A frame head of ten classes over windows of 5 s."""
    config = ASTConfig(
        num_classes=10,
        num_frames=512,
        width=32,
        depth=2,
        num_heads=2,
        patch_shape=(128, 4),
        strides=(128, 4),
        head="frames",
    )
    net = AST(config, rngs=nnx.Rngs(0))
    front_end = net.front_end.with_statistics(-4.0, 4.0)
    loaded = LoadedModel(net, [f"class {i}" for i in range(10)], front_end, "sigmoid")
    save(loaded, path, facts={"source": "random weights"})


def noise(seconds: float, seed: int) -> np.ndarray:
    """That comes and goes by the second."""
    rng, size = np.random.default_rng(seed), round(seconds * RATE)
    loud = np.repeat(rng.random(size // RATE + 1) ** 3, RATE)[:size]
    return (0.3 * loud * rng.normal(size=size)).astype(np.float32)


def command(model: Path, sounds: Path, out: Path) -> list[str]:
    """`predict --events` as a user starts it."""
    flags = [f"--model={model}", str(sounds), "--events", f"--out={out}", "--threshold=0.45", "--low=1"]
    return [sys.executable, "-m", "ast_jax", "predict", *flags]


def memory(work: Path, model: Path) -> dict[str, Any]:
    """Of the whole process, by length of the recording."""
    found = {}
    for hours in (1, 3):
        path = work / f"{hours}h.wav"
        with soundfile.SoundFile(path, "w", RATE, 1, "PCM_16") as file:
            for minute in range(60 * hours):
                file.write(noise(60, minute))
        code = "import resource, subprocess; "
        code += f"subprocess.run({command(model, path, work / 'out.tsv')!r}, check=True); "
        code += "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
        began = time.monotonic()
        told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        found[f"{hours} h"] = {
            "largest_memory_mb": round(int(told.split()[-1]) / 1024),
            "seconds": round(time.monotonic() - began, 1),
            "events": len(read_events(work / "out.tsv")),
        }
        path.unlink()
    return found


def killed(work: Path, model: Path) -> dict[str, Any]:
    """10,000 files, and who was killed how often."""
    sounds = work / "many"
    sounds.mkdir()
    for number in range(FILES):
        soundfile.write(sounds / f"{number:05d}.wav", noise(0.3, number), RATE)
    began = time.monotonic()
    subprocess.run(command(model, sounds, work / "whole.tsv"), check=True, stderr=subprocess.DEVNULL)
    whole_s = time.monotonic() - began
    draw, kills, starts, out = random.Random(0), 0, 0, work / "stopped.tsv"
    done: list[int] = []
    while not out.exists():
        process = subprocess.Popen(command(model, sounds, out), stderr=subprocess.DEVNULL)
        starts += 1
        if kills < KILLS:
            time.sleep(draw.uniform(0.2, 0.6) * whole_s)
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
                kills += 1
                part = out.with_name(f"{out.name}.part")
                done.append(part.read_bytes().count(b"\n") if part.exists() else 0)
        process.wait()
    same = out.read_bytes() == (work / "whole.tsv").read_bytes()
    assert same, "the table differs from that of a run that nobody stopped"
    return {"files": FILES, "starts": starts, "kills": kills, "lines_at_each_kill": done, "same_table": same}


def main() -> None:
    """See above."""
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        save_model(work / "model")
        model = work / "model"
        record(
            "events",
            "python -m benchmarks.prove_events",
            lambda: {"memory": memory(work, model), "stopped": killed(work, model)},
        )


if __name__ == "__main__":
    main()
