r"""Clips/s of the forward pass on this machine's CPU, beside PyTorch's: transformers' AST (eager, SDPA,
compiled), timm's; and beside our own exports in onnxruntime, in float32 and with products in 8 bits.

python -m benchmarks.inference [--variants=base,tiny] [--batches=1,8] [--frames=1024] [--repeats=5]
[--peers=eager,sdpa,compiled,timm,onnx,onnx_int8] [--one_alive]
      [--one_core] [--json=FILE]
"""

import argparse
import functools
import tempfile
import time
from pathlib import Path

from benchmarks import timing
from benchmarks.ours import Forward, clips
from benchmarks.peers import PEERS, torch_ast, torch_inference


def main() -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.inference", description=__doc__)
    options(parser)
    args = parser.parse_args()
    measure(args, "inference", ours, peer, passes=1)


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--variants", default="base,tiny")
    parser.add_argument("--batches", default="1,8")
    parser.add_argument("--frames", type=int, default=1024, help="10 ms each")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", help="also write the figures here")
    parser.add_argument(
        "--peers", default=",".join(PEERS), help="of benchmarks/peers.py, onnx and onnx_int8; may be empty"
    )
    parser.add_argument("--one_alive", action="store_true", help="one at a time in memory, each turn anew")
    parser.add_argument("--one_core", action="store_true", help="on one core, in seconds of processor time")


def measure(args: argparse.Namespace, what: str, ours, peer, *, passes: int) -> None:
    """Times ours and the peers at every variant and batch.

    `passes`: forward passes' worth of work, 3 for a training step.
    """
    timing.cpu_only()
    clock = time.perf_counter
    if args.one_core:
        timing.one_core()
        clock = time.process_time
    from ast_jax.models import ASTConfig, abstract
    from ast_jax.models.cost import forward_flops, matrix_peak

    peak = matrix_peak(clock=clock)
    print(f"measured matrix peak {peak / 1e9:.0f} GFLOP/s, {timing.machine()}")
    rows = []
    for variant in args.variants.split(","):
        for batch in map(int, args.batches.split(",")):
            config = ASTConfig.variant(variant, num_frames=args.frames)
            made = {"ours": functools.partial(ours, config, batch)}
            made |= {
                name: functools.partial(peer, name, config, batch) for name in args.peers.split(",") if name
            }
            compare = timing.one_alive if args.one_alive else timing.in_processes
            seconds = compare(made, repeats=args.repeats, clock=clock)
            row = {"model": variant, "batch": batch, "ours, clips/s": batch / seconds["ours"]}
            row |= {f"x {name}": ratio for name, ratio in timing.ratios(seconds).items()}
            row["share of peak"] = (
                passes * forward_flops(abstract("ast", config)) * batch / seconds["ours"] / peak
            )
            rows.append(row)
            timing.table(what, rows)
            timing.write(args.json, {"matrix_peak_flops": peak, "rows": rows})


def ours(config, batch):
    return Forward(config, batch, steps=1).run


def peer(name, config, batch):
    fbank, _ = clips(config, batch)
    if name in EXPORTS:
        return exported(EXPORTS[name], config, fbank)
    return torch_inference(torch_ast(config, name), fbank)


# our own exports in onnxruntime, by their weights
EXPORTS = {"onnx": "float32", "onnx_int8": "int8"}


def exported(weights, config, fbank):
    """As `convert --to=onnx` writes it."""
    from ast_jax.models import build
    from ast_jax.weights import LoadedModel
    from ast_jax.weights.onnx_file import MODEL, Graphs, onnx_runner

    model = build("ast", config)
    names = [str(number) for number in range(config.num_classes)]
    loaded = LoadedModel(model, names, model.front_end, "sigmoid")
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / MODEL
        Graphs(loaded).write(path, weights)
        run = onnx_runner(path)
    return lambda: run(fbank)


if __name__ == "__main__":
    main()
