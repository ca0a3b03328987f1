"""What one clip costs before anything is compiled: activations kept for the backward pass.

B batch.
"""

from typing import Any

import jax
import jax.numpy as jnp

from ast_jax.models import merge, split
from ast_jax.models.kernels import Kernels, using


def activation_bytes(model: Any, forms: Kernels) -> int:
    """Bytes that automatic differentiation keeps of one clip between the forward and the backward pass.

    From shapes alone: what a batch of two keeps beyond a batch of one, so that parameters, kept once, drop
    out. The compiler fuses and recomputes some of it, and adds what it works in: the compiled step's own
    figure is the one to plan with.
    """
    one, two = (_residual_bytes(model, forms, batch) for batch in (1, 2))
    return two - one


def _residual_bytes(model: Any, forms: Kernels, batch: int) -> int:
    graphdef, params, statistics = split(model)
    shape = (batch, model.config.num_frames, model.front_end.num_mel_bins)

    def backward(params, statistics, x):
        return jax.vjp(lambda params: merge(graphdef, params, statistics)(x)[0], params)[1]

    with using(forms):
        kept = jax.eval_shape(backward, params, statistics, jax.ShapeDtypeStruct(shape, jnp.float32))
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(kept))
