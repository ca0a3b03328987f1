r"""What a batch larger than the recipe's does to accuracy, with and without the rule of `:pod`, on the
built-in sounds.

  python -m benchmarks.prove_pod [--work=DIR]        # writes docs/proofs/pod.json; DIR keeps the runs

The quickstart (3,000 clips, 10 epochs) with a model of 2 blocks, 64 wide, so that ten runs take minutes; two
seeds. Batch 16, the recipe's, takes 1,880 steps, and batch 64 takes 470.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.prove import ROOT, record, train

SEEDS = (0, 1)
LR, WARMUP, TIMES = 1e-3, 100, 4  # the quickstart's rate and warm-up steps; the larger batch in the recipe's
RULES = {  # what becomes of the rate and of the warm-up
    "recipe": (16, LR, WARMUP),
    "4 x batch, nothing else": (16 * TIMES, LR, WARMUP),
    "4 x batch, rate x 2, warm-up over the same steps": (16 * TIMES, LR * 2, WARMUP),
    "4 x batch, rate x 2, warm-up over the same clips": (16 * TIMES, LR * 2, WARMUP // TIMES),
    "4 x batch, rate x 4, warm-up over the same steps": (16 * TIMES, LR * 4, WARMUP),
}
SMALLER = ("--config.model.width=64", "--config.model.depth=2", "--config.model.num_heads=2")


def main() -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.prove_pod", description=__doc__)
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "prove_pod")
    work = parser.parse_args().work.absolute()
    record("pod", "python -m benchmarks.prove_pod", lambda: larger_batches(work))


def larger_batches(work: Path) -> dict[str, Any]:
    """Accuracy and mAP on the 400 held-out clips, a mean over the seeds for each rule."""
    runs: dict[str, list[dict[str, Any]]] = {rule: [] for rule in RULES}
    for seed in SEEDS:
        for number, (rule, (batch, rate, warmup)) in enumerate(RULES.items()):
            values = {"batch_size": batch, "lr": rate, "lr_warmup_steps": warmup, "seed": seed}
            flags = [f"--config.{key}={value}" for key, value in values.items()]
            runs[rule].append(
                train(work, f"rule{number}-seed{seed}", "configs/quickstart.py", *SMALLER, *flags)
            )
    means = {
        rule: {metric: float(np.mean([run[metric] for run in found])) for metric in ("accuracy", "mAP")}
        for rule, found in runs.items()
    }
    return {"means": means, "runs": runs}


if __name__ == "__main__":
    main()
