"""Whether a device's own forms of costly operations compute what the plain ones do, on small shapes, forward
and backward, in each type: found once per device and version, and kept.

A form that fails or disagrees is left aside, with a line: hardware that nobody here has seen gives right
answers slowly, not wrong ones fast.
"""

import dataclasses
import functools
import hashlib
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ast_jax.cache import cache_directory
from ast_jax.errors import InputError

# Largest difference, as a share of the plain form's norm: of float32 what a TPU loses, which multiplies it in
# passes of bfloat16; of bfloat16 some roundings of 1/256. A form that is wrong is off by its own size.
MOST = {"float32": 1e-2, "bfloat16": 3e-2}
_BATCH, _TOKENS, _HEADS, _HEAD = 2, 140, 2, 64
_WIDTH = _HEADS * _HEAD
_REPEATS = 5
_KEPT = "kernels.json"
_SOURCES = ("attention.py", "checks.py", "cpu.py", "gpu.py", "kernels.py")


@dataclasses.dataclass(frozen=True)
class Check:
    """One form in one type: shares by which it differs from the plain one, or why it does not run; and
    milliseconds of both, forward and backward, where they were measured.
    """

    operation: str
    dtype: str
    forward: float = float("nan")
    backward: float = float("nan")
    failed: str = ""
    form_ms: float | None = None
    plain_ms: float | None = None

    @property
    def problem(self) -> str:
        """Why the form is not to be used; empty where it is right."""
        if self.failed:
            return f"{self.dtype}: {self.failed}"
        for what, share in (("forward", self.forward), ("backward", self.backward)):
            # a share that is no number is none that is small enough
            if not share <= MOST[self.dtype]:
                return f"{self.dtype}, {what}: differs from the plain form by {share:.2g} of its size"
        return ""


def checks(forms: Any, plain: Any, device: jax.Device, *, timed: bool = False) -> list[Check]:
    """A row for each operation of which `forms` (two `Kernels`) has one that is not plain, and each type."""
    own = [name for name in _CALLS if getattr(forms, name) is not getattr(plain, name)]
    return [_check(name, forms, plain, dtype, device, timed) for name in own for dtype in MOST]


def trusted(forms: Any, alone: Any, plain: Any, device: jax.Device) -> Any:
    """`forms` without those that this device fails at, told in a line each; `alone` are the same for a
    program on this device alone. Devices that are not here (a program compiled ahead of time) are believed.

    Raises InputError where one of several processes finds one wrong: all must run the same program.
    """
    if os.environ.get("AST_JAX_KERNELS") == "plain":
        return dataclasses.replace(plain, batch_axis=forms.batch_axis)
    if alone == plain or not _is_here(device):
        return forms
    problems = _remembered(alone, plain, device)
    for name, problem in problems.items():
        line = f"{device.device_kind}: its own form of {name} is left aside for the plain one ({problem})"
        print(f"{line}; `python -m ast_jax doctor` has the rest", file=sys.stderr)
    if problems and jax.process_count() > 1:
        raise InputError(
            f"{', '.join(problems)}: wrong on this host, and all hosts must run one program: set "
            "AST_JAX_KERNELS=plain on every one"
        )
    return dataclasses.replace(forms, **{name: getattr(plain, name) for name in problems})


def _is_here(device: Any) -> bool:
    return device in jax.local_devices() or device in jax.local_devices(backend="cpu")


def _remembered(forms: Any, plain: Any, device: jax.Device) -> dict[str, str]:
    """{operation: what is wrong with it}, from the cache or found now."""
    path, key = cache_directory() / _KEPT, _key(device)
    if key in (known := _kept(path)):
        return known[key]
    # in the middle of another program's making too
    with jax.ensure_compile_time_eval():
        found = checks(forms, plain, device)
    problems = {check.operation: check.problem for check in reversed(found) if check.problem}
    _keep(path, key, problems)
    return problems


def _key(device: jax.Device) -> str:
    """The device, its driver, jax and what the forms are made of."""
    sources = [Path(__file__).with_name(name).read_bytes() for name in _SOURCES]
    digest = hashlib.blake2b(b"".join(sources), digest_size=8).hexdigest()
    client = getattr(device, "client", None)
    return " | ".join([device.device_kind, getattr(client, "platform_version", ""), jax.__version__, digest])


def _kept(path: Path) -> dict[str, dict[str, str]]:
    """What is known of every device; nothing where the file is not there or damaged."""
    try:
        known = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def _keep(path: Path, key: str, problems: dict[str, str]) -> None:
    """A cache that cannot be written costs the check again."""
    part = path.with_suffix(f".{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(json.dumps({**_kept(path), key: problems}, indent=1))
        part.replace(path)
    except OSError as error:
        print(f"{path} cannot be written ({error.strerror}): kernels are checked anew", file=sys.stderr)


# ---- One operation


def _draw(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def _attend(form: Any, x: Any, kernel: Any) -> Any:
    q, k, v = jnp.split((x @ kernel).reshape(_BATCH, _TOKENS, 3 * _HEADS, _HEAD), 3, axis=2)
    return form(q, k, v)


def _linear(form: Any, x: Any, kernel: Any) -> Any:
    return form(x, kernel, (((2,), (0,)), ((), ())))


def _norm(form: Any, x: Any, scale: Any) -> Any:
    layer = nnx.LayerNorm(_WIDTH, dtype=x.dtype, rngs=nnx.Rngs(0))
    layer.scale = nnx.Param(scale)
    return form(layer, x)


def _qkv(form: Any, x: Any, kernel: Any) -> Any:
    layer = nnx.Linear(_WIDTH, 3 * _WIDTH, dtype=x.dtype, rngs=nnx.Rngs(0))
    layer.kernel = nnx.Param(kernel)
    return jnp.concatenate([part.astype(jnp.float32) for part in form(layer, x, None)], axis=-1)


_X = _draw(_BATCH, _TOKENS, _WIDTH)
_THREE = _draw(_WIDTH, 3 * _WIDTH, seed=1) / _WIDTH**0.5
# how each is called, and with what
_CALLS: dict[str, tuple[Callable[..., Any], tuple[np.ndarray, ...]]] = {
    "attend": (_attend, (_X, _THREE)),
    "linear": (_linear, (_X, _THREE)),
    "residual": (lambda form, x: form(x) * x, (_X,)),
    "gelu": (lambda form, x: form(x), (_X,)),
    "norm": (_norm, (_X, 1 + _draw(_WIDTH, seed=2) / 4)),
    "patches": (
        lambda form, image, kernel: form(image, kernel, (10, 10)),
        (_draw(2, 48, 60), _draw(16, 16, 1, 64, seed=3) / 16),
    ),
    "depthwise": (
        lambda form, image, kernel: form(image, kernel, 2, (1, 2)),
        (_draw(2, 17, 24, 16, seed=4), _draw(5, 5, 1, 16, seed=5) / 5),
    ),
    "qkv": (_qkv, (_X, _THREE)),
}


def _check(name: str, forms: Any, plain: Any, dtype: str, device: jax.Device, timed: bool) -> Check:
    call, drawn = _CALLS[name]
    arrays = [jax.device_put(jnp.asarray(x, dtype), device) for x in drawn]

    def judged(form: Any, *arrays: Any) -> Any:
        """Outputs, and gradients of a sum of them that weighs each by another number."""

        def loss(*arrays: Any) -> Any:
            out = call(form, *arrays).astype(jnp.float32)
            weights = jnp.cos(jnp.arange(out.size, dtype=jnp.float32)).reshape(out.shape)
            return (out * weights).sum(), out

        gradients, out = jax.grad(loss, argnums=tuple(range(len(arrays))), has_aux=True)(*arrays)
        return out, gradients

    both = {"form": forms, "plain": plain}
    run = {which: jax.jit(functools.partial(judged, getattr(k, name))) for which, k in both.items()}
    try:
        (out, gradients), (wanted, wanted_gradients) = (jax.device_get(run[which](*arrays)) for which in run)
    except Exception as error:  # whatever a kernel fails with, it is not to be used
        words = str(error).strip().partition("\n")[0][:200]
        return Check(name, dtype, failed=f"{type(error).__name__}: {words}")
    shares = [_share(mine, theirs) for mine, theirs in zip(gradients, wanted_gradients, strict=True)]
    found = Check(name, dtype, _share(out, wanted), float(np.max(shares)))
    if not timed:
        return found
    form_ms, plain_ms = (_milliseconds(functools.partial(function, *arrays)) for function in run.values())
    return dataclasses.replace(found, form_ms=form_ms, plain_ms=plain_ms)


def _share(x: np.ndarray, wanted: np.ndarray) -> float:
    difference = np.asarray(x, np.float32) - np.asarray(wanted, np.float32)
    return float(np.linalg.norm(difference) / np.linalg.norm(np.asarray(wanted, np.float32)))


def _milliseconds(function: Callable[[], Any]) -> float:
    """The best of some, which were compiled before."""
    spent = []
    for _ in range(_REPEATS):
        began = time.perf_counter()
        jax.block_until_ready(function())
        spent.append(1e3 * (time.perf_counter() - began))
    return min(spent)
