r"""Clips/s of a whole training step on this machine's CPU, beside PyTorch's: transformers' AST (eager, SDPA,
compiled), timm's.

  python -m benchmarks.train_step [--variants=base,tiny] [--batches=1,8] [--frames=1024] [--repeats=5]
  [--peers=eager,sdpa,compiled,timm]
      [--one_alive] [--one_core] [--json=FILE]

Ours is the step that training runs: padding, normalisation, loss, gradient norm, Adam with coupled weight
decay, state donated. The peer's is forward, loss, backward, Adam on features that are normalised already.
"""

import argparse

from benchmarks.inference import measure, options
from benchmarks.ours import TrainStep, clips
from benchmarks.peers import torch_ast, torch_train_step


def main() -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.train_step", description=__doc__)
    options(parser)
    args = parser.parse_args()
    measure(args, "training step", ours, peer, passes=3)


def ours(config, batch):
    return TrainStep(config, batch, steps=1).run


def peer(name, config, batch):
    return torch_train_step(torch_ast(config, name), *clips(config, batch))


if __name__ == "__main__":
    main()
