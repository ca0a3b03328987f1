r"""One run killed again and again at random moments (kill -9), each time gone on with by the same command,
against one left alone.

  python -m benchmarks.prove_crashes [--kills=20] [--seed=0] [--work=DIR]

A third of the kills fall while a checkpoint is being written, some in an evaluation, the others anywhere in a
step. Both runs must end in the same bits, in parameters, optimiser, averages and every line of metrics.jsonl
but for its timings; the killed one must have resumed each time, and lost less than one save interval a kill.
Writes docs/proofs/crashes.json.
"""

import argparse
import json
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.prove import ROOT, machine

TIMINGS = ("step_s", "clips_per_s", "data_wait", "share_of_peak")
SAVE_EVERY, EPOCH_STEPS = 10, 20
RECIPE = {
    "dataset.options.train_per_class": 31,
    "dataset.options.test_per_class": 10,
    "model.width": 64,
    "model.depth": 2,
    "epochs": 30,
    "average_epochs": (3, 20),
    "cumulative": True,
    "ema": 0.99,
    "mixup": 0.5,
    "noise": True,
    "save_every": SAVE_EVERY,
    "log_every": 1,
}  # 310 clips: 20 steps an epoch, 600 in all


def main() -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.prove_crashes", description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, help="keeps both runs there")
    args = parser.parse_args()
    work = (args.work or Path(tempfile.mkdtemp())).absolute()
    command = recipe(f"--config.dataset.data_dir={work / 'data'}")
    alone, killed = work / "alone", work / "killed"
    for workdir in (alone, killed):
        shutil.rmtree(workdir, ignore_errors=True)
    subprocess.run([*command, f"--workdir={alone}"], cwd=ROOT, check=True, stderr=subprocess.DEVNULL)
    rng = random.Random(args.seed)
    moments = [("save", "step", "evaluation", "step", "save", "step")[i % 6] for i in range(args.kills)]
    lives = survive(command, killed, moments, epoch_steps=EPOCH_STEPS, rng=rng)
    figures = compare(killed, alone) | account(lives)
    figures["checkpoints_left"] = sorted(path.name for path in (killed / "checkpoints").iterdir())
    figures["passed"] = (
        figures["same_digests"]
        and figures["same_metrics"]
        and figures["kills"] == args.kills
        and figures["steps_executed"] <= figures["steps_allowed"]
        and figures["smallest_first_step_of_a_restart"] > 0
    )
    record = {"command": f"python -m benchmarks.prove_crashes --kills={args.kills} --seed={args.seed}"}
    record |= figures | machine()
    out = ROOT / "docs" / "proofs" / "crashes.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(record, indent=2) + "\n")
    print(json.dumps({key: value for key, value in figures.items() if key != "lives"}, indent=2))
    sys.exit(0 if figures["passed"] else 1)


def recipe(*flags: str) -> list[str]:
    """The training command, without its work directory."""
    settings = [f"--config.{key}={value}" for key, value in RECIPE.items()]
    return [sys.executable, "-m", "ast_jax.main", "--config=configs/quickstart.py:short", *settings, *flags]


def survive(
    command: Sequence[str],
    workdir: Path,
    moments: Sequence[str],
    *,
    epoch_steps: int,
    rng: random.Random,
) -> list[dict[str, Any]]:
    """Runs the command until it is done, killing it once at each of the `moments`; what each life was."""
    lives = []
    for moment in [*moments, None]:
        first = newest(workdir)
        with tempfile.TemporaryFile("w+") as words:
            process = subprocess.Popen(
                [*command, f"--workdir={workdir}"], cwd=ROOT, stderr=words, stdout=subprocess.DEVNULL
            )
            if moment is not None:
                await_moment(moment, process, workdir, first, epoch_steps, rng)
                process.kill()  # too late where it was done before
            status = process.wait()
            words.seek(0)
            said = words.read()
        if status not in (0, -9):
            raise SystemExit(f"status {status} where {moment or 'the end'} was awaited:\n{said}")
        resumed = re.search(r"resuming .* at step (\d+)", said)
        began, steps = int(resumed[1]) if resumed else 0, logged_steps(workdir)
        lives.append(
            {
                "killed_in": moment if status else None,
                "first_step": began,
                "last_step": max(steps, default=began),
            }
        )
        lives[-1]["half_written"] = sum(1 for _ in (workdir / "checkpoints").glob("*.orbax-checkpoint-tmp"))
        print(lives[-1], file=sys.stderr, flush=True)
        if status == 0:
            break
    return lives


def await_moment(
    moment: str,
    process: subprocess.Popen,
    workdir: Path,
    first: int,
    epoch_steps: int,
    rng: random.Random,
) -> None:
    """Returns at a random moment of the kind, once this life has saved a checkpoint."""
    until(process, lambda: newest(workdir) > first)
    if moment == "save":  # a folder with another name, until it is whole
        until(process, lambda: any((workdir / "checkpoints").glob("*.orbax-checkpoint-tmp")))
        time.sleep(rng.uniform(0, 0.05))
    elif moment == "evaluation":  # the last step of an epoch is logged, its evaluation is not
        epoch_end = epoch_steps * (max(logged_steps(workdir)) // epoch_steps + 1)
        until(process, lambda: epoch_end in logged_steps(workdir))
        time.sleep(rng.uniform(0, 0.02))
    else:
        time.sleep(rng.uniform(0, 1))


def until(process: subprocess.Popen, condition: Callable[[], bool]) -> None:
    while process.poll() is None and not condition():
        time.sleep(0.003)


def rows(workdir: Path) -> list[dict[str, Any]]:
    """The whole lines of metrics.jsonl."""
    path = workdir / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def logged_steps(workdir: Path) -> list[int]:
    return [row["step"] for row in rows(workdir) if row["kind"] == "train"]


def newest(workdir: Path) -> int:
    """The step of the newest whole checkpoint; 0 without any."""
    return max((int(p.name) for p in (workdir / "checkpoints").glob("*") if p.name.isdigit()), default=0)


def compare(ours: Path, theirs: Path) -> dict[str, Any]:
    """Whether two runs ended in the same state and tell the same story."""
    states, stories = [], []
    for workdir in (ours, theirs):
        last = workdir / "checkpoints" / str(newest(workdir)) / "meta" / "metadata"
        states.append(json.loads(last.read_text())["digest"])
        stories.append(
            [{key: value for key, value in row.items() if key not in TIMINGS} for row in rows(workdir)]
        )
    return {
        "same_digests": states[0] == states[1],
        "arrays": len(states[0]),
        "same_metrics": stories[0] == stories[1],
        "lines": len(stories[0]),
        "steps": max(logged_steps(ours)),
    }


def account(lives: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """How much was done twice. A life's steps are those it logged: it may have been killed in one more."""
    kills = sum(life["killed_in"] is not None for life in lives)
    return {
        "kills": kills,
        "kills_with_a_half_written_checkpoint": sum(life["half_written"] > 0 for life in lives),
        "save_interval": SAVE_EVERY,
        "steps_executed": sum(life["last_step"] - life["first_step"] for life in lives),
        "steps_allowed": lives[-1]["last_step"] + kills * SAVE_EVERY,
        "smallest_first_step_of_a_restart": min(life["first_step"] for life in lives[1:]),
        "lives": list(lives),
    }


if __name__ == "__main__":
    main()
