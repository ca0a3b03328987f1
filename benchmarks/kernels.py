"""A GPU's kernels in a trace of training steps: what each kind takes, the longest, the device's idle time.

An event bears the name of a kernel: XLA's own are named like the instruction they compute, whose metadata
says where in the model it stands; those of cuBLAS and cuDNN by their libraries, unless the trace gives the
instruction (`hlo_op`). Layers are added up: what differs by its number alone counts as one.
"""

import gzip
import re
import tempfile
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.profile_step import kind_of, metadata, trace

LIBRARY = [  # the first whose pattern is found in a kernel's or an instruction's name
    ("attention, fused", r"fmha|flash|sdpa"),
    ("convolution", r"conv.*(fprop|wgrad|dgrad)|(fprop|wgrad|dgrad)|cudnn.conv"),
    ("products", r"nvjet|gemm|cublas|cutlass|xmma|splitK|gemv|dot_general"),
    ("copies", r"[mM]emcpy|[mM]emset"),
]


def profile(step: Any, out: Path, top: int = 15) -> dict[str, Any]:
    """Traces one call of a TrainStep; writes the trace and the compiled program beside `out`."""
    import jax

    program = step.step.as_text()
    out.with_suffix(".program.txt.gz").write_bytes(gzip.compress(program.encode()))
    step.run()
    with tempfile.TemporaryDirectory() as directory:
        with jax.profiler.trace(directory):
            step.run()
        (written,) = Path(directory).rglob("*.trace.json.gz")
        out.with_suffix(".trace.json.gz").write_bytes(written.read_bytes())
        events = on_device(trace(Path(directory)))
    return summary(events, namer(program), step.steps, top)


def on_device(events: list[dict]) -> list[dict]:
    """The kernels: what ran on a GPU's streams, or, where there is none, what bears an instruction's name."""
    names = {(e["pid"], e.get("tid")): e["args"]["name"] for e in events if e.get("name") == "thread_name"}
    devices = {e["pid"] for e in events if e.get("name") == "process_name" and "GPU" in e["args"]["name"]}
    timed = [e for e in events if "dur" in e]
    streams = [
        e for e in timed if e["pid"] in devices and names.get((e["pid"], e["tid"]), "").startswith("Stream")
    ]
    return streams or [e for e in timed if "hlo_op" in e.get("args", {})]


def namer(program: str) -> Callable[[dict], tuple[str, str]]:
    """A function of an event: its kind, and what it is, the same for all layers."""
    shapes = dict(re.findall(r"^\s*(?:ROOT )?%?([\w.-]+) = \(?(\w+\[[\d,]*\])", program, re.MULTILINE))
    says = {
        re.sub(r"[.-]", "_", name): (name, f"{shapes.get(name, '')} {text}".strip())
        for name, text in metadata(program).items()
    }

    def name(event: dict) -> tuple[str, str]:
        kernel, op = event["name"], event.get("args", {}).get("hlo_op", "")
        for candidate in (op, kernel):
            instruction, text = says.get(re.sub(r"[.-]", "_", candidate), ("", ""))
            if instruction:
                break
        library = next((kind for kind, form in LIBRARY if re.search(form, f"{kernel} {op}")), None)
        what = re.sub(r"([._]\d+)+$", "", instruction or kernel)[:90]
        by_library = f", {kernel[:60]}" if library and instruction and instruction != kernel else ""
        return library or kind_of(f"{instruction} {text}"), f"{what} {text[:150]}{by_library}".strip()

    return name


def summary(events: list[dict], name: Callable, steps: int, top: int) -> dict[str, Any]:
    """Milliseconds a step: by kind, the `top` longest, and the device's span and idle time."""
    kinds, ops, calls = defaultdict(float), defaultdict(float), defaultdict(int)
    for event in events:
        kind, what = name(event)
        ms = event["dur"] / 1e3 / steps
        kinds[kind] += ms
        ops[kind, what] += ms
        calls[kind, what] += 1
    by_time = lambda totals: sorted(totals, key=totals.get, reverse=True)
    begins, ends = [e["ts"] for e in events], [e["ts"] + e["dur"] for e in events]
    span = (max(ends) - min(begins)) / 1e3 / steps if events else 0.0
    return {
        "kernels a step": len(events) / steps,
        "span, ms": span,
        "idle, ms": span - _covered(sorted(zip(begins, ends, strict=True))) / 1e3 / steps,
        "kinds, ms": {kind: round(kinds[kind], 3) for kind in by_time(kinds)},
        "longest": [
            {"ms": round(ops[key], 3), "calls": calls[key] / steps, "kind": key[0], "what": key[1]}
            for key in by_time(ops)[:top]
        ],
    }


def _covered(spans: list[tuple[float, float]]) -> float:
    """Length of the union of sorted spans."""
    total, until = 0.0, float("-inf")
    for begin, end in spans:
        total += max(0.0, end - max(begin, until))
        until = max(until, end)
    return total


def torch_profile(call: Callable[[], object], steps: int, top: int = 15) -> dict[str, Any]:
    """PyTorch's kernels in one call of `steps` steps, by its own profiler."""
    import torch

    call()
    activities = [torch.profiler.ProfilerActivity.CPU]
    if torch.cuda.is_available():
        activities = [torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as found:
        call()
    us = lambda e: (
        getattr(e, "self_device_time_total", 0) or (0 if torch.cuda.is_available() else e.self_cpu_time_total)
    )
    rows = sorted(found.key_averages(), key=us, reverse=True)
    told = [
        {"ms": round(us(e) / 1e3 / steps, 3), "calls": e.count / steps, "what": e.key[:110]} for e in rows
    ]
    attention = [
        row for row in told if re.search(r"attention|flash|fmha|sdpa|softmax", row["what"], re.IGNORECASE)
    ]
    return {
        "busy, ms": sum(map(us, rows)) / 1e3 / steps,
        "longest": told[:top],
        "attention": attention[:8],
    }
