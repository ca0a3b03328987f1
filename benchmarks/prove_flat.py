r"""Memory and time of the training process over 5,000 steps: flat, or the run is not one for days.

  python -m benchmarks.prove_flat [--steps=5000] [--work=DIR]

A small model on the built-in sounds, every 500 steps an epoch with its evaluation and its checkpoint. Memory
is the process's resident set, read twice a second from outside; time is the median of step_s between log
points. The first fifth, with compilation and the growth of caches, is not compared. Writes
docs/proofs/flat.json.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

from benchmarks.prove import ROOT, machine
from benchmarks.prove_crashes import logged_steps, rows

EPOCHS = 10


def main() -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.prove_flat", description=__doc__)
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--work", type=Path, help="keeps the run there")
    args = parser.parse_args()
    work = (args.work or Path(tempfile.mkdtemp())).absolute()
    shutil.rmtree(work / "run", ignore_errors=True)
    settings = {
        "dataset.data_dir": work / "data",
        "dataset.options.train_per_class": args.steps // EPOCHS * 2 // 10,
        "dataset.options.test_per_class": 4,
        "num_frames": 64,
        "model.width": 32,
        "model.depth": 2,
        "epochs": EPOCHS,
        "batch_size": 2,
        "mixup": 0.5,
        "log_every": 10,
        "save_every": 100,
    }
    flags = [f"--config.{key}={value}" for key, value in settings.items()]
    command = [sys.executable, "-m", "ast_jax.main", "--config=configs/quickstart.py:short", *flags]
    samples = watch([*command, f"--workdir={work / 'run'}"], work / "run")
    figures = judge(samples, rows(work / "run"), args.steps)
    record = {"command": f"python -m benchmarks.prove_flat --steps={args.steps}", **figures, **machine()}
    (ROOT / "docs" / "proofs" / "flat.json").write_text(json.dumps(record, indent=2) + "\n")
    print(json.dumps(figures, indent=2))
    sys.exit(0 if figures["passed"] else 1)


def watch(command: list[str], workdir: Path) -> list[tuple[int, float]]:
    """Runs the command; (last logged step, MB resident) twice a second."""
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    samples: list[tuple[int, float]] = []
    done = threading.Event()

    def sample() -> None:
        page_mb = os.sysconf("SC_PAGE_SIZE") / 1e6
        while not done.wait(0.5):
            resident = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1])
            samples.append((max(logged_steps(workdir), default=0), resident * page_mb))

    thread = threading.Thread(target=sample)
    thread.start()
    while process.poll() is None:
        time.sleep(0.2)
    done.set()
    thread.join()
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with status {process.returncode}")
    return samples


def judge(samples: list[tuple[int, float]], lines: list[dict], steps: int) -> dict:
    """Medians of memory and step time in each fifth of the run, and the slope of memory over the last
    four.
    """
    fifth = lambda step: min(5 * step // steps, 4)
    memory = [float(np.median([mb for step, mb in samples if step and fifth(step) == i])) for i in range(5)]
    timed = [(row["step"], row["step_s"]) for row in lines if row["kind"] == "train"]
    times = [float(np.median([s for step, s in timed if fifth(step) == i])) for i in range(5)]
    later = np.array([(step, mb) for step, mb in samples if fifth(step) > 0])
    slope = float(np.polyfit(later[:, 0], later[:, 1], 1)[0]) * 1000
    return {
        "steps": max(step for step, _ in timed),
        "memory_mb_by_fifth": [round(mb, 1) for mb in memory],
        "step_ms_by_fifth": [round(1000 * s, 2) for s in times],
        "memory_mb_per_1000_steps": round(slope, 2),
        "memory_last_to_second_fifth": round(memory[4] / memory[1], 4),
        "time_last_to_second_fifth": round(times[4] / times[1], 3),
        "passed": memory[4] / memory[1] <= 1.02 and times[4] / times[1] <= 1.1,
    }


if __name__ == "__main__":
    main()
