"""Several runs as one program: seeds, folds or trials of small models side by side on one device.

Each is told by `loop.training` from its data to its results, with its own stream, rate, keys, journal and
checkpoints, and asks for its steps; here those that all of them wait for are taken at once. M runs.
"""

import contextlib
import dataclasses
import functools
import sys
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from ast_jax.errors import Diverged, InputError
from ast_jax.sharding import AXES
from ast_jax.terminal import Bar
from ast_jax.training import optim
from ast_jax.training.loop import STATUS_TERMINATED, Answer, Request, training
from ast_jax.training.program import Program
from ast_jax.training.step import State

# Runs that are alike become one vmapped step there: many small products in one call. On CPUs the steps stay
# apart within the program, which computes them side by side on the cores, bit for bit as alone
# (docs/benchmarks.md).
VMAPPED = ("gpu", "tpu")


def train_together(
    runs: Mapping[str, tuple[Any, Path]], *, vmapped: bool | None = None
) -> Iterator[tuple[str, dict[str, Any] | InputError | Diverged]]:
    """Trains `runs`, {name: (config, work directory)}, and gives each one's results, or what it failed of,
    when it is done. A run goes on where it stood.

    `vmapped`: as suits the device. Raises InputError on several devices or hosts; SIGTERM saves all runs and
    ends the process with status 143.
    """
    if jax.device_count() > 1:
        raise InputError(
            f"runs as one program take one device, and there are {jax.device_count()}: run them side by side "
            "with --devices=0,1,..., or choose one by CUDA_VISIBLE_DEVICES"
        )
    if vmapped is None:
        vmapped = jax.devices()[0].platform in VMAPPED
    step, stopped, bar = Steps(vmapped), False, Bar()
    asked: dict[str, Request] = {}
    answers: dict[str, Answer | None] = dict.fromkeys(runs)
    with contextlib.ExitStack() as at_exit:
        going = {
            name: at_exit.enter_context(contextlib.closing(training(*run, name=name, bar=bar)))
            for name, run in runs.items()
        }
        while answers:
            for name, answer in answers.items():
                try:
                    asked[name] = _next(going[name], answer)
                except StopIteration as done:
                    yield name, done.value
                except (InputError, Diverged) as error:
                    yield name, error
                except SystemExit as status:
                    if status.code != STATUS_TERMINATED:
                        raise
                    stopped = True
            if asked and not step.programs:  # until then each run has its own to say
                at_exit.enter_context(bar)
            answers, asked = (dict(step(asked)) if asked else {}), {}
    if stopped:
        sys.exit(STATUS_TERMINATED)


def _next(run: Generator[Request, Any, Any], answer: Answer | None) -> Request:
    return next(run) if answer is None else run.send(answer)


class Steps:
    """The steps of several runs as one program, compiled for each set of runs that still go on."""

    def __init__(self, vmapped: bool):
        self._vmapped = vmapped
        self.programs: dict[tuple[str, ...], Callable] = {}

    def __call__(self, asked: Mapping[str, Request]) -> dict[str, Answer]:
        names = tuple(asked)
        programs = [program for program, _, _ in asked.values()]
        if names not in self.programs:
            self.programs[names] = as_one(programs, vmapped=self._vmapped)
        states, batches = zip(*((state, batch) for _, state, batch in asked.values()), strict=True)
        return dict(zip(names, self.programs[names](states, batches), strict=True))


def as_one(programs: Sequence[Program], *, vmapped: bool) -> Callable:
    """(M states, M batches) -> M times (state, {loss, grad_norm}), compiled; the old states are given up.

    With `vmapped`, programs that are alike but for their numbers are one step under vmap: equal to them one
    by one but for rounding. Others, and without it all, are computed as they are.
    """
    groups: dict[Any, list[int]] = {}
    for place, program in enumerate(programs):
        groups.setdefault(_alike(program) if vmapped else place, []).append(place)
    together = [places for places in groups.values() if len(places) > 1]

    def steps(states: Sequence[Any], batches: Sequence[Any]) -> tuple[Answer, ...]:
        found: dict[int, Answer] = {}
        for places in together:
            one = functools.partial(_step, programs[places[0]])
            own_states, own_batches = (_stack([of[place] for place in places]) for of in (states, batches))
            numbers = _stack(_numbers([programs[place] for place in places]))
            new = jax.vmap(one)(own_states, own_batches, numbers)
            found |= {place: jax.tree.map(lambda x, i=i: x[i], new) for i, place in enumerate(places)}
        alone = [place for place in range(len(programs)) if place not in found]
        found |= {place: programs[place].pure(states[place], batches[place]) for place in alone}
        return tuple(found[place] for place in range(len(programs)))

    places = tuple(program.layout.shardings(program.state) for program in programs)
    whole = programs[0].layout.replicated
    rows = NamedSharding(programs[0].layout.mesh, PartitionSpec(AXES))
    return jax.jit(
        steps,
        in_shardings=(places, rows),
        out_shardings=tuple((place, whole) for place in places),
        donate_argnums=0,
    )


def _stack(trees: Sequence[Any]) -> Any:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def _alike(program: Program) -> Any:
    """What programs have in common that differ in their numbers alone."""
    settings, factors = program.optimized_by
    front_end = program.what.front_end.with_statistics(0.0, 1.0)
    return (
        program.graphdef,
        dataclasses.replace(program.what, seed=0, front_end=front_end),
        tuple((key, value) for key, value in vars(settings).items() if not key.startswith("lr")),
        tuple(factors.items()),
        tuple((key, value.shape) for key, value in program.rows.items()),
    )


def _numbers(programs: Sequence[Program]) -> list[dict[str, Any]]:
    """Seed, rates, mean and deviation of the features of each; tables of rates are of one length, and the
    last rate stands for ever.
    """
    most, never = max(len(program.rates[0]) for program in programs), np.iinfo(np.int32).max
    found = []
    for program in programs:
        starts, rates = program.rates
        more = (0, most - len(starts))
        found.append(
            {
                "seed": np.int32(program.what.seed),
                "mean": np.float32(program.what.front_end.mean),
                "std": np.float32(program.what.front_end.std),
                "starts": np.pad(starts, more, constant_values=never),
                "rates": np.pad(rates, more, mode="edge"),
            }
        )
    return found


def _step(program: Program, state: State, batch: Any, numbers: Mapping[str, Any]) -> Answer:
    """The program's step with other numbers."""
    settings, factors = program.optimized_by
    heard = dataclasses.replace(program.what.front_end, mean=numbers["mean"], std=numbers["std"])
    rate = optim.schedule(numbers["starts"], numbers["rates"])
    return program.pure(
        state,
        batch,
        optimizer=optim.optimizer_of(settings, rate, factors),
        step=dataclasses.replace(program.what, seed=numbers["seed"], front_end=heard),
    )
