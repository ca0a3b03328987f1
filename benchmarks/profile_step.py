r"""Where the time of one training step goes: a profiler trace, its events summed by what they compute.

  export GLIBC_TUNABLES=glibc.malloc.hugetlb=1      # memory in pages of 2 MiB
  python -m benchmarks.profile_step [--variant=base] [--batch=1] [--frames=1024] [--steps=2] [--trace=DIR]
  python -m benchmarks.profile_step --run=WORKDIR     # of a training run with config.profile_steps: is the
  device kept busy?

Each event of the device's trace bears the name of an instruction of the compiled program, whose metadata says
which line of the model it came from. A fusion counts as what its last operation is. Also printed: how long
the call of a step takes to return (the cost of dispatch). With --run: how long the device stood idle between
one step of the loop and the next, which a host that waits for each step would show (read on CPUs; other
backends name their events otherwise).
"""

import argparse
import gzip
import json
import re
import statistics
import tempfile
from collections import Counter
from pathlib import Path

from benchmarks import timing

KINDS = [  # the first whose pattern is found in an instruction's metadata, or in its own name
    ("linear layers, attention's products", r"dot_general|convolution|conv_general"),
    ("softmax", r"softmax|reduce_max|exp\b"),
    ("GELU", r"gelu|erf"),
    ("LayerNorm", r"[nN]orm|rsqrt|integer_pow|square"),
    ("optimiser", r"adam|optax|scale_by|update|apply_updates|incremental|sqrt"),
    ("layout", r"transpose|copy|reshape|concatenate|slice|pad"),
]


def main() -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.profile_step", description=__doc__)
    parser.add_argument("--variant", default="base")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--frames", type=int, default=1024)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--trace", help="keep the trace here")
    parser.add_argument("--run", type=Path, help="read the trace of this training run instead")
    args = parser.parse_args()
    if args.run:
        timing.table(f"the loop of {args.run.name}", [loop(trace(args.run / "profile"))])
        return
    import jax

    from ast_jax.models import ASTConfig
    from benchmarks.ours import TrainStep

    dtype = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    config = ASTConfig.variant(args.variant, num_frames=args.frames, dtype=dtype)
    step = TrainStep(config, args.batch, steps=args.steps)
    step.run()
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(args.trace or temporary)
        with jax.profiler.trace(str(directory)):
            step.run()
        events = trace(directory)
    totals = by_kind(events, step.step.as_text())
    whole = sum(totals.values())
    rows = [
        {"part": kind, "ms a step": us / 1e3 / args.steps, "share": us / whole}
        for kind, us in totals.most_common()
    ]
    timing.table(f"AST-{args.variant}, batch {args.batch}, {timing.machine()}", rows)
    print(f"\ndispatch: the call of a step returns after {1e3 * step.dispatch_s():.2f} ms")


def trace(directory: Path) -> list[dict]:
    (path,) = directory.rglob("*.trace.json.gz")
    return json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]


def loop(events: list[dict]) -> timing.Row:
    """Of a traced training run on a CPU: each step's time on the device, and from its end to the next step's
    beginning.
    """
    threads = {
        (e["pid"], e["tid"]): e["args"]["name"] for e in events if e.get("name") == "thread_name"
    }  # an execution has a thread of its own until its program ends
    spans = sorted(
        (e["ts"], e["ts"] + e["dur"])
        for e in events
        if e.get("name", "").startswith("ThunkExecutor::Execute")
        and threads[e["pid"], e["tid"]].startswith("tf_XLAExecute")
    )
    begins = [begin for begin, end in spans[::2]]  # each twice: begun, and waited for
    ends = [end for begin, end in spans[1::2]]
    idle = [begin - end for begin, end in zip(begins[1:], ends, strict=False)]
    calls = [e["dur"] for e in events if e.get("name") == "PjitFunction(train_step)"]
    return {
        "steps": len(begins),
        "median step, ms": statistics.median(e - b for b, e in zip(begins, ends, strict=True)) / 1e3,
        "median idle between steps, ms": statistics.median(idle) / 1e3,
        "idle share": sum(idle) / (ends[-1] - begins[0]),
        "median call of a step, ms": statistics.median(calls) / 1e3,
    }


def by_kind(events: list[dict], program: str) -> Counter:
    """Microseconds of the device's events by kind.

    Loops and calls are left out: what runs in them has events of its own.
    """
    says = metadata(program)
    totals: Counter = Counter()
    for event in events:
        name = event.get("name", "")
        if "dur" in event and name in says and not re.match(r"while|call|conditional", name):
            totals[kind_of(name + " " + says[name])] += event["dur"]
    return totals


def metadata(program: str) -> dict[str, str]:
    """Instruction -> the operation and source line it came from."""
    found = {}
    for line in program.splitlines():
        name = re.match(r"\s*(?:ROOT )?%?([\w.-]+) = ", line)
        if name:
            op = re.search(r'op_name="([^"]*)"', line)
            source = re.search(r'source_file="[^"]*/([^"/]*)" source_line=(\d+)', line)
            found[name[1]] = " ".join([op[1] if op else "", f"{source[1]}:{source[2]}" if source else ""])
    return found


def kind_of(text: str) -> str:
    return next((kind for kind, pattern in KINDS if re.search(pattern, text)), "other")


if __name__ == "__main__":
    main()
