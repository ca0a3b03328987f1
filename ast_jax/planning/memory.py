"""Memory of the compiled train step on one device, measured by compiling it, and the largest batch that fits.

Compiling AST-base for a TPU takes minutes, so what came of each program is kept in the user's cache, by the
program's text.
"""

import dataclasses
import hashlib
import importlib.metadata
import json
import math
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from ast_jax.cache import cache_directory
from ast_jax.models import abstract, kernels_on, num_parameters
from ast_jax.models.base import config_from
from ast_jax.planning.costs import activation_bytes
from ast_jax.planning.slices import Devices
from ast_jax.settings import Settings
from ast_jax.training.program import train_program

UNITS = {"K": 2**10, "M": 2**20, "G": 2**30}
MOST_COMPILES = 8  # of one search


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes on each device: what the step is given (state and batch), what it takes beside, its code."""

    clips: int  # rows of a batch on each device
    arguments: int
    temporaries: int
    code: int
    fits: bool
    seconds: float  # of compiling

    @property
    def total(self) -> int:
        return self.arguments + self.temporaries + self.code


def measure(
    config: ConfigDict, num_classes: int, where: Devices, clips: int, *, cache: Path | None = None
) -> Memory:
    """Compiles the train step of `config` with `clips` rows on each device (config.batch_size is not looked
    at).

    A program the compiler refuses for its size has `fits` False, and the compiler's figure for all of it as
    temporaries.
    """
    config = config.copy_and_resolve_references()
    config.batch_size = clips * len(where.devices)
    program = train_program(Settings.of(config), num_classes, devices=where.devices)
    step: Any = program.step  # jitted or pmapped
    lowered = step.lower(program.state, program.rows)
    key = _key(lowered.as_text(), where)
    known = json.loads(cache.read_text()) if cache is not None and cache.is_file() else {}
    if key not in known:
        known[key] = dataclasses.asdict(_compiled(lowered, clips, where.capacity))
        if cache is not None:
            _write(cache, known[key], key)
    return Memory(**known[key])


def default_cache() -> Path:
    """In the user's cache directory (XDG_CACHE_HOME)."""
    return cache_directory() / "plan.json"


def first_guess(config: ConfigDict, num_classes: int, where: Devices) -> int:
    """Clips on a device to compile first: about a quarter of those there is room for beside four copies of
    the parameters.

    A clip takes what is kept of it for the backward pass, and one block's part of that when nothing is
    recomputed.
    """
    settings = Settings.of(config)
    outline = lambda remat: with_remat(settings, num_classes, remat)
    forms, model = kernels_on(where.devices[0]), outline(settings.model.remat)
    whole = activation_bytes(outline("none"), forms)
    room = (where.capacity or 0) - 4 * 4 * num_parameters(model)
    return max(1, room // (activation_bytes(model, forms) + whole // (len(model.levels) - 1)) // 4)


def with_remat(settings: Settings, num_classes: int, remat: str) -> Any:
    """The recipe's model, abstract, with another choice of what the backward pass recomputes, if its family
    has one.
    """
    config = config_from(settings, num_classes)
    if any(field.name == "remat" for field in dataclasses.fields(config)):
        config = dataclasses.replace(config, remat=remat)
    return abstract(settings.model.family, config)


def largest(
    measure: Callable[[int], Memory], capacity: int, first: int, *, close: bool = False, prove: bool = False
) -> list[Memory]:
    """Looks for the most clips on a device that fit; returns all that was measured, by clips.

    Two compiles give a line, and a third verifies where it meets `capacity`: `first`, then as many clips as
    would fit if all beside the arguments grew with them (or one more, where `first` is known to be `close`).
    A number that the compiler refuses, with what it would have taken, gives a better line. Near the limit the
    compiler trades time for memory, so with `prove` the search ends only where one clip more was refused.
    """
    seen: dict[int, Memory] = {}
    clips: int | None = first
    while clips is not None and clips not in seen and len(seen) < MOST_COMPILES:
        seen[clips] = measure(clips)
        clips = _next(seen, capacity, last=clips, close=close, prove=prove)
    return [seen[clips] for clips in sorted(seen)]


def _next(seen: dict[int, Memory], capacity: int, *, last: int, close: bool, prove: bool) -> int | None:
    """The number of clips to compile next, None at the end."""
    fitting = sorted(clips for clips, memory in seen.items() if memory.fits)
    refused = min((clips for clips, memory in seen.items() if not memory.fits), default=None)
    if not fitting:
        assert refused is not None
        return min(refused - 1, refused * capacity // seen[refused].total) or None
    low = fitting[-1]
    if refused == low + 1:
        return None
    if len(seen) == 1:
        room, growing = capacity - seen[low].arguments, seen[low].total - seen[low].arguments
        return low + 1 if close else max(low + 1, low * room // growing)
    other = refused if refused is not None else fitting[-2]
    slope = (seen[other].total - seen[low].total) / (other - low)
    guess = low + max(0, math.floor((capacity - seen[low].total) / slope)) if slope > 0 else low
    if refused is not None:
        return min(max(guess, low + 1), refused - 1)
    if prove:
        return max(guess, low + 1)
    verified = len(seen) > 2 and last == low
    return None if guess == low or verified else guess


def _compiled(lowered: jax.stages.Lowered, clips: int, capacity: int | None) -> Memory:
    started = time.monotonic()
    try:
        analysis: Any = lowered.compile().memory_analysis()  # typed as optional: not every backend has one
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        seconds = time.monotonic() - started
        return Memory(clips, 0, _needed(str(error)), 0, fits=False, seconds=round(seconds, 1))
    new = analysis.output_size_in_bytes - analysis.alias_size_in_bytes  # the rest takes the old state's place
    arguments, code = analysis.argument_size_in_bytes, analysis.generated_code_size_in_bytes
    temporaries = analysis.temp_size_in_bytes + new
    fits = capacity is None or arguments + temporaries + code <= capacity
    return Memory(clips, arguments, temporaries, code, fits, round(time.monotonic() - started, 1))


def _needed(message: str) -> int:
    """Bytes a refused program would have taken: 'Used 17.07G of 15.75G hbm'.

    Raises ValueError for an unknown message.
    """
    found = re.search(r"Used ([\d.]+)([KMG]) of|total memory required[^(]*\(([\d.]+)([KMG])\)", message)
    if found is None:
        raise ValueError(f"the compiler is out of memory, but does not say of how much: {message[:500]}")
    number, unit = (part for part in found.groups() if part)
    return int(float(number) * UNITS[unit])


def _key(program: str, where: Devices) -> str:
    """The same program, devices and compiler: the same memory."""
    versions = {}
    for name in ("jaxlib", "libtpu"):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = ""
    parts = [program, where.name, where.kind, where.num_chips, len(where.devices), versions]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def _write(cache: Path, memory: dict, key: str) -> None:
    """Adds an entry; whole or not at all, and what another process has added meanwhile stays."""
    cache.parent.mkdir(parents=True, exist_ok=True)
    known = json.loads(cache.read_text()) if cache.is_file() else {}
    temporary = cache.with_name(f".{cache.name}.{os.getpid()}")
    temporary.write_text(json.dumps(known | {key: memory}, indent=1))
    os.replace(temporary, cache)
