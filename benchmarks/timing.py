"""What every benchmark here shares: contestants timed in turn, the machine's own limits, one table and one
JSON file.
"""

import contextlib
import importlib.metadata
import json
import multiprocessing
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
LIBRARIES = ("jax", "jaxlib", "flax", "numpy", "torch", "transformers", "timm", "torchaudio", "scikit-learn")
Row = dict[str, Any]


def in_turn(
    contestants: Mapping[str, Callable[[], object]],
    *,
    repeats: int = 5,
    least_s: float = 0.2,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
    """Median seconds a call of each, after a warm-up call, in turn: A B C A B C ...

    A call has ended when it returns. Short calls are repeated within a turn until it lasts `least_s`. In
    turn, because a machine's speed drifts: what one pays the other pays too, and their ratio stands. On a
    core shared with other work, `time.process_time` is the fairer clock: it counts this process's threads
    only, and only while they run.
    """
    turns = {name: _turn(call, least_s, clock) for name, call in contestants.items()}
    seconds: dict[str, list[float]] = {name: [] for name in turns}
    for _ in range(repeats):
        for name, turn in turns.items():
            seconds[name].append(turn())
    return {name: statistics.median(values) for name, values in seconds.items()}


def _turn(call: Callable[[], object], least_s: float, clock: Callable[[], float]) -> Callable[[], float]:
    """Warms a call up; returns a function that takes one turn and gives its seconds a call."""
    call()
    began = clock()
    call()
    times = max(1, round(least_s / max(clock() - began, 1e-9)))

    def turn() -> float:
        began = clock()
        for _ in range(times):
            call()
        return (clock() - began) / times

    return turn


def in_processes(
    makers: Mapping[str, Callable[[], Callable[[], object]]],
    *,
    repeats: int = 5,
    least_s: float = 0.2,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
    """`in_turn`, each contestant made and run in a process of its own, by a function that can be pickled.

    For libraries with threads of their own on a CPU: with PyTorch in its process XLA takes 1.4 times as long
    for a training step of AST-base. All of them get the memory pages that our commands run with. A contestant
    whose import fails is left out, and said to be, and so is one whose process ends.
    """
    with contextlib.ExitStack() as at_exit:
        pipes = {name: _start(name, make, (least_s, clock), at_exit) for name, make in makers.items()}
        seconds: dict[str, list[float]] = {name: [] for name, pipe in pipes.items() if pipe}
        for _ in range(repeats):
            for name in seconds:
                seconds[name].append(_turn_of(name, pipes[name]))
    return {name: statistics.median(values) for name, values in seconds.items()}


def one_alive(
    makers: Mapping[str, Callable[[], Callable[[], object]]],
    *,
    repeats: int = 5,
    least_s: float = 0.2,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
    """`in_processes` for contestants that memory does not hold side by side: each turn is a process of its
    own, warmed up anew.
    """
    seconds: dict[str, list[float]] = {}
    for _ in range(repeats):
        for name, make in makers.items():
            with contextlib.ExitStack() as at_exit:
                if pipe := _start(name, make, (least_s, clock), at_exit):
                    seconds.setdefault(name, []).append(_turn_of(name, pipe))
    return {name: statistics.median(values) for name, values in seconds.items()}


def _start(
    name: str, make: Callable[[], Callable[[], object]], how: tuple, at_exit: contextlib.ExitStack
) -> Any:
    """A contestant's process, made and warmed up: the pipe to it, until `at_exit`; None where something it
    needs is absent.
    """
    # Memory in pages of 2 MiB, for all alike; glibc reads it as the process starts.
    os.environ.setdefault("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1")
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    child = context.Process(target=_contestant, args=(theirs, make, *how), daemon=True)
    child.start()
    theirs.close()  # so that a child that dies is heard of
    at_exit.callback(child.join)
    at_exit.callback(ours.close)
    try:
        absent = ours.recv()
    except EOFError:  # killed, or an error that it has printed itself
        child.join()
        absent = f"its process ended with status {child.exitcode}"
    if absent:
        print(f"no {name}: {absent}")
        return None
    return ours


def _turn_of(name: str, pipe: Any) -> float:
    pipe.send("go")
    try:
        return pipe.recv()
    except EOFError as error:
        raise RuntimeError(f"{name} died in its turn: was there memory for all of them at once?") from error


def _contestant(pipe: Any, make: Callable[[], Callable[[], object]], least_s: float, clock) -> None:
    """Makes a call and warms it up; says so (or what is absent); then a turn's seconds a call for each
    message.
    """
    try:
        call = make()
    except ImportError as error:
        pipe.send(str(error))
        return
    turn = _turn(call, least_s, clock)
    pipe.send("")
    with contextlib.suppress(EOFError):  # the end
        while pipe.recv():
            # untimed: the threads of whoever ran before may still be spinning, and the caches are theirs
            call()
            pipe.send(turn())


def one_core() -> None:
    """This process and its children on one core.

    To be called before NumPy is imported: its BLAS starts a thread a core, and they spin.
    """
    os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])


def cpu_only() -> None:
    """JAX and PyTorch, here and in child processes, leave GPUs alone.

    To be called before either has looked for one.
    """
    import jax

    os.environ |= {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": ""}
    jax.config.update("jax_platforms", "cpu")


def copy_rate(megabytes: int = 256) -> float:
    """Bytes/s this process moves: a large array copied, counted as read and written; the best of five."""
    import numpy as np

    source = np.ones(megabytes << 20, np.uint8)
    target = np.empty_like(source)
    best = 0.0
    for _ in range(5):
        began = time.perf_counter()
        np.copyto(target, source)
        best = max(best, 2 * source.nbytes / (time.perf_counter() - began))
    return best


def ratios(seconds: Mapping[str, float], ours: str = "ours") -> dict[str, float]:
    """How many times as fast as each peer ours is."""
    return {name: value / seconds[ours] for name, value in seconds.items() if name != ours}


def table(title: str, rows: list[Row]) -> None:
    """Prints rows with the same keys as a Markdown table."""
    print(f"\n{title}\n")
    print("| " + " | ".join(rows[0]) + " |")
    print("|" + "---|" * len(rows[0]))
    for row in rows:
        print("| " + " | ".join(_text(value) for value in row.values()) + " |")
    sys.stdout.flush()


def _text(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def machine() -> dict[str, Any]:
    """The processor, the cores this process may use, and the versions of what is timed."""
    versions = {}
    for name in LIBRARIES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "absent"
    processor = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        processor = names[0].partition(":")[2].strip() if names else processor
    return {
        "python": platform.python_version(),
        "processor": processor,
        "cores": len(os.sched_getaffinity(0)),
        **versions,
    }


def write(path: str | Path | None, found: dict[str, Any]) -> None:
    """The figures as JSON, with what they were measured on; nothing without a path."""
    if path:
        Path(path).write_text(json.dumps({**found, "machine": machine()}, indent=2) + "\n")
