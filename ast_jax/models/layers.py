"""Linear layers, the GELU and the residual stream's gradient, written so that XLA compiles them well on CPUs.

Left alone, XLA for CPUs joins cheap operations to those that read their result, even where one that reads column by column computes
them anew each time, or slowly. What is `stored` is computed once and written to memory first. Other devices keep XLA's own choice.
`docs/benchmarks.md` has what each of these brought.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

# True while jax2onnx reads the traced program: nothing in it depends on the device then. Part of jit's cache keys.
device_free = jax.make_user_context(default_value=False)


def linear(inputs: int, outputs: int, dtype: str, rngs: nnx.Rngs) -> nnx.Linear:
    """A linear layer that computes in `dtype`; its kernel is normal .02, its bias 0, both float32."""
    return nnx.Linear(
        inputs,
        outputs,
        dtype=jnp.dtype(dtype),
        kernel_init=nnx.initializers.normal(0.02),
        dot_general=_dot_general,
        rngs=rngs,
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def product(
    x: Float[Array, "... I"], kernel: Float[Array, "I O"], options: tuple = ()
) -> Float[Array, "... O"]:
    """x @ kernel, whose kernel's gradient is x^T g; reverse-mode derivatives only.

    JAX's own derivative is (g^T x)^T, for which XLA transposes g in memory. `options`: of `jax.lax.dot_general`, as pairs.
    """
    return _forward(x, kernel, options)[0]


def gelu(x: Array) -> Array:
    """x Phi(x), the exact GELU. In float32 by erf, as PyTorch has it: half the time of `jax.nn.gelu`'s erfc on CPUs."""
    if x.dtype == jnp.float32:
        return 0.5 * x * (1 + jax.lax.erf(x * 0.5**0.5))
    return jax.nn.gelu(x, approximate=False)  # 1 + erf cancels in fewer bits


def stored(x: Any) -> Any:
    """`x`, an array or a tree of them; on CPUs they are written to memory before they are used."""
    if device_free.value:
        return x
    return jax.lax.platform_dependent(x, cpu=jax.lax.optimization_barrier, default=lambda x: x)


@jax.custom_vjp
def with_stored_gradient(x: Array) -> Array:
    """`x`, whose gradient is `stored`.

    For a residual stream: the sum over its branches, LayerNorm's backward pass in it, is else computed once more, column by
    column, inside every transposition it is read by: a third of AST-base's training step.
    """
    return x


with_stored_gradient.defvjp(lambda x: (x, None), lambda _, gradient: (stored(gradient),))


def _dot_general(x: Array, kernel: Array, dimension_numbers: Any, **options: Any) -> Array:
    """What nnx.Linear asks of `jax.lax.dot_general`: the last axis of `x` against the first of `kernel`."""
    return product(x, kernel, tuple(options.items()))


def _forward(x, kernel, options):
    x = stored(x)
    return _contract(x, kernel, (x.ndim - 1,), (0,), options), (x, kernel)


def _backward(options, kept, gradient):
    x, kernel = kept
    rows = tuple(range(x.ndim - 1))
    return (
        _contract(gradient, kernel, (x.ndim - 1,), (1,), options),
        _contract(x, gradient, rows, rows, options),
    )


product.defvjp(_forward, _backward)


def _contract(a, b, a_axes, b_axes, options):
    return jax.lax.dot_general(a, b, ((a_axes, b_axes), ((), ())), **dict(options))
