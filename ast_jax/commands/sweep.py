"""Several runs of one recipe that differ in seed, fold or row of an ablation; and their tables."""

import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from ast_jax.commands.cli import Flag
from ast_jax.errors import Diverged, InputError
from ast_jax.recipes import Recipe

Together = Annotated[int, Flag("runs that are trained at once, as one program on one device", least=1)]
Tune = Annotated[
    int, Flag("trials of rate, freezing and epochs inside the training clips, at least 2; 0: none", most=64)
]
DIVERGED = 3  # the exit status of a run whose loss broke


def sweep(
    members: Mapping[str, Recipe], workdir: Path, *, devices: Sequence[str] = (), together: int = 1
) -> dict[str, Any]:
    """Trains every member in WORKDIR/<name>, and returns its results by its name.

    One after the other in this process; or so many of them `together` as one program; or one a device
    (CUDA_VISIBLE_DEVICES), each in a process of its own. A member goes on where it stopped, and one that is
    done says so at once. On a host that does not write, results are empty.

    Raises:
        InputError: a mistake in any member's recipe, before anything runs; or failures, after the others ran.
        Diverged: every one of the failures is a loss that broke.
    """
    results: dict[str, Any] = {}
    failed: dict[str, tuple[int, str]] = {}  # status and reason
    for name, outcome in outcomes(members, workdir, devices=devices, together=together):
        if isinstance(outcome, tuple):
            failed[name] = outcome
        else:
            results[name] = outcome
    if failed:
        kind = Diverged if all(status == DIVERGED for status, _ in failed.values()) else InputError
        reasons = "; ".join(f"{name}: {reason}" for name, (_, reason) in failed.items())
        raise kind(f"{len(failed)} of {len(members)} runs failed ({reasons}); the others are done and kept")
    return {name: results[name] for name in members}


def outcomes(
    members: Mapping[str, Recipe], workdir: Path, *, devices: Sequence[str] = (), together: int = 1
) -> Iterable[tuple[str, Any]]:
    """Each member's results, or the exit status and the reason of its failure, as they end. Raises
    InputError as `sweep` does before anything runs.
    """
    if devices and together > 1:
        raise InputError("--devices and --together: runs are one a device, or several as one program")
    for recipe in members.values():
        recipe.config()
    if devices:
        yield from _side_by_side(members, workdir, devices)
    elif together > 1:
        yield from _at_once(members, workdir, together)
    else:
        yield from _in_turn(members, workdir)


def _in_turn(members: Mapping[str, Recipe], workdir: Path) -> Iterable[tuple[str, Any]]:
    from ast_jax.training import loop

    for name, recipe in members.items():
        print(f"{name}: {workdir / name}", file=sys.stderr, flush=True)
        try:
            yield name, loop.train(recipe.config(), workdir / name)
        except (InputError, Diverged) as error:
            yield name, _told(name, error)


def _at_once(members: Mapping[str, Recipe], workdir: Path, together: int) -> Iterable[tuple[str, Any]]:
    from ast_jax.training.together import train_together

    names = list(members)
    for some in (names[first : first + together] for first in range(0, len(names), together)):
        print(f"{', '.join(some)} at once: {workdir}", file=sys.stderr, flush=True)
        runs = {name: (members[name].config(), workdir / name) for name in some}
        for name, outcome in train_together(runs):
            yield name, outcome if isinstance(outcome, dict) else _told(name, outcome)


def _told(name: str, error: Exception) -> tuple[int, str]:
    print(f"{name}: {error}", file=sys.stderr, flush=True)
    return DIVERGED if isinstance(error, Diverged) else 2, str(error)


def _side_by_side(
    members: Mapping[str, Recipe], workdir: Path, devices: Sequence[str]
) -> Iterable[tuple[str, Any]]:
    waiting, running = list(members.items()), dict[str, tuple[str, subprocess.Popen]]()
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        while waiting or running:
            for device in devices:
                if device not in running and waiting:
                    name, recipe = waiting.pop(0)
                    print(f"{name} on device {device}: {workdir / name}", file=sys.stderr, flush=True)
                    command = [sys.executable, "-m", "ast_jax.main", *recipe.flags()]
                    environment = os.environ | {"CUDA_VISIBLE_DEVICES": device}
                    process = subprocess.Popen([*command, f"--workdir={workdir / name}"], env=environment)
                    running[device] = name, process
                elif device in running and (status := running[device][1].poll()) is not None:
                    name, _ = running.pop(device)
                    path = workdir / name / "results.json"
                    yield name, (status, "see above") if status else json.loads(path.read_text())
            time.sleep(0.1)
    finally:
        signal.signal(signal.SIGTERM, before)
        # Stopped from outside: each saves and ends.
        for _, process in running.values():
            process.terminate()
        for _, process in running.values():
            process.wait()


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table."""
    lines = [f"| {' | '.join(cells)} |" for cells in (head, *rows)]
    return "\n".join([lines[0], "|" + "---|" * len(head), *lines[1:]]) + "\n"


def spread(values: Sequence[float]) -> float | None:
    """The sample's standard deviation; None where there is one value only."""
    return statistics.stdev(values) if len(values) > 1 else None


def write(workdir: Path, name: str, summary: Mapping[str, Any], table: str) -> None:
    """WORKDIR/<name>.json and .md."""
    (workdir / f"{name}.json").write_text(json.dumps(summary, indent=2) + "\n")
    (workdir / f"{name}.md").write_text(table)
