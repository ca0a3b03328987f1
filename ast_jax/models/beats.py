"""BEATs: a ViT of patches side by side whose positions are a convolution over tokens and gated biases of
distances, normalised after each residual (Chen et al. 2022, "BEATs: Audio pre-training with acoustic
tokenizers").

B batch, T frames, F mel bins, N tokens (time-major: f of one column, then the next), D width, H heads, K head
size, C classes, f x t the patch grid.
"""

import dataclasses
import functools
import math
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Key

from ast_jax.errors import InputError
from ast_jax.features.front_end import Povey
from ast_jax.models.ast import MLP
from ast_jax.models.base import check_dtype, check_shape
from ast_jax.models.kernels import current
from ast_jax.models.layers import dropped, folded, linear, uniform_fan_in
from ast_jax.models.patches import grid_shape, over_cells


@dataclasses.dataclass(frozen=True)
class BEATsConfig:
    """The published model of 90 M parameters; 998 frames are 10 s."""

    num_classes: int = 527
    num_frames: int = 998
    num_mel_bins: int = 128
    # of the square patches, which do not overlap
    patch: int = 16
    # of a patch's embedding, before the blocks
    patch_width: int = 512
    width: int = 768
    depth: int = 12
    num_heads: int = 12
    mlp_width: int = 3072
    # of the convolution over tokens
    kernel: int = 128
    groups: int = 16
    # distances between tokens, in steps that grow up to the largest
    buckets: int = 320
    max_distance: int = 800
    # of what each half of a block adds
    dropout: float = 0.0
    # of the blocks' products; parameters, the residual stream, softmax and norms stay float32
    dtype: str = "float32"

    def __post_init__(self):
        check_dtype(self.dtype)
        sizes = (self.patch, self.patch_width, self.width, self.num_heads, self.mlp_width, self.kernel)
        # a quarter of the buckets are a distance each, and the largest lies beyond them
        if min(*sizes, self.groups) < 1 or not 1 <= self.buckets // 4 < self.max_distance:
            raise InputError(
                f"patch, widths, num_heads and kernel {sizes}, groups {self.groups}, buckets {self.buckets} "
                f"up to {self.max_distance}: wanted 1 or more, 4 buckets or more, and a distance beyond them"
            )
        if self.width % self.num_heads or self.width % self.groups:
            raise InputError(
                f"width {self.width}: wanted a multiple of num_heads {self.num_heads} and groups "
                f"{self.groups}"
            )
        if min(self.num_classes, self.depth, *self.grid) < 1 or not 0 <= self.dropout < 1:
            raise InputError(
                f"num_classes {self.num_classes}, depth {self.depth}, {self.num_frames} frames, dropout "
                f"{self.dropout}: wanted 1 or more, {self.patch} or more, and a share"
            )

    @property
    def grid(self) -> tuple[int, int]:
        """Patches along (mel bins, frames)."""
        return grid_shape(self.num_mel_bins, self.num_frames, (self.patch,) * 2, (self.patch,) * 2)


class BEATs(nnx.Module):
    """Log-mel spectrogram in, logits out; the mean of all tokens is judged."""

    Config: ClassVar[type] = BEATsConfig

    def __init__(self, config: BEATsConfig, *, rngs: nnx.Rngs):
        self.config = config
        patch, width = config.patch, config.width
        uniform = uniform_fan_in(patch * patch)
        self.patch_kernel = nnx.Param(uniform(rngs.params(), (patch, patch, 1, config.patch_width)))
        self.patch_norm = _norm(config.patch_width, rngs)
        self.patch_proj = linear(config.patch_width, width, "float32", rngs)
        place = nnx.initializers.normal(math.sqrt(4 / (config.kernel * width)))
        self.place = nnx.Conv(
            width,
            width,
            (config.kernel,),
            feature_group_count=config.groups,
            padding=((config.kernel // 2, config.kernel // 2 - 1 + config.kernel % 2),),
            kernel_init=place,
            rngs=rngs,
        )
        self.norm = _norm(width, rngs)
        bias = nnx.initializers.xavier_normal()
        self.distances = nnx.Param(bias(rngs.params(), (config.buckets, config.num_heads)))
        self.blocks = nnx.List([Block(config, rngs=rngs) for _ in range(config.depth)])
        self.head = linear(width, config.num_classes, "float32", rngs)

    def __call__(
        self,
        x: Float[Array, "B T F"],
        *,
        key: Key[Array, " B"] | None = None,
        mask: Float[Array, " B"] | None = None,
    ) -> tuple[Float[Array, "B C"], dict[str, Any]]:
        """Normalised features to logits and what was computed on the way (`base.py` says what); `mask` means
        nothing here.
        """
        del mask
        check_shape(x, self.config.num_frames, self.config.num_mel_bins)
        tokens = self._embed(x)
        bias = self._bias(tokens.shape[1])
        layers = [tokens]
        for number, block in enumerate(self.blocks):
            layers.append(block(layers[-1], bias, folded(key, number)))
        steps = [self._pooled(layer) for layer in layers]
        return self.head(steps[-1]["embedding"]), {"tokens": layers[-1], "layers": steps, **steps[-1]}

    def _embed(self, x: Float[Array, "B T F"]) -> Float[Array, "B N D"]:
        strides = (self.config.patch,) * 2
        patches = current().patches(x, self.patch_kernel[...], strides)
        rows = patches.reshape(x.shape[0], -1, self.config.patch_width)
        tokens = self.patch_proj(self.patch_norm(rows))
        return self.norm(tokens + current().gelu(self.place(tokens)))

    def _bias(self, tokens: int) -> Float[Array, "H N N"]:
        """What is added to scores for the distance from query to key, before a query's gate."""
        config = self.config
        distances = np.arange(-(tokens - 1), tokens)
        values = self.distances[...][bucket(distances, config.buckets, config.max_distance)]
        apart = jnp.arange(tokens)[None] - jnp.arange(tokens)[:, None] + tokens - 1
        return values.T[:, apart]

    def _pooled(self, tokens: Float[Array, "B N D"]) -> dict[str, Array]:
        rows, columns = self.config.grid
        steps = tokens.reshape(tokens.shape[0], columns, rows, -1).mean(axis=2)
        return {"embedding": tokens.mean(axis=1), "sequence": steps}

    def over_cells(self, values: Float[np.ndarray, "*batch f t"]) -> Float[np.ndarray, "*batch T F"]:
        """A value a patch to a value a cell of what the model hears."""
        config = self.config
        extent, patch = (config.num_mel_bins, config.num_frames), (config.patch,) * 2
        return over_cells(values, extent, patch, patch)

    @property
    def front_end(self) -> Povey:
        return Povey(num_mel_bins=self.config.num_mel_bins)

    @property
    def time_steps(self) -> tuple[int, int, int]:
        """Of `out["sequence"]`: frames a step sees, frames from one to the next, steps in a whole window."""
        return self.config.patch, self.config.patch, self.config.grid[1]

    @property
    def levels(self) -> tuple[tuple[str, ...], ...]:
        """What feeds the first block, each block, the head."""
        blocks = [(f"blocks/{i}",) for i in range(self.config.depth)]
        below = ("patch_kernel", "patch_norm", "patch_proj", "place", "norm", "distances")
        return (below, *blocks, ("head",))


class Block(nnx.Module):
    """norm(a x + attention(x)), then norm(a x + mlp(x)), a = (2 depth)^(1/4) (Wang et al. 2022, DeepNet)."""

    def __init__(self, config: BEATsConfig, *, rngs: nnx.Rngs):
        self.residual, self.dropout = (2 * config.depth) ** 0.25, config.dropout
        self.attention = GatedAttention(config, rngs=rngs)
        self.norm1 = _norm(config.width, rngs)
        self.mlp = MLP(config.width, config.mlp_width, config.dtype, rngs=rngs)
        self.norm2 = _norm(config.width, rngs)

    def __call__(
        self, x: Float[Array, "B N D"], bias: Float[Array, "H N N"], keys: Key[Array, " B"] | None
    ) -> Float[Array, "B N D"]:
        left = functools.partial(dropped, rate=self.dropout)
        heard = left(self.attention(x, bias), folded(keys, 0))
        x = self.norm1(self.residual * x + heard.astype(jnp.float32))
        added = left(self.mlp(x), folded(keys, 1))
        return self.norm2(self.residual * x + added.astype(jnp.float32))


class GatedAttention(nnx.Module):
    """Multi-head attention; a query says how much the distances' biases count for it (their section 3.2,
    after WavLM's gated relative position).
    """

    def __init__(self, config: BEATsConfig, *, rngs: nnx.Rngs):
        self.num_heads = config.num_heads
        self.qkv = linear(config.width, 3 * config.width, config.dtype, rngs)
        self.proj = linear(config.width, config.width, config.dtype, rngs)
        self.gate = linear(config.width // config.num_heads, 8, "float32", rngs)
        self.gate_scale = nnx.Param(jnp.ones(config.num_heads))

    def __call__(self, x: Float[Array, "B N D"], bias: Float[Array, "H N N"]) -> Float[Array, "B N D"]:
        q, k, v = (
            y.reshape(*y.shape[:2], self.num_heads, -1).swapaxes(1, 2)
            for y in current().qkv(self.qkv, x, None)
        )
        gates = self.gate(q.astype(jnp.float32))
        a, b = jnp.moveaxis(jax.nn.sigmoid(gates.reshape(*gates.shape[:3], 2, 4).sum(axis=-1)), -1, 0)
        gate = a * (b * self.gate_scale[...].reshape(1, -1, 1) - 1) + 2
        scores = jnp.matmul(q * q.shape[-1] ** -0.5, k.swapaxes(2, 3), preferred_element_type=jnp.float32)
        weights = jax.nn.softmax(scores + gate[..., None] * bias[None], axis=-1).astype(v.dtype)
        return self.proj((weights @ v).swapaxes(1, 2).reshape(x.shape))


def bucket(distance: np.ndarray, buckets: int, most: int) -> np.ndarray:
    """The number of a signed distance's bucket (T5's, Raffel et al. 2020): half of them for each sign, the
    near ones a distance each, then steps that grow as its logarithm up to `most`.
    """
    half = buckets // 2
    near, size = half // 2, np.abs(distance)
    far = np.log(np.maximum(size, 1).astype(np.float32) / near) / math.log(most / near) * (half - near)
    step = np.where(size < near, size, np.minimum(near + far.astype(np.int64), half - 1))
    return step + half * (distance > 0)


def _norm(width: int, rngs: nnx.Rngs) -> nnx.LayerNorm:
    return nnx.LayerNorm(width, epsilon=1e-5, use_fast_variance=False, rngs=rngs)
