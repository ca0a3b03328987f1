"""The forms of operations that a GPU is given, against the plain ones: right, and each one's time.

B batch, T frames, F mel bins.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from ast_jax.models import ASTConfig, merge, using
from ast_jax.models.kernels import PLAIN, Kernels
from benchmarks import ours, timing

NAMES = ("gelu", "norm", "patches", "qkv")
# Products by cuBLASLt, with bias and residual added inside, instead of by what XLA finds faster without.
CUBLAS = {"xla_gpu_enable_triton_gemm": False}


def without(forms: Kernels, names: tuple[str, ...] = NAMES) -> Kernels:
    """`forms` with the plain form of each of `names`."""
    return dataclasses.replace(forms, **{name: getattr(PLAIN, name) for name in names})


def only(forms: Kernels, name: str) -> Kernels:
    """Of NAMES, `forms` has one."""
    return without(forms, tuple(other for other in NAMES if other != name))


def check(config: ASTConfig, forms: Kernels, batch: int = 4) -> dict[str, Any]:
    """Errors of logits and of all gradients in 16 bits, as shares of the norm of what float32 gives.

    Of a model of two blocks. `right` where they are at most a tenth above the plain forms'.
    """
    config = dataclasses.replace(config, depth=2)
    params, x = jax.device_put((ours.graph_and_params(config)[1], ours.clips(config, batch)[0]))
    exact = dataclasses.replace(config, dtype="float32")
    with jax.default_matmul_precision("highest"):
        truth = _both(exact, PLAIN)(params, x)
    variants = {"all": forms, "plain": without(forms)}
    errors = {name: _errors(_both(config, form)(params, x), truth) for name, form in variants.items()}
    ratios = {kind: errors["all"][kind] / max(plain, 1e-9) for kind, plain in errors["plain"].items()}
    return {"right": max(ratios.values()) <= 1.1, "ratios": ratios, "errors": errors}


def times(config: ASTConfig, forms: Kernels, batch: int, depth: int) -> dict[str, Any]:
    """Milliseconds of a training step of `depth` blocks with no form, each and all, in turn."""
    config = dataclasses.replace(config, depth=depth)
    step = lambda form, options=None: ours.TrainStep(config, batch, forms=form, options=options)
    steps = {"plain": step(without(forms))} | {name: step(only(forms, name)) for name in NAMES}
    steps |= {"all": step(forms)}
    if jax.default_backend() == "gpu":
        steps["all, cuBLAS"] = step(forms, CUBLAS)
    seconds = timing.in_turn({name: value.run for name, value in steps.items()}, repeats=4)
    ms = {name: 1e3 * value / steps[name].steps for name, value in seconds.items()}
    saved = {name: ms["plain"] - value for name, value in ms.items()}
    # The last block, whose rows nobody reads, counts for little.
    of_base = {
        name: value if name == "patches" else value * 11 / (depth - 1) for name, value in saved.items()
    }
    memory = {name: value.temporaries_gb for name, value in steps.items()}
    return {"depth": depth, "ms": ms, "saved_of_12_blocks_ms": of_base, "temporaries_gb": memory}


def _both(config: ASTConfig, forms: Kernels):
    """Logits, and the gradients of all parameters for one of the logits that is no function of them."""
    graphdef, _ = ours.graph_and_params(config)

    def both(params, x):
        with using(forms):
            logits, pull = jax.vjp(lambda params: merge(graphdef, params)(x)[0], params)
            (gradients,) = pull(jnp.cos(jnp.arange(logits.size, dtype=jnp.float32)).reshape(logits.shape))
        return {"logits": logits} | gradients

    return jax.jit(both)


def _errors(found: dict[str, jax.Array], truth: dict[str, jax.Array]) -> dict[str, float]:
    """By what the parameters are: weights, biases, scales, ..."""
    kinds = {path: path.rpartition("/")[2] for path in truth}
    squares = lambda tree, kind: sum(float(jnp.vdot(x, x)) for path, x in tree.items() if kinds[path] == kind)
    apart = {path: found[path].astype(jnp.float32) - truth[path] for path in truth}
    return {
        kind: (squares(apart, kind) / max(squares(truth, kind), 1e-30)) ** 0.5
        for kind in sorted(set(kinds.values()))
    }
