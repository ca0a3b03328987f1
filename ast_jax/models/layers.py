"""Layers that several families share, in PyTorch's conventions: the published models are PyTorch's.

B batch, C channels.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from ast_jax.models.kernels import current


def linear(inputs: int, outputs: int, dtype: str, rngs: nnx.Rngs, *, use_bias: bool = True) -> nnx.Linear:
    """A linear layer that computes in `dtype`; its kernel is normal .02, its bias 0, both float32."""
    return nnx.Linear(
        inputs,
        outputs,
        use_bias=use_bias,
        dtype=jnp.dtype(dtype),
        kernel_init=nnx.initializers.normal(0.02),
        dot_general=_dot_general,
        rngs=rngs,
    )


def _dot_general(x: Array, kernel: Array, dimension_numbers: Any, **options: Any) -> Array:
    return current().linear(x, kernel, dimension_numbers, **options)


def uniform_fan_in(fan_in: int):
    """U(+-1/sqrt(fan in)), PyTorch's default for the weight and bias of linear and convolution layers."""
    bound = fan_in**-0.5
    return lambda key, shape, dtype=jnp.float32: jax.random.uniform(key, shape, dtype, -bound, bound)


class BatchNorm(nnx.Module):
    """Batch normalisation of the last axis, as torch.nn.BatchNorm has it: running statistics move by
    `momentum` towards a batch's, whose variance counts n - 1.

    In training the statistics are of the whole batch over all devices, without the rows that only fill it.
    """

    def __init__(self, channels: int, *, eps: float = 1e-5, momentum: float = 0.1):
        self.eps, self.momentum = eps, momentum
        self.scale = nnx.Param(jnp.ones(channels))
        self.bias = nnx.Param(jnp.zeros(channels))
        self.mean = nnx.BatchStat(jnp.zeros(channels))
        self.var = nnx.BatchStat(jnp.ones(channels))

    def __call__(
        self, x: Float[Array, "B *rest C"], *, training: bool = False, mask: Float[Array, " B"] | None = None
    ) -> Float[Array, "B *rest C"]:
        mean, var = self.mean[...], self.var[...]
        if training:
            mean, var, count = batch_moments(x, mask)
            unbiased = var * count / jnp.maximum(count - 1, 1)
            self.mean[...] += self.momentum * (mean - self.mean[...])
            self.var[...] += self.momentum * (unbiased - self.var[...])
        channels = (1,) * (x.ndim - 1) + (-1,)
        scale = self.scale[...] * jax.lax.rsqrt(var + self.eps)
        return x * scale.reshape(channels) + (self.bias[...] - mean * scale).reshape(channels)


def batch_moments(
    x: Float[Array, "B *rest C"], mask: Float[Array, " B"] | None
) -> tuple[Float[Array, " C"], Float[Array, " C"], Float[Array, ""]]:
    """Mean and variance of each channel over a batch's real rows on all devices, and how many values they are
    of.
    """
    weights = jnp.ones((*x.shape[:-1], 1)) if mask is None else mask.reshape(-1, *(1,) * (x.ndim - 1))
    weights = jnp.broadcast_to(weights, (*x.shape[:-1], 1))
    axes, axis_name = tuple(range(x.ndim - 1)), current().batch_axis
    total = (lambda y: y) if axis_name is None else (lambda y: jax.lax.psum(y, axis_name))
    count = jnp.maximum(total(weights.sum()), 1)
    mean = total((x * weights).sum(axes)) / count
    centred = x - mean.reshape((1,) * (x.ndim - 1) + (-1,))
    return mean, total((jnp.square(centred) * weights).sum(axes)) / count, count
