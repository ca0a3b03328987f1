r"""PANNs' CNN14 and PSLA beside their PyTorch forms in turn, on this device: training and inference.

  python -m benchmarks.taggers [--only=cnn14] [--batch=4] [--peers=eager,compiled,plain] [--out=FILE]

Ours is the training step of the recipe, masks and mixup in it, and the forward pass, from log-mels of 10 s;
`plain` is ours without the device's own forms of operations. A peer is the published class (CNN14) or the
published arithmetic around the published backbone (PSLA), from log-mels as well, without masks and mixup,
channels last; float32 on CPUs, bfloat16 (autocast) elsewhere. They need torch, panns_inference, torchlibrosa
and efficientnet_pytorch. Each contestant has a process of its own.
"""

import argparse
import functools
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from benchmarks import peers, timing

CLASSES = 527
# recipe; rows of a training step as the recipe has them, and of a forward pass
SYSTEMS = {"cnn14": ("panns", 32, 128), "psla_b2": ("psla:scratch", 100, 128)}
SMOKE_FRAMES = 96


def program_of(name: str, batch: int, *, smoke: bool) -> Any:
    """The recipe's training program."""
    from ast_jax.recipes import recipe
    from ast_jax.settings import Settings
    from ast_jax.training.program import train_program

    config = recipe(SYSTEMS[name][0])
    config.batch_size = batch
    if smoke:
        config.num_frames = SMOKE_FRAMES
    return train_program(Settings.of(config), CLASSES)


def rows_of(program: Any) -> dict[str, np.ndarray]:
    """A batch of noise, of the shapes that the step takes."""
    import jax.numpy as jnp

    rng, rows = np.random.default_rng(0), {}
    for key, like in program.rows.items():
        if jnp.issubdtype(like.dtype, jnp.floating):
            rows[key] = rng.standard_normal(like.shape, np.float32).astype(like.dtype)
        else:
            rows[key] = np.arange(like.shape[0], dtype=like.dtype)
    for key in {"length", "partner_length"} & set(rows):
        rows[key] = np.full_like(rows[key], program.model.config.num_frames)
    rows["mask"] = np.ones_like(rows["mask"])
    rows["labels"] = labels_of(len(rows["mask"]))
    return rows


def labels_of(batch: int) -> np.ndarray:
    return (np.random.default_rng(2).random((batch, CLASSES)) < 0.005).astype(np.float32)


def sounds(program: Any, batch: int) -> np.ndarray:
    """Normalised log-mels [B, T, F]."""
    shape = (batch, program.model.config.num_frames, program.model.front_end.num_mel_bins)
    return np.random.default_rng(1).standard_normal(shape, np.float32)


def ours(name: str, batch: int, steps: int, *, training: bool, smoke: bool, plain: bool = False) -> Callable:
    """A call that makes `steps` training steps or forward passes."""
    if plain:
        os.environ["AST_JAX_KERNELS"] = "plain"
    import jax

    from ast_jax.models import build, family_name, kernels_on, merge, using

    program = program_of(name, batch, smoke=smoke)
    state = program.initial_state(build(family_name(program.model), program.model.config))
    if training:
        rows = program.layout.place_rows(rows_of(program))
        step = program.step.lower(state, rows).compile()

        def train() -> float:
            nonlocal state
            for _ in range(steps):
                state, figures = step(state, rows)
            return float(figures["loss"])

        return train

    def forward(params, statistics, x):
        with using(kernels_on(jax.devices()[0])):
            return merge(program.graphdef, params, statistics)(x)[0]

    arrays = (state["params"], state["statistics"], jax.device_put(sounds(program, batch)))
    compiled = jax.jit(forward).lower(*arrays).compile()

    def infer() -> None:
        for _ in range(steps):
            logits = compiled(*arrays)
        logits.block_until_ready()

    return infer


def theirs(name: str, batch: int, steps: int, *, training: bool, smoke: bool, compiled: bool) -> Callable:
    """The same of the PyTorch form."""
    import torch

    sys.path.append(str(timing.ROOT / "tests"))
    import tagger_oracles

    from ast_jax.models.efficientnet import SCALES

    peers.use_all_cores()
    program = program_of(name, batch, smoke=smoke)
    if name == "cnn14":
        net = tagger_oracles.panns_model("cnn14", classes=CLASSES, channels=program.model.config.channels)
        net.spectrogram_extractor = net.logmel_extractor = torch.nn.Identity()
        score = lambda x: net(x[:, None])["clipwise_output"]
    else:
        net = tagger_oracles.psla_model(SCALES[name.removeprefix("psla_")], classes=CLASSES)
        score = net

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net

        def forward(self, x):
            # a score is taken for a logit: the work is the same
            return SimpleNamespace(logits=score(x))

    model = Model().to(memory_format=torch.channels_last)
    model = peers.compiled(model) if compiled else model
    x = sounds(program, batch)
    if training:
        return peers.torch_train_step(model, x, labels_of(batch), steps=steps)
    return peers.torch_inference(model, x, steps=steps)


def compare(name: str, batch: int, asked: argparse.Namespace, *, training: bool) -> dict[str, Any]:
    """Clips/s of each in turn, and by how much ours is faster."""
    steps = 1 if asked.batch else 8
    how = {"training": training, "smoke": asked.smoke}
    makers = {"ours": functools.partial(ours, name, batch, steps, **how)}
    for peer in asked.peers.split(","):
        if peer == "plain":
            makers[peer] = functools.partial(ours, name, batch, steps, plain=True, **how)
        else:
            compiled = peer == "compiled"
            makers[peer] = functools.partial(theirs, name, batch, steps, compiled=compiled, **how)
    seconds = timing.in_processes(makers, repeats=3)
    rates = {who: batch * steps / spent for who, spent in seconds.items()}
    what = f"{name}, {'training' if training else 'inference'}"
    faster = {f"x {who}": rates["ours"] / rate for who, rate in rates.items() if who != "ours"}
    return {"what": what, "batch": batch, "ours, clips/s": rates["ours"], **faster}


def main() -> None:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.taggers",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path)
    parser.add_argument("--only", default=",".join(SYSTEMS))
    parser.add_argument("--batch", type=int, help="in the place of the recipe's, for CPUs")
    parser.add_argument("--peers", default="eager,compiled")
    parser.add_argument("--smoke", action="store_true", help="short sounds, to see that every part runs")
    asked = parser.parse_args()
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    rows = []
    for name in asked.only.split(","):
        for training in (True, False):
            batch = asked.batch or SYSTEMS[name][1 if training else 2]
            rows.append(compare(name, batch, asked, training=training))
            print(rows[-1], flush=True)
            timing.write(asked.out, {"rows": rows, "smoke": asked.smoke})
    timing.table(timing.machine(), rows)


if __name__ == "__main__":
    main()
