r"""Systems of the AST paper's table 1 on real clips, from scratch and from ImageNet: same epochs and folds.

  python -m benchmarks.esc10 --make=mel.npz --front_end=cnn6 --source_dir=ESC-50-master
  python -m benchmarks.esc10 --data=mel.npz --systems=cnn6,cnn10 --folds=1,2 --out=esc10.json

ESC-10 is the part of ESC-50 whose licence is free. Features are made once and held in memory, so that neither
grain nor orbax is needed where it runs; recipes, streams, step and program are those of training.
"""

import argparse
import json
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from ast_jax.datasets.pipeline import Draws, Mixup, TrainStream, fit
from ast_jax.features.batches import pad_rows
from ast_jax.models import abstract, build, family, merge, num_parameters
from ast_jax.models.kernels import kernels_on, using
from ast_jax.recipes import recipe
from ast_jax.settings import Settings
from ast_jax.training.program import train_program

SYSTEMS = {
    "cnn6": "esc50:model=cnn6",
    "cnn10": "esc50:model=cnn10",
    "cnn14": "esc50:model=cnn14",
    "psla_b0": "esc50:model=psla_b0",
    "ast_small": "esc50",
    "ast_small_pretrained": "esc50",
}
CLASSES = 10


class Clips:
    """Some folds' clips."""

    def __init__(self, fbank: np.ndarray, labels: np.ndarray):
        self.fbank, self.labels = fbank, labels

    def __len__(self) -> int:
        return len(self.fbank)

    def __getitem__(self, position: int) -> dict:
        return {
            "id": str(position),
            "fbank": self.fbank[position],
            "labels": self.labels[position : position + 1],
        }


def make(source_dir: Path, name: str, out: Path) -> None:
    """Features of the 400 clips as the family hears them, float16."""
    import csv

    from ast_jax.features import load_audio

    with open(source_dir / "meta" / "esc50.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["esc10"] == "True"]
    front_end = abstract(name, family(name).Config(num_classes=CLASSES)).front_end
    names = sorted({row["category"] for row in rows})
    fbank = [
        front_end.features(
            load_audio(source_dir / "audio" / row["filename"], sample_rate_hz=front_end.sample_rate_hz)
        ).astype(np.float16)
        for row in rows
    ]
    np.savez(
        out,
        fbank=np.stack([pad_to(x, max(map(len, fbank)), front_end.padding) for x in fbank]),
        labels=np.array([names.index(row["category"]) for row in rows]),
        folds=np.array([int(row["fold"]) for row in rows]),
    )


def pad_to(x: np.ndarray, frames: int, padding: float) -> np.ndarray:
    """Lengths differ by a frame or two."""
    return np.pad(x, ((0, frames - len(x)), (0, 0)), constant_values=padding)


def settings_of(system: str, fold: int, epochs: int) -> Settings:
    """The recipe as it is but for its length; AST-small from ImageNet at a rate for that."""
    spec = SYSTEMS[system]
    config = recipe(f"{spec}{',' if ':' in spec else ':'}fold={fold}")
    config.epochs, config.lr_decay_epochs = epochs, tuple(range(max(2, epochs // 4), epochs + 1))
    if system.startswith("ast_small"):
        config.model.variant, config.mixup = "small", 0.5
        config.lr = 1e-4 if system.endswith("pretrained") else 3e-4
    return Settings.of(config)


def run(system: str, data: dict, fold: int, epochs: int, weights: str) -> dict:
    """Trains on the other folds; accuracy on this one after each epoch."""
    settings = settings_of(system, fold, epochs)
    train, held = data["folds"] != fold, data["folds"] == fold
    clips = Clips(data["fbank"][train], data["labels"][train])
    run = settings.run
    stream = TrainStream(
        clips,
        Draws(len(clips), seed=run.seed),
        batch_size=run.batch_size,
        epochs=epochs,
        mixup=Mixup(run.mixup, run.mixup_alpha, sampled=run.mixup_of == "features"),
    )
    epoch_steps = stream.slots // run.batch_size
    program = train_program(settings, CLASSES, epoch_steps=epoch_steps)
    front_end = program.model.front_end
    if not getattr(program.model, "normalises", False):
        part = clips.fbank.astype(np.float64)
        front_end = front_end.with_statistics(part.mean(), part.std())
        program = train_program(settings, CLASSES, front_end=front_end, epoch_steps=epoch_steps)
    model = build(settings.model.family, program.model.config, seed=run.seed)
    if system.endswith("pretrained"):
        from ast_jax.weights import initialise

        print(initialise(model, weights))
    state = program.initial_state(model)
    shape = {"kind": "log_mel", "num_frames": run.num_frames, "num_classes": CLASSES, "front_end": front_end}
    own = [
        fit({**Clips(data["fbank"], data["labels"])[i], "index": 0}, **shape) for i in np.flatnonzero(held)
    ]
    held_rows = {key: jnp.asarray(np.stack([row[key] for row in own])) for key in ("fbank", "length")}
    forms = kernels_on(jax.devices()[0])

    @jax.jit
    def right(params, statistics):
        x = pad_rows(held_rows["fbank"].astype(jnp.float32), held_rows["length"], front_end.padding)
        with using(forms):
            logits, _ = merge(program.graphdef, params, statistics)(front_end.normalise(x))
        return (logits.argmax(axis=1) == data["labels"][held]).mean()

    accuracy, began, spent = [], time.monotonic(), []
    for epoch in range(epochs):
        for step in range(epoch_steps):
            first = (epoch * epoch_steps + step) * run.batch_size
            rows = [fit(stream[first + i], **shape) for i in range(run.batch_size)]
            batch = {key: np.stack([row[key] for row in rows]) for key in rows[0]}
            started = time.monotonic()
            state, figures = program.step(state, program.layout.place_rows(batch))
            jax.block_until_ready(figures)
            spent.append(time.monotonic() - started)
        accuracy.append(float(right(state["params"], state.get("statistics", {}))))
    return {
        "system": system,
        "fold": fold,
        "accuracy": accuracy,
        "loss": float(figures["loss"]),
        "parameters": num_parameters(program.model),
        "seconds": time.monotonic() - began,
        "clips_per_s": run.batch_size / float(np.median(spent)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--make", type=Path)
    parser.add_argument("--front_end", default="cnn6")
    parser.add_argument("--source_dir", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--systems", default="cnn6")
    parser.add_argument("--folds", default="1,2")
    parser.add_argument("--epochs", type=int, default=50)
    parser.add_argument("--weights", default="")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if options.make:
        return make(options.source_dir, options.front_end, options.make)
    with np.load(options.data) as file:
        data = dict(file)
    found = json.loads(options.out.read_text())["runs"] if options.out.exists() else []
    for system in options.systems.split(","):
        for fold in map(int, options.folds.split(",")):
            row = run(system, data, fold, options.epochs, options.weights)
            found.append(row)
            print(f"{system} fold {fold}: last {row['accuracy'][-1]:.3f}, {row['seconds']:.0f} s", flush=True)
            device = jax.devices()[0].device_kind
            about = {"device": device, "jax": jax.__version__, "epochs": options.epochs, "runs": found}
            options.out.write_text(json.dumps(about, indent=1) + "\n")
    return None


if __name__ == "__main__":
    main()
