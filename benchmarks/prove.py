r"""The proofs that take longer than a test may: real runs on real sounds, their figures written to
docs/proofs/*.json.

  make prove                                       # all of them
  python -m benchmarks.prove esc10 [--work=DIR]    # one; DIR keeps the runs, so that a stopped proof goes on

They need ../shared (or $AST_JAX_SHARED) with data/ESC-50-master and weights/.
"""

import argparse
import csv
import functools
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs" / "proofs"
SHARED = Path(os.environ.get("AST_JAX_SHARED", ROOT.parent / "shared"))
ESC10 = SHARED / "data" / "ESC-50-master"
DINO = SHARED / "weights" / "vit_small_patch14_dinov2.npz"


def main() -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.prove", description=__doc__)
    parser.add_argument("names", nargs="*", default=[], help=f"of {', '.join(PROOFS)}; none: all")
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "prove")
    args = parser.parse_args()
    if not ESC10.is_dir():
        sys.exit(f"error: no real sounds at {ESC10}: set AST_JAX_SHARED to a folder with data/ and weights/")
    for name in args.names or PROOFS:
        record(
            name, f"python -m benchmarks.prove {name}", functools.partial(PROOFS[name], args.work.absolute())
        )


def record(name: str, command: str, proof: Callable[[], dict[str, Any]]) -> None:
    """Runs a proof; writes its figures, and what they were made with, to docs/proofs/NAME.json."""
    began = time.monotonic()
    DOCS.mkdir(parents=True, exist_ok=True)
    figures = proof()
    found = {"command": command, "seconds": round(time.monotonic() - began), **figures}
    (DOCS / f"{name}.json").write_text(json.dumps(found | about(), indent=2) + "\n")
    print(json.dumps(figures, indent=2))


def train(work: Path, name: str, config: str, *flags: str) -> dict[str, Any]:
    """Trains one run from the command line, or goes on with it; returns its last figures, its curve and its
    seconds.
    """
    workdir = work / name
    command = [sys.executable, "-m", "ast_jax.main", f"--config={config}", f"--workdir={workdir}"]
    flags = (f"--config.dataset.data_dir={work / 'data'}", *flags)
    if not (workdir / "results.json").is_file():
        print(" ".join(["python", *command[1:], *flags]), file=sys.stderr, flush=True)
        subprocess.run([*command, *flags], cwd=ROOT, check=True)
    results = json.loads((workdir / "results.json").read_text())
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return {
        "accuracy": results["metrics"]["accuracy"],
        "mAP": results["metrics"]["mAP"],
        "seconds": round(results["seconds"]),
        "curve": [row["accuracy"] for row in rows if row["kind"] == "eval"],
    }


def esc10(work: Path) -> dict[str, Any]:
    """The `cpu` settings on real ESC-10, folds 1 and 2, and fold 1 once more as a directory per class: same
    numbers.
    """
    source = f"--config.dataset.source_dir={ESC10}"
    folds = {
        str(fold): train(work, f"fold{fold}", f"configs/esc50.py:fold={fold},cpu", source) for fold in (1, 2)
    }
    tree = class_tree(work / "class_tree", fold=1)
    recipe = json.loads((work / "fold1" / "config.json").read_text())
    same = (
        "num_frames",
        "batch_size",
        "lr",
        "lr_warmup",
        "lr_warmup_steps",
        "lr_decay",
        "layer_decay",
        "clip_norm",
        "freq_mask",
        "time_mask",
        "epochs",
    )
    flags = [f"--config.{key}={recipe[key]}" for key in same]
    flags += [f"--config.lr_decay_epochs={tuple(recipe['lr_decay_epochs'])}"]
    flags += [f"--config.dataset.{key}={recipe['dataset'][key]}" for key in ("mean", "std")]
    flags += [f"--config.model.{key}={recipe['model'][key]}" for key in ("depth",)]
    folder = train(work, "folder1", "folder:pretrained,cpu", f"--config.dataset.source_dir={tree}", *flags)
    mean = float(np.mean([fold["accuracy"] for fold in folds.values()]))
    return {
        "folds": folds,
        "mean_accuracy": mean,
        "folder_fold1": folder,
        "folder_equals_esc50": folder["curve"] == folds["1"]["curve"],
    }


def class_tree(root: Path, *, fold: int) -> Path:
    """ESC-10 as DIR/{train,test}/class/clip, one fold for testing, labels in the order of ESC-50's
    targets.
    """
    shutil.rmtree(root, ignore_errors=True)
    with (ESC10 / "meta" / "esc50.csv").open() as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        split = "test" if int(row["fold"]) == fold else "train"
        target = root / split / row["category"] / row["filename"]
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ESC10 / "audio" / row["filename"], target)
    names = {int(row["target"]): row["category"] for row in rows}
    (root / "labels.txt").write_text("".join(f"{names[target]}\n" for target in sorted(names)))
    return root


SMALL = (
    "--config=configs/esc50.py",
    "--config.epochs=5",
    "--config.model.variant=small",
    "--config.model.strides=(16,16)",
    "--config.model.distilled=False",
    "--config.num_frames=128",
    "--config.time_mask=24",
    "--config.batch_size=16",
)
# Folding LayerScale leaves small weights, which Adam's equal steps would undo within an epoch: lower blocks
# move less.
FINE_TUNING = ("--config.lr=2e-4", "--config.layer_decay=0.65")
SCRATCH_RATES = ("5e-05", "0.0001", "0.0003")


def pretrained(work: Path) -> dict[str, Any]:
    """AST-small from DINOv2's ViT-S/14 against the same model from scratch: ESC-10 folds 1 and 2, two seeds,
    same epochs.

    The first 1.28 s of each clip, so that two cores finish within the hour. From scratch with the best of
    three learning rates, chosen on fold 1, seed 0. Writes the two tables and one plot of the curves beside
    the figures.
    """
    found = {"pretrained": crossval(work, "pretrained", *FINE_TUNING, f"--config.init_from={DINO}")}
    search = {
        rate: crossval(work, f"scratch-lr{rate}", f"--config.lr={rate}", folds="1", seeds=1)
        for rate in SCRATCH_RATES
    }
    rates = {rate: summary["last_mean"] for rate, summary in search.items()}
    best = max(rates, key=lambda rate: rates[rate])
    found["scratch"] = crossval(work, f"scratch-lr{best}", f"--config.lr={best}")
    for kind, name in (("pretrained", "pretrained"), ("scratch", f"scratch-lr{best}")):
        for suffix in ("md", "png"):
            shutil.copy(work / name / f"crossval.{suffix}", DOCS / f"crossval_{kind}.{suffix}")
    draw_pretrained(found, DOCS / "pretrained.png")
    return {
        "settings": SMALL,
        "fine_tuning": FINE_TUNING,
        "scratch_rates": rates,
        "mean_accuracy": {kind: summary["last_mean"] for kind, summary in found.items()},
        "points": 100 * (found["pretrained"]["last_mean"] - found["scratch"]["last_mean"]),
        "crossval": found,
    }


def crossval(work: Path, name: str, *flags: str, folds: str = "1,2", seeds: int = 2) -> dict[str, Any]:
    """Runs the crossval command with the settings of SMALL, or goes on with it; returns its summary."""
    done = work / name / "crossval.json"
    if done.is_file():
        summary = json.loads(done.read_text())
        if summary["folds"] == [int(fold) for fold in folds.split(",")] and len(summary["seeds"]) == seeds:
            return summary
    data = (f"--config.dataset.source_dir={ESC10}", f"--config.dataset.data_dir={work / 'data'}")
    own = (f"--workdir={work / name}", f"--folds={folds}", f"--seeds={seeds}")
    command = [sys.executable, "-m", "ast_jax", "crossval", *SMALL, *data, *flags, *own]
    print(" ".join(["python", *command[1:]]), file=sys.stderr, flush=True)
    subprocess.run(command, cwd=ROOT, check=True)
    return json.loads(done.read_text())


def draw_pretrained(found: dict[str, dict[str, Any]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
    for kind, colour in (("pretrained", "#1f6f8b"), ("scratch", "#c0603a")):
        curves = np.array(found[kind]["curves"]).reshape(-1, found[kind]["epochs"])
        epochs = np.arange(1, curves.shape[1] + 1)
        axes.plot(epochs, curves.T, color=colour, alpha=0.35, linewidth=0.9)
        axes.plot(epochs, curves.mean(axis=0), color=colour, linewidth=2.4, label=kind)
    axes.set(
        xlabel="epoch",
        ylabel="accuracy",
        ylim=(0, 1),
        title="ESC-10, AST-small, 1.28 s, stride 16: folds 1 and 2, two seeds",
    )
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def machine() -> dict[str, Any]:
    """What figures were made with: libraries and processor."""
    from ast_jax.training.workdir import versions

    return {"versions": versions(), "cores": os.cpu_count(), "machine": platform.machine()}


def about() -> dict[str, Any]:
    """`machine`, and the inputs of the proofs on real sounds."""
    digest = hashlib.sha256()
    for path in sorted((ESC10 / "audio").iterdir()):
        digest.update(path.name.encode() + hashlib.sha256(path.read_bytes()).digest())
    inputs = {"ESC-10 audio": digest.hexdigest()[:16]}
    if DINO.is_file():
        inputs[DINO.name] = hashlib.sha256(DINO.read_bytes()).hexdigest()[:16]
    return {**machine(), "inputs_sha256": inputs}


PROOFS: dict[str, Callable[[Path], dict[str, Any]]] = {"esc10": esc10, "pretrained": pretrained}

if __name__ == "__main__":
    main()
