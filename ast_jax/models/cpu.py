"""Attention, linear layers, the residual stream and depthwise convolutions as XLA compiles them well on CPUs;
other devices take the plain forms.

B batch, H heads, Q query tokens, N tokens, K head size; of images H height, W width, C channels.

Left alone, XLA for CPUs joins cheap operations to those that read their result, even where one that reads
column by column computes them anew each time, or slowly. What is `_stored` is computed once and written to
memory first. docs/benchmarks_tried.md has what each of these brought. Derivatives are reverse-mode only:
jax.jvp and hessians want the plain forms.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

_stored = jax.lax.optimization_barrier

# ---- Linear layers


def linear(x: Array, kernel: Array, dimension_numbers: Any, **options: Any) -> Array:
    """What nnx.Linear asks of `jax.lax.dot_general`: the last axis of `x` against the first of `kernel`."""
    return _product(x, kernel, tuple(options.items()))


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _product(x: Float[Array, "... I"], kernel: Float[Array, "I O"], options: tuple) -> Float[Array, "... O"]:
    """x @ kernel, whose kernel's gradient is x^T g: JAX's own is (g^T x)^T, for which XLA transposes g in
    memory.
    """
    return _forward_product(x, kernel, options)[0]


def _forward_product(x, kernel, options):
    x = _stored(x)
    return _contract(x, kernel, (x.ndim - 1,), (0,), options), (x, kernel)


def _backward_product(options, kept, gradient):
    x, kernel = kept
    rows = tuple(range(x.ndim - 1))
    return (
        _contract(gradient, kernel, (x.ndim - 1,), (1,), options),
        _contract(x, gradient, rows, rows, options),
    )


_product.defvjp(_forward_product, _backward_product)


def _contract(a, b, a_axes, b_axes, options):
    return jax.lax.dot_general(a, b, ((a_axes, b_axes), ((), ())), **dict(options))


@jax.custom_vjp
def with_stored_gradient(x: Array) -> Array:
    """`x`, whose gradient is written to memory before it is used.

    For a residual stream: the sum over its branches, LayerNorm's backward pass in it, is else computed once
    more, column by column, inside every transposition it is read by: a third of AST-base's training step.
    """
    return x


with_stored_gradient.defvjp(lambda x: (x, None), lambda _, gradient: (_stored(gradient),))

# ---- Convolutions of each channel by itself


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def depthwise(
    x: Float[Array, "B H W C"], kernel: Float[Array, "k k 1 C"], stride: int, padding: tuple[int, int]
) -> Float[Array, "B _ _ C"]:
    """What `kernels.depthwise` computes, to rounding: a sum of shifted images, each times one row of weights.

    XLA has one loop without vectors for a convolution of many groups, 10 to 40 times as slow.
    """
    return _forward_depthwise(x, kernel, stride, padding)[0]


def _shifted_sum(x, kernel, stride, padding):
    weights = kernel.astype(jnp.float32).reshape(-1, 1, 1, 1, kernel.shape[3])
    shifts = _shifts(jnp.pad(x, ((0, 0), padding, padding, (0, 0))), kernel.shape[0], stride)
    return sum(part * row for part, row in zip(shifts, weights, strict=True)).astype(x.dtype)


def _shifts(padded, size: int, stride: int):
    """For each place of the kernel, what of the padded image it meets."""
    height, width = _reach(padded, size, stride)
    return [
        padded[:, i : i + height : stride, j : j + width : stride] for i in range(size) for j in range(size)
    ]


def _reach(padded, size: int, stride: int) -> tuple[int, int]:
    """Rows and columns from the first to the last that one place of the kernel meets."""
    height, width = ((length - size) // stride * stride + 1 for length in padded.shape[1:3])
    return height, width


def _forward_depthwise(x, kernel, stride, padding):
    x = _stored(x)
    return _shifted_sum(x, kernel, stride, padding), (x, kernel)


def _backward_depthwise(stride, padding, kept, gradient):
    x, kernel = kept
    gradient = _stored(gradient)
    size = kernel.shape[0]
    # a sum of shifted images too, the kernel turned round: JAX's own derivative writes each of its terms to
    # memory
    before = size - 1 - padding[0]
    around = []
    for length, out in zip(x.shape[1:3], gradient.shape[1:3], strict=True):
        around.append((before, length + size - 1 - before - ((out - 1) * stride + 1), stride - 1))
    spread = jax.lax.pad(gradient, jnp.zeros((), gradient.dtype), [(0, 0, 0), *around, (0, 0, 0)])
    dx = _shifted_sum(spread, kernel[::-1, ::-1], 1, (0, 0))
    padded = jnp.pad(x, ((0, 0), padding, padding, (0, 0)))
    height, width = _reach(padded, size, stride)

    def of_place(place):
        start = (0, place // size, place % size, 0)
        part = jax.lax.dynamic_slice(padded, start, (len(x), height, width, x.shape[3]))
        return (part[:, ::stride, ::stride] * gradient).sum(axis=(0, 1, 2), dtype=jnp.float32)

    # one place of the kernel after the other: side by side their products fill as much memory as the model
    sums = jax.lax.map(of_place, jnp.arange(size * size))
    return dx, sums.reshape(kernel.shape).astype(kernel.dtype)


depthwise.defvjp(_forward_depthwise, _backward_depthwise)

# ---- Attention

# XLA of jax 0.12 makes one kernel of scores, softmax and values, for all heads at once. An older one writes
# every score to memory: there a head whose scores fill more than this many bytes of cache is worked on alone.
_CACHE = None if jax.__version_info__ >= (0, 12) else 1 << 20


@jax.custom_vjp
def attend(
    q: Float[Array, "B Q H K"], k: Float[Array, "B N H K"], v: Float[Array, "B N H K"]
) -> Float[Array, "B Q H K"]:
    """What `attention.attend` computes, to rounding: a backward pass of plain products, heads one by one
    where XLA needs it.

    XLA's own derivative multiplies by a transposed matrix [N, Q], for which CPUs have no fast kernel (three
    times as slow as the same product the right way round, in jax 0.12), and passes five times over the
    scores. Here weights stay unnormalised (the division by their sum is done on rows of K numbers, not of N),
    and each product has its long matrix untransposed: where one must be, the short matrix and the result are
    turned round instead.
    """
    return _tokens_first(_each_head(_attend_head, _heads(q, k, v))[0], q.shape[0])


def _forward_attention(q, k, v):
    heads = _heads(q, k, v)
    out, weights, total = _each_head(_attend_head, heads)
    return _tokens_first(out, q.shape[0]), (*heads, out, weights, total)


def _backward_attention(kept, gradient):
    batch, head_size = gradient.shape[0], gradient.shape[-1]
    dq, dk, dv = _each_head(_head_gradients, (*kept, _heads_first(gradient)))
    return tuple(_tokens_first(x, batch) for x in (dq * head_size**-0.5, dk, dv))


attend.defvjp(_forward_attention, _backward_attention)


def _attend_head(q, k, v):
    """One head's output [Q, K], weights before normalisation [Q, N] and their sums [Q, 1], float32 but for
    the weights.
    """
    scores = jnp.matmul(q, k.T, preferred_element_type=jnp.float32)
    weights = jnp.exp(scores - scores.max(axis=-1, keepdims=True))
    total = weights.sum(axis=-1, keepdims=True)
    weights = weights.astype(v.dtype)
    out = jnp.matmul(weights, v, preferred_element_type=jnp.float32) / total
    return out.astype(v.dtype), weights, total


def _head_gradients(q, k, v, out, weights, total, gradient):
    """Of one head's query (scaled), key and value."""
    gradient = (gradient / total).astype(v.dtype)
    along = (gradient * out).sum(axis=-1, keepdims=True, dtype=jnp.float32)
    slopes = jnp.matmul(gradient, v.T, preferred_element_type=jnp.float32) - along
    slopes = _stored((weights * slopes).astype(v.dtype))
    turned_q, turned_gradient = _stored((q.T, gradient.T))
    dk, dv = _stored((turned_q @ slopes, turned_gradient @ weights))
    return slopes @ k, dk.T, dv.T


def _each_head(function, arrays):
    """`function` over the leading axis, batch x heads: all at once, or one after the other where `_CACHE`
    says so.
    """
    num_scores = arrays[0].shape[1] * arrays[1].shape[1]
    if _CACHE is None or 4 * num_scores < _CACHE:
        return jax.vmap(function)(*arrays)
    return jax.lax.map(lambda head: function(*head), arrays)


def _heads(q, k, v):
    """Query (scaled), key and value, heads in front."""
    return _heads_first(q * q.shape[-1] ** -0.5), _heads_first(k), _heads_first(v)


def _heads_first(x):
    """[B, N, H, K] to [B H, N, K]."""
    return x.swapaxes(1, 2).reshape(-1, x.shape[1], x.shape[3])


def _tokens_first(x, batch: int):
    """[B H, N, K] to [B, N, H, K]."""
    return x.reshape(batch, -1, *x.shape[1:]).swapaxes(1, 2)
