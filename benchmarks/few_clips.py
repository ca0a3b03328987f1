r"""A classifier on embeddings of few clips a class, and fine-tuning of the same model on the same clips.

  python -m benchmarks.own_sets --out=sets --only=esc10_5,esc10_10,esc10_20,esc10_32
  python -m benchmarks.few_clips --sets=sets --weights=vit_small.npz --out=docs/proofs/few_clips.json
  python -m benchmarks.few_clips ... --fine_tune=5,20 --work=runs

Each is fitted to `train` of a set and judged on its `test`, ESC-10's fifth fold, which is in all of them. The
classifier is that of `probe --save --layers=all`; seconds are of all it takes from sound files on, without
the start of Python. Several runs add to one JSON.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np

from ast_jax.datasets import folder
from ast_jax.inference.embed import embed_files
from ast_jax.inference.files import Failures
from ast_jax.inference.probe import fit_probe, read_of, stratified_folds
from ast_jax.inference.windows import Grid
from ast_jax.weights import load_model
from benchmarks.prove import about, train

# of the weights, an image model's: ESC-50's statistics
SHAPE = {"num_frames": 512, "strides": (16, 16), "mean": -6.6268077, "std": 5.358466}
FINE_TUNING = ("--config.model.variant=small", "--config.epochs=10")


def probed(sounds: Path, weights: str) -> dict[str, float]:
    """Accuracy on `test` of a classifier fitted to `train`, and the seconds that it took."""
    began = time.monotonic()
    own = folder.list_clips(sounds)
    loaded = read_of(load_model(weights, **SHAPE), "all", ("token", "mean"), own.label_names)
    grid = Grid.of(loaded.front_end, SHAPE["num_frames"])
    sides = {}
    for split in ("train", "test"):
        clips = own.splits[split]
        files = [Path(clip.path) for clip in clips]
        failures = Failures(len(files), "embedded")
        forward = lambda fbank, lengths: loaded.embeddings(fbank)
        vectors = [np.mean(heard.answers, axis=0) for heard in embed_files(files, grid, forward, failures)]
        failures.exit_if_any()
        sides[split] = np.stack(vectors), np.array([clip.labels[0] for clip in clips])
    vectors, labels = sides["train"]
    found = fit_probe(vectors, labels, stratified_folds(labels), len(own.label_names))
    vectors, labels = sides["test"]
    right = (vectors @ found.head["kernel"] + found.head["bias"]).argmax(axis=1) == labels
    return {"accuracy": float(right.mean()), "C": found.chosen, "seconds": round(time.monotonic() - began, 1)}


def fine_tuned(sounds: Path, weights: str, work: Path) -> dict[str, float]:
    """The same of the recipe for one's own sounds, all of the model trained."""
    source = f"--config.dataset.source_dir={sounds.absolute()}"
    start = f"--config.init_from={Path(weights).absolute()}"
    train(work.absolute(), sounds.name, "folder:pretrained,cpu,seconds=5", source, start, *FINE_TUNING)
    results = json.loads((work.absolute() / sounds.name / "results.json").read_text())
    return {"accuracy": results["metrics"]["accuracy"], "seconds": round(results["seconds"])}


def main() -> None:
    flags = argparse.ArgumentParser(
        "python -m benchmarks.few_clips",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    flags.add_argument("--sets", type=Path, required=True)
    flags.add_argument("--weights", required=True)
    flags.add_argument("--out", type=Path, required=True)
    flags.add_argument("--counts", default="5,10,20,32", help="clips a class")
    flags.add_argument(
        "--fine_tune", default="", help="clips a class of which the model is fine-tuned instead"
    )
    flags.add_argument("--work", type=Path, default=Path("runs"))
    asked = flags.parse_args()
    found = json.loads(asked.out.read_text())["runs"] if asked.out.exists() else {}
    for count in (asked.fine_tune or asked.counts).split(","):
        sounds = asked.sets / f"esc10_{count}"
        if asked.fine_tune:
            found[f"fine_tuned_{count}"] = fine_tuned(sounds, asked.weights, asked.work)
        else:
            found[f"probed_{count}"] = probed(sounds, asked.weights)
        print(count, list(found.items())[-1], flush=True)
        asked.out.write_text(json.dumps({"runs": found, **about()}, indent=1) + "\n")


if __name__ == "__main__":
    main()
