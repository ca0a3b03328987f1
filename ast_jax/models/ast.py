"""The Audio Spectrogram Transformer: a ViT over overlapping patches of a log-mel spectrogram (Gong et al. 2021).

B batch, T frames, F mel bins, N tokens (P class and distillation tokens, then patches), D width, C classes.
"""

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from ast_jax.errors import InputError
from ast_jax.models.attention import Attend, attend
from ast_jax.models.layers import gelu, linear, product, with_stored_gradient
from ast_jax.models.patches import grid_shape

VARIANTS = {
    "tiny": {"width": 192, "depth": 12, "num_heads": 3},
    "small": {"width": 384, "depth": 12, "num_heads": 6},
    "base": {"width": 768, "depth": 12, "num_heads": 12},
}

# What the backward pass finds stored, and so need not recompute. "dots": less memory than "none" for little time, where attention
# is fused; "blocks": the least memory, about a third more time.
REMAT = {
    "none": None,
    "dots": jax.checkpoint_policies.checkpoint_dots_with_no_batch_dims,
    "blocks": jax.checkpoint_policies.nothing_saveable,
}


@dataclasses.dataclass(frozen=True)
class ASTConfig:
    """Everything that decides the model's shape and arithmetic. The default is the paper's AudioSet model."""

    num_classes: int = 527
    num_frames: int = 1024  # 10 ms each
    num_mel_bins: int = 128
    patch_shape: tuple[int, int] = (16, 16)  # mel bins, frames
    strides: tuple[int, int] = (10, 10)  # mel bins, frames
    width: int = 768
    depth: int = 12
    num_heads: int = 12
    mlp_ratio: int = 4
    distilled: bool = True  # a distillation token beside the class token, as in DeiT
    norm_eps: float = 1e-6  # blocks and final norm
    head_norm_eps: float = 1e-5  # the head's own norm: PyTorch's default in the reference
    dtype: str = (
        "float32"  # of the blocks' arithmetic; parameters, softmax, norm statistics and head stay float32
    )
    remat: str = "none"  # what the backward pass recomputes: "none"; "dots", all but the linear layers' products; "blocks"

    def __post_init__(self):
        if self.remat not in REMAT:
            raise InputError(f"remat {self.remat!r} is not offered: choose one of {', '.join(REMAT)}")
        if self.width % self.num_heads:
            raise InputError(
                f"width {self.width} is not a multiple of num_heads {self.num_heads}: choose one that is"
            )
        if self.dtype not in ("float32", "bfloat16"):
            raise InputError(f"dtype {self.dtype!r} is not offered: choose 'float32' or 'bfloat16'")
        if min(self.num_classes, self.depth, *self.strides) < 1:
            raise InputError(
                f"num_classes {self.num_classes}, depth {self.depth} and strides {self.strides} must all be at least 1"
            )
        _ = self.grid  # raises where not one patch fits

    @classmethod
    def variant(cls, name: str, **changes) -> "ASTConfig":
        """The tiny, small or base width, depth and heads (DeiT's), with any other field changed."""
        if name not in VARIANTS:
            raise InputError(f"there is no variant {name!r}: choose one of {', '.join(VARIANTS)}")
        return cls(**{**VARIANTS[name], **changes})

    @property
    def grid(self) -> tuple[int, int]:
        """Patches along (mel bins, frames)."""
        return grid_shape(self.num_mel_bins, self.num_frames, self.patch_shape, self.strides)

    @property
    def num_prefix_tokens(self) -> int:
        return 2 if self.distilled else 1

    @property
    def num_tokens(self) -> int:
        return self.num_prefix_tokens + self.grid[0] * self.grid[1]


def normalise(fbank: Array, mean: float, std: float) -> Array:
    """(fbank - mean) / (2 std), the reference's scale: features come to the model with standard deviation 1/2."""
    return (fbank - mean) / (2 * std)


class AST(nnx.Module):
    """Log-mel spectrogram in, logits out.

    Initialised as the reference does without pretraining (timm's ViT and PyTorch's defaults): linear layers
    and tokens normal .02, biases 0, patch projection and head uniform within +-1/sqrt(fan in).
    timm truncates its normal at +-2, a hundred standard deviations: the plain normal is the same distribution.
    """

    def __init__(self, config: ASTConfig, *, rngs: nnx.Rngs):
        self.config = config
        normal = nnx.initializers.normal(0.02)
        prefix, width = config.num_prefix_tokens, config.width
        self.patch_embed = PatchEmbed(config, rngs=rngs)
        self.cls_token = nnx.Param(normal(rngs.params(), (1, 1, width)))
        if config.distilled:
            self.dist_token = nnx.Param(normal(rngs.params(), (1, 1, width)))
        self.pos_embed = nnx.Param(normal(rngs.params(), (1, prefix + math.prod(config.grid), width)))
        self.blocks = nnx.List([Block(config, rngs=rngs) for _ in range(config.depth)])
        self.norm = nnx.LayerNorm(width, epsilon=config.norm_eps, use_fast_variance=False, rngs=rngs)
        self.head_norm = nnx.LayerNorm(
            width, epsilon=config.head_norm_eps, use_fast_variance=False, rngs=rngs
        )
        uniform = _uniform_fan_in(width)
        self.head = nnx.Linear(
            width,
            config.num_classes,
            kernel_init=uniform,
            bias_init=uniform,
            precision=jax.lax.Precision.HIGHEST,  # always float32, on chips whose default is bfloat16 passes too
            rngs=rngs,
        )

    def __call__(
        self,
        x: Float[Array, "B T F"],
        *,
        attend: Attend = attend,
        keep: Int[Array, "B K"] | None = None,
    ) -> Float[Array, "B C"]:
        """Normalised features to logits. `attend` is the form of attention that the device runs best (attention.py).

        `keep` numbers the patches that are left in, by clip, frequency-major (patchout, in training; all of them where it is None).
        The last block computes its queries, projection and MLP for the class and distillation tokens alone:
        nobody reads its other rows. Exact, and about 7 % of the forward pass saved (base, 10 s).
        """
        prefix = self.config.num_prefix_tokens
        x = self.embed(x, keep)
        for block in list(self.blocks)[:-1]:
            x = self._run(block, x, None, attend)
        x = self._run(self.blocks[-1], x, prefix, attend)
        return self.classify(self.norm(x.astype(jnp.float32)))

    def tokens(self, x: Float[Array, "B T F"]) -> Float[Array, "B N D"]:
        """All tokens after the last block and the final norm, float32: class, distillation, patches frequency-major."""
        x = self.embed(x)
        for block in self.blocks:
            x = self._run(block, x, None, attend)
        return self.norm(x.astype(jnp.float32))

    def embed(self, x: Float[Array, "B T F"], keep: Int[Array, "B K"] | None = None) -> Float[Array, "B N D"]:
        """Prefix tokens and patches (those that `keep` numbers, or all) with their positions: what the first block sees."""
        config = self.config
        if x.shape[1:] != (config.num_frames, config.num_mel_bins):
            raise InputError(
                f"the model takes [batch, {config.num_frames} frames, {config.num_mel_bins} mel bins], got {list(x.shape)}: "
                "pad or cut the clip, or load the model with another num_frames"
            )
        names = ["cls_token", "dist_token"] if config.distilled else ["cls_token"]
        prefix = [jnp.broadcast_to(getattr(self, name)[...], (x.shape[0], 1, config.width)) for name in names]
        patches = self.patch_embed(x)
        tokens = jnp.concatenate([*prefix, patches.astype(jnp.float32)], axis=1) + self.pos_embed[...]
        if keep is not None:
            kept = jnp.take_along_axis(tokens, keep[..., None] + config.num_prefix_tokens, axis=1)
            tokens = jnp.concatenate([tokens[:, : config.num_prefix_tokens], kept], axis=1)
        return tokens.astype(config.dtype)

    def classify(self, tokens: Float[Array, "B N D"]) -> Float[Array, "B C"]:
        """The mean of the class and distillation tokens, normed and projected."""
        return self.head(self.head_norm(tokens[:, : self.config.num_prefix_tokens].mean(axis=1)))

    def _run(self, block: "Block", x: Array, num_queries: int | None, attend: Attend) -> Array:
        policy = REMAT[self.config.remat]
        if policy is None:
            return block(x, num_queries, attend)
        return nnx.remat(Block.__call__, static_argnums=(2, 3), policy=policy)(block, x, num_queries, attend)


class PatchEmbed(nnx.Module):
    """A strided convolution without padding from [B, T, F] to tokens, frequency-major (token = f x t_dim + t)."""

    def __init__(self, config: ASTConfig, *, rngs: nnx.Rngs):
        self.config = config
        shape = config.patch_shape
        uniform = _uniform_fan_in(math.prod(shape))
        self.kernel = nnx.Param(uniform(rngs.params(), (*shape, 1, config.width)))
        self.bias = nnx.Param(uniform(rngs.params(), (config.width,)))

    def __call__(self, x: Float[Array, "B T F"]) -> Float[Array, "B N D"]:
        dtype = self.config.dtype
        image = jnp.swapaxes(x, 1, 2)[..., None].astype(
            dtype
        )  # the ViT's image: height = frequency, width = time
        y = jax.lax.conv_general_dilated(
            image,
            self.kernel[...].astype(dtype),
            self.config.strides,
            "VALID",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        return y.reshape(y.shape[0], -1, y.shape[-1]) + self.bias[...].astype(dtype)[None, None]


class Block(nnx.Module):
    """Pre-norm transformer block: x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, config: ASTConfig, *, rngs: nnx.Rngs):
        norm = functools.partial(
            nnx.LayerNorm,
            config.width,
            epsilon=config.norm_eps,
            dtype=jnp.dtype(config.dtype),
            use_fast_variance=False,
            rngs=rngs,
        )
        self.norm1 = norm()
        self.attention = Attention(config, rngs=rngs)
        self.norm2 = norm()
        self.mlp = MLP(config, rngs=rngs)

    def __call__(
        self, x: Float[Array, "B N D"], num_queries: int | None = None, attend: Attend = attend
    ) -> Float[Array, "B Q D"]:
        """Returns the first `num_queries` tokens, or all of them."""
        x = with_stored_gradient(x[:, :num_queries] + self.attention(self.norm1(x), num_queries, attend))
        return with_stored_gradient(x + self.mlp(self.norm2(x)))


class Attention(nnx.Module):
    """Multi-head self-attention, query, key and value from one matrix [D, 3D] as in timm."""

    def __init__(self, config: ASTConfig, *, rngs: nnx.Rngs):
        self.num_heads = config.num_heads
        self.qkv = linear(config.width, 3 * config.width, config.dtype, rngs)
        self.proj = linear(config.width, config.width, config.dtype, rngs)

    def __call__(
        self, x: Float[Array, "B N D"], num_queries: int | None = None, attend: Attend = attend
    ) -> Float[Array, "B Q D"]:
        batch, _, width = x.shape
        if num_queries is None:
            q, k, v = jnp.split(self.qkv(x), 3, axis=-1)
        else:
            qkv: Any = self.qkv  # flax types a bias as optional
            kernel, bias = qkv.kernel[...].astype(x.dtype), qkv.bias[...].astype(x.dtype)[None, None]
            q = product(x[:, :num_queries], kernel[:, :width]) + bias[..., :width]
            k, v = jnp.split(product(x, kernel[:, width:]) + bias[..., width:], 2, axis=-1)
        heads = lambda y: y.reshape(batch, -1, self.num_heads, width // self.num_heads)
        return self.proj(attend(heads(q), heads(k), heads(v)).reshape(batch, -1, width))


class MLP(nnx.Module):
    """Two linear layers with the exact (erf) GELU between them."""

    def __init__(self, config: ASTConfig, *, rngs: nnx.Rngs):
        self.fc1 = linear(config.width, config.mlp_ratio * config.width, config.dtype, rngs)
        self.fc2 = linear(config.mlp_ratio * config.width, config.width, config.dtype, rngs)

    def __call__(self, x: Float[Array, "B N D"]) -> Float[Array, "B N D"]:
        return self.fc2(gelu(self.fc1(x)))


def _uniform_fan_in(fan_in: int):
    """U(+-1/sqrt(fan in)), PyTorch's default for the weight and bias of linear and convolution layers."""
    bound = fan_in**-0.5
    return lambda key, shape, dtype=jnp.float32: jax.random.uniform(key, shape, dtype, -bound, bound)


# ---- Parameters by name: one flat dictionary of '/'-joined paths, for training, checkpoints and converters alike


def split(model: AST) -> tuple[nnx.GraphDef, dict[str, Any]]:
    """The model as its structure and its parameters, `{"blocks/0/norm1/scale": array, ...}`; `merge` is the inverse."""
    graphdef, state = nnx.split(model)
    return graphdef, _flatten(nnx.as_pure(state))


def merge(graphdef: nnx.GraphDef, params: Mapping[str, Any]) -> AST:
    """The model from its structure and flat parameters; works on tracers, inside jit."""
    nested: dict = {}
    for path, value in params.items():
        *parents, leaf = [int(part) if part.isdigit() else part for part in path.split("/")]
        node = nested
        for part in parents:
            node = node.setdefault(part, {})
        node[leaf] = value
    return nnx.merge(graphdef, nested)


def flat_params(model: AST) -> dict[str, np.ndarray]:
    """The parameters as NumPy arrays under '/'-joined paths."""
    return {path: np.asarray(value) for path, value in split(model)[1].items()}


def set_params(model: AST, params: Mapping[str, np.ndarray]) -> None:
    """Replaces every parameter of `model`.

    Raises:
      InputError: a path is missing or unknown, or a shape differs; all of them in one message.
    """
    graphdef, old = split(model)
    wrong = [f"{path} is missing" for path in old if path not in params]
    wrong += [f"{path} is unknown" for path in params if path not in old]
    wrong += [
        f"{path} has shape {tuple(params[path].shape)}, wanted {tuple(value.shape)}"
        for path, value in old.items()
        if path in params and params[path].shape != value.shape
    ]
    if wrong:
        raise InputError(f"{len(wrong)} parameters do not fit the model: {'; '.join(wrong)}")
    new = {path: jnp.asarray(params[path], value.dtype) for path, value in old.items()}
    nnx.update(model, nnx.state(merge(graphdef, new)))


def _flatten(tree: Mapping, prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        path = f"{prefix}{key}"
        flat |= _flatten(value, f"{path}/") if isinstance(value, Mapping) else {path: value}
    return flat
