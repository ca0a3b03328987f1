r"""Clips/s of a whole training step on this machine's CPU, beside PyTorch's: transformers' AST (eager, SDPA, compiled), timm's.

  python -m benchmarks.train_step [--variants=base,tiny] [--batches=1,8] [--frames=1024] [--repeats=5] [--peers=eager,sdpa,compiled,timm]
      [--one_alive] [--one_core] [--json=FILE]

Ours is the step that training runs: padding, normalisation, loss, gradient norm, Adam with coupled weight decay, state donated.
The peer's is forward, loss, backward, Adam on features that are normalised already.
"""

import argparse
import functools

from benchmarks.inference import measure, options
from benchmarks.peers import torch_ast, torch_train_step


def main() -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.train_step", description=__doc__)
    options(parser)
    args = parser.parse_args()
    measure(args, "training step", ours, peer, passes=3)


def ours(config, fbank, labels, *, attend=None, recipe=None):
    import jax
    import numpy as np
    from flax import nnx

    from ast_jax.models import AST, split
    from ast_jax.models.attention import attention_on
    from ast_jax.training.optim import adam
    from ast_jax.training.step import Recipe, init_state, train_step

    graphdef, params = split(AST(config, rngs=nnx.Rngs(0)))
    optimizer = adam(lambda step: 1e-5)
    recipe = recipe or Recipe(mean=-4.2677393, std=4.5689974)
    step = functools.partial(
        train_step,
        graphdef=graphdef,
        optimizer=optimizer,
        recipe=recipe,
        attend=attend or attention_on(jax.devices()[0]),
    )
    step = jax.jit(step, donate_argnums=0)
    rows = len(fbank)
    batch = {
        "fbank": fbank.astype(np.float16),
        "length": np.full(rows, config.num_frames, np.int32),
        "labels": labels,
        "index": np.arange(rows, dtype=np.int32),
        "mask": np.ones(rows, np.float32),
    }
    batch = jax.device_put(batch)
    held = {"state": init_state(params, optimizer)}

    def call():
        held["state"], figures = step(held["state"], batch)
        return float(figures["loss"])

    return call


def peer(name, config, fbank, labels):
    return torch_train_step(torch_ast(config, name), fbank, labels)


if __name__ == "__main__":
    main()
