"""The device's own form of attention against the plain one: is it right, and how fast, both ways?

B batch, N tokens, H heads, K head size.
"""

from typing import Any

import jax
import jax.numpy as jnp

from ast_jax.models.attention import Attend, attend
from benchmarks import timing

HEADS, HEAD_SIZE = 12, 64
MOST = 2  # times the plain form's own error in 16 bits: another order of the same sums


def check(form: Attend, tokens: int, batch: int = 2) -> dict[str, Any]:
    """Errors of output and gradients, as shares of the norm of what float32 gives.

    `right` where they are at most MOST times the plain form's.
    """
    arrays = _inputs(batch, tokens)
    with jax.default_matmul_precision("highest"):
        truth = _both(attend)(*(x.astype(jnp.float32) for x in arrays))
    names = ("out", "dq", "dk", "dv")
    errors = {
        name: dict(zip(names, map(_error, _both(function)(*arrays), truth), strict=True))
        for name, function in (("form", form), ("plain", attend))
    }
    right = all(errors["form"][name] <= MOST * errors["plain"][name] + 1e-3 for name in names)
    return {"tokens": tokens, "right": right, "errors": errors}


def times(form: Attend, tokens: int, batch: int) -> dict[str, Any]:
    """Milliseconds of both forms, forward and both ways, in turn; TFLOP/s of the device's own."""
    arrays = _inputs(batch, tokens)
    calls = {}
    for name, function in (("form", form), ("plain", attend)):
        forward, both = jax.jit(function), _both(function)
        calls[f"{name}, forward"] = lambda forward=forward: jax.block_until_ready(forward(*arrays))
        calls[f"{name}, both"] = lambda both=both: jax.block_until_ready(both(*arrays))
    seconds = timing.in_turn(calls, repeats=3)
    flops = 4 * batch * HEADS * tokens**2 * HEAD_SIZE
    rates = {
        "forward": flops / seconds["form, forward"] / 1e12,
        "both": 3.5 * flops / seconds["form, both"] / 1e12,
    }
    return {
        "tokens": tokens,
        "batch": batch,
        "ms": {name: 1e3 * value for name, value in seconds.items()},
        "tflops": rates,
    }


def _both(form: Attend):
    """Output and the gradients of all three, for a gradient of the output that is no function of them."""

    def both(q, k, v):
        out, pull = jax.vjp(form, q, k, v)
        return out, *pull(
            jnp.cos(jnp.arange(out.size, dtype=jnp.float32)).reshape(out.shape).astype(out.dtype)
        )

    return jax.jit(both)


def _error(x: jax.Array, truth: jax.Array) -> float:
    x = x.astype(jnp.float32)
    return float(jnp.linalg.norm((x - truth).ravel()) / jnp.linalg.norm(truth.ravel()))


def _inputs(batch: int, tokens: int) -> list[jax.Array]:
    shape = (batch, tokens, HEADS, HEAD_SIZE)
    return [jax.random.normal(key, shape, jnp.bfloat16) for key in jax.random.split(jax.random.key(0), 3)]
