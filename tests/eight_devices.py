"""Twenty steps of one recipe on 1 device and on 8, under jit, pmap and fsdp; run by test_training_sharding.py, prints JSON.

A process of its own, since the number of devices is fixed when JAX starts: XLA_FLAGS=--xla_force_host_platform_device_count=8.
"""

import functools
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import jax
import numpy as np
from flax import nnx

from ast_jax.config import base
from ast_jax.datasets.pipeline import HostRows, TrainStream, fit
from ast_jax.evaluation.evaluate import eval_step
from ast_jax.models import AST
from ast_jax.training.program import train_program

STEPS, CLASSES = 20, 4
LAYOUTS = {
    "single": {"devices": 1},
    "jit": {},
    "pmap": {"parallel": "pmap"},
    "fsdp": {"fsdp": 8},
}


def recipe(**changes):
    """A small model with every augmentation on, 12 clips a batch: 8 devices fill it up to 16 rows."""
    config = base()
    config.model.width, config.model.depth, config.model.num_heads = 64, 1, 2
    config.model.strides = (16, 16)
    config.num_frames, config.batch_size, config.lr = 32, 12, 1e-3
    config.mixup, config.freq_mask, config.time_mask = 0.5, 24, 8
    config.noise, config.roll, config.gain_db, config.ema = True, 5, 6.0, 0.9
    config.update(changes)
    return config


def clips() -> list[dict]:
    """30 clips of noise: an epoch's third batch holds 6."""
    rng = np.random.default_rng(0)
    fbank = lambda: rng.normal(-5, 3, (rng.integers(10, 40), 128)).astype(np.float16)
    return [{"id": str(i), "fbank": fbank(), "labels": np.array([i % CLASSES])} for i in range(30)]


def batch(program, stream, step: int) -> dict[str, np.ndarray]:
    rows = program.rows["index"].size
    own = HostRows(stream, batch_size=12, rows=rows)
    found = [own[p] for p in range(step * rows, (step + 1) * rows)]
    fitted = [fit(row, kind="log_mel", num_frames=32, num_classes=CLASSES) for row in found]
    return {key: np.stack([row[key] for row in fitted]) for key in fitted[0]}


def run(devices: int = 8, **changes) -> dict:
    """Losses of 20 steps, scores after them, and how arrays lie."""
    config = recipe(**changes)
    program = train_program(config, CLASSES, devices=jax.devices()[:devices], mean=-4.0, std=4.5)
    layout = program.layout
    state = program.initial_state(AST(program.model_config, rngs=nnx.Rngs(0)))
    stream = TrainStream(clips(), batch_size=12, epochs=7, seed=0, mixup=config.mixup)
    compiled = program.step.lower(program.state, program.rows).compile()
    losses = []
    for step in range(STEPS):
        rows = layout.place_rows(batch(program, stream, step))
        state, figures = compiled(state, rows)
        losses.append(float(figures["loss"]))
    score = layout.score(
        functools.partial(eval_step, graphdef=program.graphdef, mean=-4.0, std=4.5, loss="bce")
    )
    scored = score(layout.place(state["params"]), rows)
    leaves = jax.tree.leaves([state["params"], state["opt"]])
    text = compiled.as_text()
    own = lambda leaf: leaf.addressable_shards[0].data
    return {
        "losses": losses,
        "scores": np.asarray(scored["scores"])[np.asarray(scored["mask"]) > 0].tolist(),
        "rows": [rows["fbank"].shape, own(rows["fbank"]).shape],
        "kernel": [own(state["params"][f"blocks/0/mlp/{name}/kernel"]).shape for name in ("fc1", "fc2")],
        "moment": own(state["opt"][1].mu["blocks/0/mlp/fc1/kernel"]).shape,
        "bias": own(state["params"]["blocks/0/norm1/bias"]).shape,
        "share_of_bytes": sum(own(leaf).nbytes for leaf in leaves) / sum(leaf.nbytes for leaf in leaves),
        "collectives": [
            name for name in ("all-reduce", "all-gather", "reduce-scatter") if f" {name}(" in text
        ],
    }


if __name__ == "__main__":
    print(json.dumps({name: run(**LAYOUTS[name]) for name in sys.argv[1:] or LAYOUTS}))
