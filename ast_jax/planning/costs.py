"""What one clip costs before anything is compiled: activations kept for the backward pass.

B batch.
"""

import functools
import math

import jax
import jax.numpy as jnp
from flax import nnx

from ast_jax.models import AST, ASTConfig, merge, split
from ast_jax.models.attention import Attend


def num_parameters(config: ASTConfig) -> int:
    return sum(math.prod(param.shape) for param in _abstract(config)[1].values())


def activation_bytes(config: ASTConfig, attend: Attend) -> int:
    """Bytes that automatic differentiation keeps of one clip between the forward and the backward pass.

    From shapes alone: what a batch of two keeps beyond a batch of one, so that parameters, kept once, drop out. The compiler
    fuses and recomputes some of it, and adds what it works in: the compiled step's own figure is the one to plan with.
    """
    one, two = (_residual_bytes(config, attend, batch) for batch in (1, 2))
    return two - one


def _residual_bytes(config: ASTConfig, attend: Attend, batch: int) -> int:
    graphdef, params = _abstract(config)
    x = jax.ShapeDtypeStruct((batch, config.num_frames, config.num_mel_bins), jnp.float32)

    def backward(params, x):
        return jax.vjp(lambda params: merge(graphdef, params)(x, attend=attend), params)[1]

    kept = jax.tree.leaves(jax.eval_shape(backward, params, x))
    return sum(leaf.size * leaf.dtype.itemsize for leaf in kept)


@functools.lru_cache(maxsize=8)
def _abstract(config: ASTConfig):
    return split(nnx.eval_shape(lambda: AST(config, rngs=nnx.Rngs(0))))
