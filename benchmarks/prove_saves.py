r"""What a checkpoint costs the steps around it: the step after a save began, against those with no save under
way.

  python -m benchmarks.prove_saves [--batch_size=48] [--work=DIR]

AST-tiny on 2.4 s of sound, a checkpoint every 4 steps. `step_s` of the step after a save holds the copy off
the device and whatever writing in the background takes away from a CPU. Writes docs/proofs/saves.json.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.prove import ROOT, machine
from benchmarks.prove_crashes import newest, rows

SETTINGS = {
    "dataset.options.train_per_class": 120,
    "dataset.options.test_per_class": 2,
    "model.variant": "tiny",
    "model.width": 192,
    "model.depth": 12,
    "model.num_heads": 3,
    "model.patch_shape": (16, 16),
    "model.strides": (16, 16),
    "epochs": 1,
    "save_every": 4,
    "log_every": 1,
}  # 1,200 clips


def main() -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.prove_saves", description=__doc__)
    parser.add_argument("--batch_size", type=int, default=48)
    parser.add_argument("--work", type=Path, help="keeps the run there")
    args = parser.parse_args()
    work = (args.work or Path(tempfile.mkdtemp())).absolute()
    shutil.rmtree(work / "run", ignore_errors=True)
    flags = [f"--config.{key}={value}" for key, value in SETTINGS.items()]
    flags += [
        f"--config.batch_size={args.batch_size}",
        f"--config.dataset.data_dir={work / 'data'}",
        f"--workdir={work / 'run'}",
    ]
    command = [sys.executable, "-m", "ast_jax.main", "--config=configs/quickstart.py:short", *flags]
    subprocess.run(command, cwd=ROOT, check=True, stderr=subprocess.DEVNULL)
    figures = judge(work / "run")
    record = {
        "command": f"python -m benchmarks.prove_saves --batch_size={args.batch_size}",
        **figures,
        **machine(),
    }
    (ROOT / "docs" / "proofs" / "saves.json").write_text(json.dumps(record, indent=2) + "\n")
    print(json.dumps(figures, indent=2))
    sys.exit(0 if figures["ratio"] < 1.2 else 1)


def judge(workdir: Path) -> dict:
    """Medians of both kinds of steps, the first save and its compilation left out."""
    every = SETTINGS["save_every"]
    timed = {row["step"]: row["step_s"] for row in rows(workdir) if row["kind"] == "train"}
    later = {step: seconds for step, seconds in timed.items() if step > 2 * every}
    after = [seconds for step, seconds in later.items() if step % every == 1]
    others = [seconds for step, seconds in later.items() if step % every not in (1, 2)]
    checkpoint = workdir / "checkpoints" / str(newest(workdir))
    return {
        "checkpoint_mb": round(sum(f.stat().st_size for f in checkpoint.rglob("*") if f.is_file()) / 1e6, 1),
        "saves": len(after),
        "median_step_ms": round(1000 * float(np.median(others)), 1),
        "median_step_during_a_save_ms": round(1000 * float(np.median(after)), 1),
        "ratio": round(float(np.median(after) / np.median(others)), 3),
    }


if __name__ == "__main__":
    main()
