"""Softmax attention for CPUs: a backward pass of plain products, and heads one at a time where XLA needs that.

B batch, H heads, Q query tokens, N tokens, K head size.

XLA's own derivative of the plain form multiplies by a transposed matrix [N, Q], for which CPUs have no fast kernel (three times as
slow as the same product the right way round, in jax 0.12), and passes five times over the scores. Here weights stay unnormalised
(the division by their sum is done on rows of K numbers, not of N), and each product has its long matrix untransposed: where one must
be, the short matrix and the result are turned round instead.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ast_jax.models.layers import stored

# XLA of jax 0.12 makes one kernel of scores, softmax and values, for all heads at once. An older one writes every score to memory:
# there a head whose scores fill more than this many bytes of cache is worked on alone.
_CACHE = None if jax.__version_info__ >= (0, 12) else 1 << 20


@jax.custom_vjp
def attend_on_cpu(
    q: Float[Array, "B Q H K"], k: Float[Array, "B N H K"], v: Float[Array, "B N H K"]
) -> Float[Array, "B Q H K"]:
    """What `attention.attend` computes, to rounding; reverse-mode derivatives only."""
    return _together(_each_head(_attend_head, _heads(q, k, v))[0], q.shape[0])


def _forward(q, k, v):
    heads = _heads(q, k, v)
    out, weights, total = _each_head(_attend_head, heads)
    return _together(out, q.shape[0]), (*heads, out, weights, total)


def _backward(kept, gradient):
    batch, head_size = gradient.shape[0], gradient.shape[-1]
    dq, dk, dv = _each_head(_head_gradients, (*kept, _by_head(gradient)))
    return tuple(_together(x, batch) for x in (dq * head_size**-0.5, dk, dv))


attend_on_cpu.defvjp(_forward, _backward)


def _attend_head(q, k, v):
    """One head's output [Q, K], its weights before normalisation [Q, N] and their sums [Q, 1], in float32 but for the weights."""
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
    slopes = stored((weights * slopes).astype(v.dtype))
    turned_q, turned_gradient = stored((q.T, gradient.T))
    dk, dv = stored((turned_q @ slopes, turned_gradient @ weights))
    return slopes @ k, dk.T, dv.T


def _each_head(function, arrays):
    """`function` over the leading axis, batch x heads: all at once, or one after the other where `_CACHE` says so."""
    num_scores = arrays[0].shape[1] * arrays[1].shape[1]
    if _CACHE is None or 4 * num_scores < _CACHE:
        return jax.vmap(function)(*arrays)
    return jax.lax.map(lambda head: function(*head), arrays)


def _heads(q, k, v):
    """Query (scaled), key and value, heads in front."""
    return _by_head(q * q.shape[-1] ** -0.5), _by_head(k), _by_head(v)


def _by_head(x):
    """[B, N, H, K] to [B H, N, K]."""
    return x.swapaxes(1, 2).reshape(-1, x.shape[1], x.shape[3])


def _together(x, batch: int):
    """[B H, N, K] to [B, N, H, K]."""
    return x.reshape(batch, -1, *x.shape[1:]).swapaxes(1, 2)
