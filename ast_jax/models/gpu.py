"""GELU, LayerNorm, the patch projection and query, key and value as XLA compiles them well on GPUs.

B batch, N tokens, D width, H hidden. What lies between the matrix products waits for memory, so each form here is
written for what it reads and writes. Inside all is float32. docs/benchmarks.md has what each of these brought.
Derivatives of the first two are reverse-mode only: jax.jvp and hessians want the plain forms.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.layout import Layout, with_layout_constraint
from jaxtyping import Array, Float

# What has gone through it is not computed once more for whoever reads it.
_stored = jax.lax.optimization_barrier


@jax.custom_vjp
def gelu(x: Float[Array, "B N H"]) -> Float[Array, "B N H"]:
    """x Phi(x), of which the backward pass finds x alone; left alone it finds three arrays."""
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
    """An `nnx.LayerNorm` that keeps each token's mean and deviation: left alone, XLA computes them anew in every kernel
    of the backward pass that wants them."""
    dtype = jnp.dtype(layer.dtype or x.dtype)
    return _norm(x, layer.scale[...], layer.bias[...], layer.epsilon, dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _norm(x, scale, bias, epsilon, dtype):
    return _forward_norm(x, scale, bias, epsilon, dtype)[0]


def _forward_norm(x, scale, bias, epsilon, dtype):
    y = x.astype(jnp.float32)
    mean = y.mean(axis=-1, keepdims=True)
    inverse = jax.lax.rsqrt(jnp.square(y - mean).mean(axis=-1, keepdims=True) + epsilon)
    mean, inverse = _stored((mean, inverse))
    return ((y - mean) * inverse * scale + bias).astype(dtype), (x, mean, inverse, scale)


def _backward_norm(epsilon, dtype, kept, gradient):
    x, mean, inverse, scale = kept
    # Two kernels read it.
    gradient, rows = _stored(gradient).astype(jnp.float32), tuple(range(x.ndim - 1))
    normal = (x.astype(jnp.float32) - mean) * inverse
    slope = gradient * scale
    along = (slope * normal).mean(axis=-1, keepdims=True)
    shift = slope.mean(axis=-1, keepdims=True)
    dx = (slope - shift - normal * along) * inverse
    return dx.astype(x.dtype), (gradient * normal).sum(rows), gradient.sum(rows)


_norm.defvjp(_forward_norm, _backward_norm)


def patches(image: Float[Array, "B F T"], kernel: Float[Array, "f t 1 D"], strides: tuple[int, int]) -> Array:
    """[B, rows, columns, D]: patches gathered, then one product. cuDNN's convolution takes nine times as long."""
    at = lambda size, width, stride: jnp.arange(0, size - width + 1, stride)[:, None] + jnp.arange(width)
    down, along = map(at, image.shape[1:], kernel.shape[:2], strides)
    parts = image[:, down][..., along].swapaxes(2, 3)
    shape, inside = parts.shape[:3], parts.shape[3] * parts.shape[4]
    out = parts.reshape(*shape, inside) @ kernel.reshape(inside, -1)
    return with_layout_constraint(out, Layout((0, 1, 2, 3)))


def qkv(layer: Any, x: Float[Array, "B N D"], num_queries: int | None) -> list[Array]:
    """Query, key and value by a product each, not by one that is copied apart and, on the way back, together."""
    # The sum of three gradients is taken here, in float32.
    x = x.astype(jnp.float32)
    parts = lambda variable: jnp.split(variable[...].astype(layer.dtype), 3, axis=-1)
    rows = (x[:, :num_queries], x, x)
    return [
        y.astype(layer.dtype) @ kernel + bias
        for y, kernel, bias in zip(rows, parts(layer.kernel), parts(layer.bias), strict=True)
    ]
