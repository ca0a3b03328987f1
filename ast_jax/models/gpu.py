"""GELU, LayerNorm, the patch projection, and query, key and value, as XLA compiles them well on GPUs.

B batch, N tokens, D width. What lies between the matrix products waits for memory, so these forms are written
for what they read and write; inside all is float32. docs/benchmarks_tried.md has what each of them brought.
Derivatives of the first two are reverse-mode only: jax.jvp and hessians want the plain forms.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any, cast

import jax
import jax.numpy as jnp
from flax import nnx
from jax.experimental.layout import Layout, with_layout_constraint
from jaxtyping import Array, Float

# What has gone through it is in memory: whoever reads it does not compute it anew.
_stored = jax.lax.optimization_barrier


@jax.custom_vjp
def gelu(x: Float[Array, "*batch H"]) -> Float[Array, "*batch H"]:
    """x Phi(x), whose backward pass finds x alone: left to itself it finds three arrays."""
    y = x.astype(jnp.float32)
    return (y * _phi(y)).astype(x.dtype)


def _backward_gelu(x, gradient):
    y = x.astype(jnp.float32)
    slope = _phi(y) + y * jnp.exp(-0.5 * y * y) * (2 * math.pi) ** -0.5
    return ((gradient.astype(jnp.float32) * slope).astype(x.dtype),)


gelu.defvjp(lambda x: (gelu(x), x), _backward_gelu)


def _phi(x):
    """The normal distribution function."""
    return 0.5 + 0.5 * jax.lax.erf(x * 0.5**0.5)


def norm(layer: Any, x: Float[Array, "B N D"]) -> Float[Array, "B N D"]:
    """An `nnx.LayerNorm` that stores each token's mean and deviation.

    Left to itself, XLA computes them anew in every kernel of the backward pass, and writes a product of two
    activations in float32 for the scale's gradient. Another layer in its place is called as it is.
    """
    if type(layer) is not nnx.LayerNorm:
        return layer(x)
    layer = cast(Any, layer)  # flax types its arrays as optional
    return _norm(x, layer.scale[...], layer.bias[...], layer.epsilon, jnp.dtype(layer.dtype or x.dtype))


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _norm(x, scale, bias, epsilon, dtype):
    return _forward_norm(x, scale, bias, epsilon, dtype)[0]


def _forward_norm(x, scale, bias, epsilon, dtype):
    y = x.astype(jnp.float32)
    mean = y.mean(axis=-1, keepdims=True)
    inverse = jax.lax.rsqrt(jnp.square(y - mean).mean(axis=-1, keepdims=True) + epsilon)
    mean, inverse = _stored((mean, inverse))
    return ((y - mean) * inverse * _row(scale) + _row(bias)).astype(dtype), (x, mean, inverse, scale)


def _backward_norm(epsilon, dtype, kept, gradient):
    x, mean, inverse, scale = kept
    # Two kernels read it.
    gradient = _stored(gradient).astype(jnp.float32)
    normal, slope = (x.astype(jnp.float32) - mean) * inverse, gradient * _row(scale)
    along = (slope * normal).mean(axis=-1, keepdims=True)
    dx = (slope - slope.mean(axis=-1, keepdims=True) - normal * along) * inverse
    return dx.astype(x.dtype), (gradient * normal).sum((0, 1)), gradient.sum((0, 1))


_norm.defvjp(_forward_norm, _backward_norm)


def _row(x):
    """[D] to [1, 1, D]."""
    return x[None, None]


def patches(
    image: Float[Array, "B F T"], kernel: Float[Array, "h w 1 D"], strides: tuple[int, int]
) -> Float[Array, "B f t D"]:
    """Patches gathered, then one product: cuDNN's convolution takes nine times as long.

    The result's order in memory is said: XLA would choose batch last, and the residual stream after it.
    """
    grid = [
        (size - width) // s + 1
        for size, width, s in zip(image.shape[1:], kernel.shape, strides, strict=False)
    ]
    down, along = (
        s * jnp.arange(count)[:, None] + jnp.arange(width)[None]
        for count, width, s in zip(grid, kernel.shape, strides, strict=False)
    )
    parts = image[:, down][..., along].swapaxes(2, 3).reshape(image.shape[0], *grid, -1)
    return with_layout_constraint(parts @ kernel.reshape(parts.shape[-1], -1), Layout((0, 1, 2, 3)))


def qkv(layer: Any, x: Float[Array, "B N D"], num_queries: int | None) -> Sequence[Array]:
    """Query, key and value by a product each, not by one that is copied apart and, backwards, together.

    A layer that is more than a linear one (LoRA, a wrapper of the user's) is called as it is.
    """
    if type(layer) is not nnx.Linear:
        q, k, v = jnp.split(layer(x), 3, axis=-1)
        return q[:, :num_queries], k, v
    # The sum of the three products' gradients is taken here, in float32.
    x = x.astype(jnp.float32)
    parts = lambda variable: jnp.split(variable[...].astype(layer.dtype), 3, axis=-1)
    rows = (x[:, :num_queries], x, x)
    return [
        y.astype(layer.dtype) @ kernel + _row(bias)
        for y, kernel, bias in zip(rows, parts(layer.kernel), parts(layer.bias), strict=True)
    ]
