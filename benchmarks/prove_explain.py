r"""Does the region that `explain` marks matter? Occludes it, and regions of its very shape elsewhere, on
held-out built-in clips.

  python -m benchmarks.prove_explain [--model=runs/quickstart]       # without a finished run there, trains
  it: some minutes

For each of 100 held-out clips (ten of each class) and each map, gradient x input for the clip's true label
and attention rollout: the marked 15 % of its cells are set to 0, as SpecAugment's masks are, and so are the
same cells moved along both axes, 20 times at random. A clip counts for the map if the true label's score
falls by more than it does in the mean of the 20. The sign test is one-sided: the probability of as many such
clips if marked and moved regions mattered alike. The claim is gradient x input's, which is made for a label;
the rollout, made for none, is measured beside it.
"""

import argparse
import json
import math
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from ast_jax.datasets import synthetic
from ast_jax.features import load_audio, log_mel
from ast_jax.inference.attribution import MARKED_SHARE, marked_region
from ast_jax.inference.explain import Explainer
from ast_jax.recipes import parse
from ast_jax.training.loop import train
from ast_jax.weights import load_model
from benchmarks.prove import DOCS, ROOT, machine

PER_CLASS, MOVED = 10, 20


def main() -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.prove_explain", description=__doc__)
    parser.add_argument("--model", type=Path, default=ROOT / "runs" / "quickstart")
    run = parser.parse_args().model
    config = parse([f"--config={ROOT / 'configs' / 'quickstart.py'}"])[0]
    if not (run / "results.json").is_file():
        train(config, run)
    began = time.monotonic()
    figures = prove(run, Path(config.dataset.data_dir, "synthetic", "sounds"))
    record = {"command": "python -m benchmarks.prove_explain", "seconds": round(time.monotonic() - began)}
    DOCS.mkdir(parents=True, exist_ok=True)
    (DOCS / "explain.json").write_text(json.dumps({**record, **figures, **machine()}, indent=2) + "\n")
    print(json.dumps(figures, indent=2))
    if figures["maps"]["gradient_times_input"]["sign_test_p"] >= 0.01:
        sys.exit("error: the region marked for a label matters no more than another one")


def prove(run: Path, sounds: Path) -> dict[str, Any]:
    explainer = Explainer(load_model(run))
    clips = synthetic.list_clips(sounds).splits["test"]
    chosen = [clip for clip in clips if int(clip.path.rpartition("_")[2][:4]) < PER_CLASS]
    rng = np.random.default_rng(0)
    drops: dict[str, list[tuple[float, float]]] = {"gradient_times_input": [], "attention_rollout": []}
    for clip in chosen:
        fbank = log_mel(load_audio(clip.path))[: explainer.config.num_frames]
        found = explainer.explain(fbank, clip.labels)
        for name, relevance in zip(drops, (found.gradient[0], found.rollout), strict=True):
            drops[name].append(score_drops(explainer, fbank, clip.labels[0], relevance, rng))
    accuracy = json.loads((run / "results.json").read_text())["metrics"]["accuracy"]
    return {
        "clips": len(chosen),
        "share_marked": MARKED_SHARE,
        "accuracy_of_the_model": accuracy,
        "maps": {name: summary(np.array(rows)) for name, rows in drops.items()},
    }


def score_drops(explainer: Explainer, fbank, label: int, relevance, rng) -> tuple[float, float]:
    """How far the label's score falls with the marked region gone, and in the mean with that region moved."""
    marked = marked_region(relevance)
    moves = [tuple(rng.integers(size) for size in marked.shape) for _ in range(MOVED)]
    masks = [np.zeros_like(marked), marked, *(np.roll(marked, move, axis=(0, 1)) for move in moves)]
    scores = np.asarray(explainer.loaded.scores(np.where(np.stack(masks), np.float32(0), fbank)))[:, label]
    return float(scores[0] - scores[1]), float(scores[0] - scores[2:].mean())


def summary(drops: np.ndarray) -> dict[str, Any]:
    wins, losses = int((drops[:, 0] > drops[:, 1]).sum()), int((drops[:, 0] < drops[:, 1]).sum())
    return {
        "marked_lowers_more": wins,
        "moved_lowers_more": losses,
        "mean_drop_marked": round(float(drops[:, 0].mean()), 4),
        "mean_drop_moved": round(float(drops[:, 1].mean()), 4),
        "sign_test_p": sign_test(wins, losses),
    }


def sign_test(wins: int, losses: int) -> float:
    """P(at least `wins` of wins + losses fair coins)."""
    tosses = wins + losses
    return sum(math.comb(tosses, k) for k in range(wins, tosses + 1)) / 2**tosses


if __name__ == "__main__":
    main()
