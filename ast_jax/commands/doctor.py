"""`doctor`: what this machine has and what of it is used, for whoever asks why something is slow or fails."""

import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

from ast_jax import system
from ast_jax.cache import cache_directory
from ast_jax.commands.cli import Flag

# What an answer depends on, then what it takes for some commands alone.
_LIBRARIES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "librosa", "soundfile")
_OPTIONAL = {
    "scikit-learn": "probe, crossval --groups",
    "fastapi": "serve",
    "torch": "parity of a convert",
    "onnxruntime": "convert --to=onnx",
    "litert-converter": "convert --to=litert",
    "jax-cuda13-plugin": "NVIDIA GPUs",
    "libtpu": "TPUs",
}
_ADDRESS_TIME_S = 5.0


def doctor(
    *,
    offline: Annotated[bool, Flag("do not ask whether the hub answers")] = False,
) -> None:
    """Tells versions, devices, what their kernels compute beside the plain forms, decoders, caches, network.

      python -m ast_jax doctor

    Status 1 where a kernel of this device is wrong or fails: the plain form is used in its place, here and by
    every other command (AST_JAX_KERNELS=plain uses no other anywhere).
    """
    for line in (*_versions(), *_decoders(), *_caches(), *_network(offline)):
        print(line, flush=True)
    if wrong := _tell_devices():
        print(f"{wrong} kernels are not used: they fail or disagree here; please report this output")
        sys.exit(1)


def _versions() -> Iterator[str]:
    release = f"{platform.system()} {platform.release()}"
    yield f"Python     {platform.python_version()} on {release}, {system.cores()} cores{_memory()}"
    yield "libraries  " + ", ".join(f"{name} {_version(name) or 'absent'}" for name in _LIBRARIES)
    for name, use in _OPTIONAL.items():
        yield f"           {name} {_version(name) or 'absent'} ({use})"


def _memory() -> str:
    if not hasattr(os, "sysconf") or "SC_PHYS_PAGES" not in os.sysconf_names:
        return ""
    return f", {os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30:.0f} GiB"


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _decoders() -> Iterator[str]:
    import soundfile

    kinds = ", ".join(kind.lower() for kind in sorted(soundfile.available_formats()))
    yield f"decoders   libsndfile {soundfile.__libsndfile_version__}: {kinds}"
    if program := shutil.which("ffmpeg"):
        told = subprocess.run([program, "-version"], capture_output=True, text=True, check=False).stdout
        yield f"           {' '.join(told.split()[:3])}: m4a, webm, wma, amr, the sound of videos"
    else:
        yield "           no ffmpeg on the PATH: m4a, webm, wma, amr and videos are refused"


def _caches() -> Iterator[str]:
    places = {"this program's": cache_directory()}
    if weights := os.environ.get("AST_JAX_CACHE"):
        places["checkpoints (AST_JAX_CACHE)"] = Path(weights)
    for what, place in places.items():
        held = [path.stat().st_size for path in place.rglob("*") if path.is_file()] if place.exists() else []
        yield f"caches     {place}: {what}, {len(held)} files of {sum(held) / 1e6:,.0f} MB"


def _network(offline: bool) -> Iterator[str]:
    from huggingface_hub import constants

    if offline or constants.HF_HUB_OFFLINE:
        yield "network    not asked (--offline or HF_HUB_OFFLINE)"
        return
    request = urllib.request.Request(constants.ENDPOINT, method="HEAD")
    try:
        with urllib.request.urlopen(request, timeout=_ADDRESS_TIME_S):
            yield f"network    {constants.ENDPOINT} answers"
    except (OSError, urllib.error.URLError) as error:
        why = getattr(error, "reason", error)
        yield f"network    {constants.ENDPOINT} does not answer ({why}): checkpoints by name only if cached"


def _tell_devices() -> int:
    """Each kind of device here with its kernels; how many of these are wrong."""
    import jax

    from ast_jax.models.base import best_dtype
    from ast_jax.models.kernels import PLAIN, offered

    wrong = 0
    kinds = {device.device_kind: device for device in jax.local_devices()}
    for kind, device in kinds.items():
        count = sum(other.device_kind == kind for other in jax.local_devices())
        told = f"{count} x {kind} ({device.platform}){_device_memory(device)}"
        print(f"devices    {told}: trains and hears in {best_dtype('ast', device)}", flush=True)
        wrong += _tell_kernels(offered(device), PLAIN, device)
    return wrong


def _device_memory(device: Any) -> str:
    stated = device.memory_stats() or {}
    return f", {stated['bytes_limit'] / 2**30:.0f} GiB" if "bytes_limit" in stated else ""


def _tell_kernels(forms: Any, plain: Any, device: Any) -> int:
    from rich.console import Console
    from rich.table import Table

    from ast_jax.models.checks import checks

    if forms == plain:
        print("           no kernels of its own: the plain forms are used")
        return 0
    found = checks(forms, plain, device, timed=True)
    table = Table("kernel", "type", "differs by", "gradient by", "ms", "plain ms", "used")
    for check in found:
        numbers = [f"{check.forward:.1e}", f"{check.backward:.1e}"]
        times = ["-" if ms is None else f"{ms:.2f}" for ms in (check.form_ms, check.plain_ms)]
        table.add_row(check.operation, check.dtype, *numbers, *times, check.problem or "yes")
    Console(highlight=False).print(table)
    return len({check.operation for check in found if check.problem})
