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


class Convolution(nnx.Module):
    """A square convolution of [B, height, width, inputs]; `padding` is (before, after) of both axes, or half
    the kernel. PyTorch's default initialisation where no `init` is given.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        size: int,
        *,
        stride: int = 1,
        padding: tuple[int, int] | None = None,
        depthwise: bool = False,
        use_bias: bool = False,
        init: Any = None,
        dtype: str = "float32",
        rngs: nnx.Rngs,
    ):
        self.stride, self.padding, self.dtype = stride, padding or (size // 2, size // 2), dtype
        self.depthwise, inputs_each = depthwise, 1 if depthwise else inputs
        uniform = uniform_fan_in(size * size * inputs_each)
        shape = (size, size, inputs_each, outputs)
        self.kernel = nnx.Param((init or uniform)(rngs.params(), shape))
        self.bias = nnx.Param(uniform(rngs.params(), (outputs,))) if use_bias else None

    def __call__(self, x: Float[Array, "B H W I"]) -> Float[Array, "B _ _ O"]:
        x, kernel = x.astype(self.dtype), self.kernel[...].astype(self.dtype)
        if self.depthwise:
            y = current().depthwise(x, kernel, self.stride, self.padding)
        else:
            y = jax.lax.conv_general_dilated(
                x,
                kernel,
                (self.stride, self.stride),
                (self.padding, self.padding),
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
            )
        return y if self.bias is None else y + self.bias[...].astype(self.dtype).reshape(1, 1, 1, -1)


def dropped(x: Array, keys: Any, rate: float, *, whole: bool = False) -> Array:
    """Dropout of [B, ...] by each example's own key, and none where `keys` is None; with `whole`, an
    example's all or nothing (drop connect).
    """
    if keys is None or not rate:
        return x
    shape = (1,) * (x.ndim - 1) if whole else x.shape[1:]
    kept = jax.vmap(lambda key: jax.random.bernoulli(key, 1 - rate, shape))(keys)
    return jnp.where(kept, x / (1 - rate), 0).astype(x.dtype)


def folded(keys: Any, number: int) -> Any:
    """Each example's key for one more use."""
    return None if keys is None else jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, number)


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
        y = x * scale.reshape(channels) + (self.bias[...] - mean * scale).reshape(channels)
        return y.astype(x.dtype)


def batch_moments(
    x: Float[Array, "B *rest C"], mask: Float[Array, " B"] | None
) -> tuple[Float[Array, " C"], Float[Array, " C"], Float[Array, ""]]:
    """Mean and variance of each channel over a batch's real rows on all devices, and how many values they are
    of.
    """
    x = x.astype(jnp.float32)
    weights = jnp.ones((*x.shape[:-1], 1)) if mask is None else mask.reshape(-1, *(1,) * (x.ndim - 1))
    weights = jnp.broadcast_to(weights, (*x.shape[:-1], 1))
    axes, axis_name = tuple(range(x.ndim - 1)), current().batch_axis
    total = (lambda y: y) if axis_name is None else (lambda y: jax.lax.psum(y, axis_name))
    count = jnp.maximum(total(weights.sum()), 1)
    mean = total((x * weights).sum(axes)) / count
    centred = x - mean.reshape((1,) * (x.ndim - 1) + (-1,))
    return mean, total((jnp.square(centred) * weights).sum(axes)) / count, count


def largest(x: Float[Array, "*shape"], axis: int) -> Float[Array, "*others"]:
    """The maximum along one axis, whose gradient is that of the first place that holds it.

    `max` gives its gradient to whatever equals the maximum, and a compiler that computes `x` twice may round
    it in two ways.
    """
    place = x.argmax(axis=axis, keepdims=True)
    return jnp.take_along_axis(x, place, axis=axis).squeeze(axis)


def rows_of(mask: Float[Array, " B"] | None, x: Float[Array, "R T F"]) -> Float[Array, " R"] | None:
    """The mask of a batch in which each clip is followed by its partner, where there are so many rows."""
    return None if mask is None else jnp.repeat(mask, len(x) // len(mask))


def log_odds(score: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """The logit of a model that gives a score; as far from 0 and 1 as published, 1e-7."""
    inside = jnp.clip(score, 1e-7, 1 - 1e-7)
    return jnp.log(inside) - jnp.log1p(-inside)
