"""Twenty steps of one recipe on 1 device and on 8, under jit, pmap and fsdp; run by
test_training_sharding.py, prints JSON: of the AST, of a small family with statistics of its batches, and some
steps of a narrow CNN6 and PSLA.

A process of its own, since the number of devices is fixed when JAX starts:
XLA_FLAGS=--xla_force_host_platform_device_count=8.
"""

import dataclasses
import functools
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import jax
import numpy as np
from flax import nnx
from ml_collections import ConfigDict
from tagger_oracles import random_model

from ast_jax.config import base
from ast_jax.datasets.pipeline import Draws, HostRows, Mixup, TrainStream, fit
from ast_jax.evaluation.scoring import eval_step
from ast_jax.features import Kaldi
from ast_jax.models import build, family
from ast_jax.models.layers import BatchNorm
from ast_jax.settings import Settings
from ast_jax.training.program import train_program
from ast_jax.training.step import variables

STEPS, CLASSES = 20, 4
# Of published families with statistics: fields of their Configs, and what is not as in `recipe`. PSLA, of the
# same norm, holds too ({"scale": "tiny", "momentum": 0.1}), and takes half a minute more.
TAGGERS = {"cnn6": {"channels": (4, 4, 4, 8), "dropout": (0.2, 0.5)}}
TAGGER_STEPS = 4
LAYOUTS = {
    "single": {"devices": 1},
    "jit": {},
    "pmap": {"parallel": "pmap"},
    "fsdp": {"fsdp": 8},
}


@dataclasses.dataclass(frozen=True)
class NetConfig:
    num_classes: int
    num_frames: int
    width: int = 16


class Net(nnx.Module):
    """Each frame projected, BatchNorm, the mean over time, a head."""

    Config = NetConfig
    front_end = Kaldi()
    levels = (("project", "norm"), ("head",))

    def __init__(self, config: NetConfig, *, rngs: nnx.Rngs):
        self.config = config
        # without a bias, whose true gradient would be 0, for BatchNorm cancels it: Adam blows its rounding up
        self.project = nnx.Linear(128, config.width, use_bias=False, rngs=rngs)
        self.norm = BatchNorm(config.width)
        self.head = nnx.Linear(config.width, config.num_classes, rngs=rngs)

    def __call__(self, x, *, key=None, mask=None):
        y = jax.nn.gelu(self.norm(self.project(x), training=key is not None, mask=mask))
        return self.head(y.mean(axis=1)), {"embedding": y.mean(axis=1), "sequence": y}


def recipe(**changes):
    """A small model with every augmentation on, 12 clips a batch: 8 devices fill it up to 16 rows."""
    config = base()
    config.num_frames, config.batch_size, config.lr = 32, 12, 1e-3
    config.mixup, config.freq_mask, config.time_mask = 0.5, 24, 8
    config.noise, config.roll, config.gain_db, config.ema = True, 5, 6.0, 0.9
    config.update(changes)
    if options := TAGGERS.get(config.model.family):
        config.model.options = ConfigDict(options)
        # partners are mixed after the first layer, or, of PSLA, before it
        config.mixup, config.mixup_of, config.gain_db, config.noise = 1.0, "features", 0.0, False
        # gradients near 0, whose signs are rounding's, are else whole steps
        config.adam_eps = 1e-3
    if config.model.family == "ast":
        config.model.width, config.model.depth, config.model.num_heads = 64, 1, 2
        config.model.strides = (16, 16)
    return config


def clips(bins: int) -> list[dict]:
    """30 clips of noise: an epoch's third batch holds 6."""
    rng = np.random.default_rng(0)
    fbank = lambda: rng.normal(-5, 3, (rng.integers(10, 40), bins)).astype(np.float16)
    return [{"id": str(i), "fbank": fbank(), "labels": np.array([i % CLASSES])} for i in range(30)]


def batch(program, stream, step: int) -> dict[str, np.ndarray]:
    rows = program.rows["index"].size
    own = HostRows(stream, batch_size=12, rows=rows)
    found = [own[p] for p in range(step * rows, (step + 1) * rows)]
    shape = {"kind": "log_mel", "num_frames": 32, "num_classes": CLASSES}
    fitted = [fit(row, front_end=program.what.front_end, **shape) for row in found]
    return {key: np.stack([row[key] for row in fitted]) for key in fitted[0]}


def begun(program, name: str) -> dict:
    """The first state."""
    config = program.model.config
    if name in TAGGERS:
        return program.initial_state(random_model(name, **dataclasses.asdict(config)))
    return program.initial_state(build(name, config))


def trained(devices: int, changes: dict, steps: int = STEPS):
    """The compiled program, its state and rows after some steps, and their losses."""
    settings = Settings.of(recipe(**changes))
    own = family(settings.model.family)
    front_end = None if getattr(own, "normalises", False) else Kaldi(mean=-4.0, std=4.5)
    program = train_program(settings, CLASSES, devices=jax.devices()[:devices], front_end=front_end)
    state = begun(program, settings.model.family)
    listed, mixes = clips(program.what.front_end.num_mel_bins), program.what.mixes_features
    mixup = Mixup(settings.run.mixup, sampled=mixes)
    stream = TrainStream(listed, Draws(len(listed), seed=0), batch_size=12, epochs=7, mixup=mixup)
    compiled = program.step.lower(program.state, program.rows).compile()
    losses = []
    for step in range(steps):
        rows = program.layout.place_rows(batch(program, stream, step))
        state, figures = compiled(state, rows)
        losses.append(float(figures["loss"]))
    return program, compiled, state, rows, losses


def scores(program, state, rows) -> list[list[float]]:
    """Of the last batch's real rows."""
    layout, loss = program.layout, program.what.objective
    options = {"front_end": program.what.front_end, "activation": loss.activation, "loss": loss.per_clip}
    step = functools.partial(eval_step, graphdef=program.graphdef, forms=layout.kernels, **options)
    scored = layout.score(step)(layout.place(variables(state)), rows)
    return np.asarray(scored["scores"])[np.asarray(scored["mask"]) > 0].tolist()


def run(devices: int = 8, **changes) -> dict:
    """Losses of 20 steps, scores after them, and how arrays lie."""
    program, compiled, state, rows, losses = trained(devices, changes)
    leaves = jax.tree.leaves([state["params"], state["opt"]])
    text = compiled.as_text()
    own = lambda leaf: leaf.addressable_shards[0].data
    return {
        "losses": losses,
        "scores": scores(program, state, rows),
        "rows": [rows["fbank"].shape, own(rows["fbank"]).shape],
        "kernel": [own(state["params"][f"blocks/0/mlp/{name}/kernel"]).shape for name in ("fc1", "fc2")],
        "moment": own(state["opt"][1].mu["blocks/0/mlp/fc1/kernel"]).shape,
        "bias": own(state["params"]["blocks/0/norm1/bias"]).shape,
        "share_of_bytes": sum(own(leaf).nbytes for leaf in leaves) / sum(leaf.nbytes for leaf in leaves),
        "collectives": [
            name for name in ("all-reduce", "all-gather", "reduce-scatter") if f" {name}(" in text
        ],
    }


def run_with_statistics(devices: int = 8, **changes) -> dict:
    """Losses of 20 steps of the family `Net`, its statistics and their average, scores by the running
    ones."""
    program, _, state, rows, losses = trained(devices, changes | {"model": {"family": "eight_devices:Net"}})
    host = lambda tree: {path: np.asarray(value).tolist() for path, value in sorted(tree.items())}
    return {
        "losses": losses,
        "scores": scores(program, state, rows),
        "statistics": host(state["statistics"]),
        "average": host({path: state["ema"][path] for path in state["statistics"]}),
    }


def runs_of_tagger(name: str) -> dict[str, dict]:
    """Losses of some steps of a published family by layout, and how far its parameters and statistics end
    from those of one device, against how far they went.
    """
    runs: dict[str, dict] = {}
    for layout, changes in LAYOUTS.items():
        options = {"devices": 8, "model": {"family": name}} | changes
        program, _, state, _, losses = trained(options.pop("devices"), options, steps=TAGGER_STEPS)
        parts = {kind: flat(state[kind]) for kind in ("params", "statistics")}
        if not runs:
            alone, start = parts, begun(program, name)
            went = {kind: np.linalg.norm(flat(start[kind]) - alone[kind]) for kind in alone}
        apart = {kind: float(np.linalg.norm(parts[kind] - alone[kind]) / went[kind]) for kind in alone}
        runs[layout] = {"losses": losses, "apart": apart}
    return runs


def flat(arrays: dict) -> np.ndarray:
    return np.concatenate([np.asarray(arrays[path]).ravel() for path in sorted(arrays)])


if __name__ == "__main__":
    runs = {name: run(**changes) for name, changes in LAYOUTS.items()}
    own = {name: run_with_statistics(**changes) for name, changes in LAYOUTS.items()}
    taggers = {name: runs_of_tagger(name) for name in TAGGERS}
    print(json.dumps({"ast": runs, "own": own, **taggers}))
