"""The Audio Spectrogram Transformer: a ViT over overlapping patches of a log-mel spectrogram (Gong et al.
2021).

B batch, T frames, F mel bins, N tokens (P class and distillation tokens, then patches), D width, C classes,
f x t the patch grid, K patches left in, L layers, H heads.
"""

import dataclasses
import functools
import math
import os
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Key

from ast_jax.errors import InputError
from ast_jax.features.front_end import FrontEnd, Kaldi
from ast_jax.models.attention import attend, masked
from ast_jax.models.base import check_dtype, check_shape
from ast_jax.models.kernels import current
from ast_jax.models.layers import dropped, folded, linear, uniform_fan_in
from ast_jax.models.patches import grid_shape, over_cells
from ast_jax.models.pooling import POOLINGS
from ast_jax.settings import Settings
from ast_jax.tables import look_up

VARIANTS = {
    "tiny": {"width": 192, "depth": 12, "num_heads": 3},
    # CED's, between DeiT's
    "mini": {"width": 256, "depth": 12, "num_heads": 4},
    "small": {"width": 384, "depth": 12, "num_heads": 6},
    "base": {"width": 768, "depth": 12, "num_heads": 12},
}

HEADS = ("clip", "frames")

# what the keys of drop path are folded with, so that they are none of patchout's
DROP_STREAM = 200

# more are a damaged config
MOST_BLOCKS = 1000

# What the backward pass finds stored, and so need not recompute. "dots": less memory than "none" for little
# time, where attention is fused; "blocks": the least memory, about a third more time.
REMAT = {
    "none": None,
    "dots": jax.checkpoint_policies.checkpoint_dots_with_no_batch_dims,
    "blocks": jax.checkpoint_policies.nothing_saveable,
}


@dataclasses.dataclass(frozen=True)
class ASTConfig:
    """Everything that decides the model's shape and arithmetic. The default is the paper's AudioSet model."""

    num_classes: int = 527
    # 10 ms each
    num_frames: int = 1024
    num_mel_bins: int = 128
    # mel bins, frames
    patch_shape: tuple[int, int] = (16, 16)
    strides: tuple[int, int] = (10, 10)
    width: int = 768
    depth: int = 12
    num_heads: int = 12
    # of the MLP; None: four times `width`
    mlp_width: int | None = None
    # a distillation token beside the class token, as in DeiT
    distilled: bool = True
    # of blocks and final norm
    norm_eps: float = 1e-6
    # of the head's own norm: PyTorch's default in the reference
    head_norm_eps: float = 1e-5
    # of the blocks' products; parameters, the residual stream, softmax, norm statistics and head stay float32
    dtype: str = "float32"
    # what the backward pass recomputes: "none"; "dots", all but the linear layers' products; "blocks"
    remat: str = "none"
    # rows, columns and single patches of the grid left out of each training clip
    patchout: tuple[int, int, int] = (0, 0, 0)
    # how often the last block is left out for a training clip, those before it less, the first never
    # (stochastic depth)
    drop_path: float = 0.0
    # what is judged: the clip, or its frames, which `pooling` (a key of POOLINGS) makes a clip's logits of
    head: str = "clip"
    pooling: str = "linear_softmax"
    # patches whose cells are all the same (padding, digital silence, whole masks) are not attended to; the
    # published models hear them
    mask_even: bool = False

    # fields that a recipe sets by `config.model.options`
    options: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self):
        if self.head not in HEADS or self.pooling not in POOLINGS:
            raise InputError(
                f"head {self.head!r} with pooling {self.pooling!r} is not offered: choose "
                f"{' or '.join(HEADS)}, and one of {', '.join(POOLINGS)}"
            )
        if self.head == "frames" and any(self.patchout):
            raise InputError("config.patchout leaves holes in time: give config.model.head=frames none")
        if self.remat not in REMAT:
            raise InputError(f"remat {self.remat!r} is not offered: choose one of {', '.join(REMAT)}")
        if self.width % self.num_heads:
            raise InputError(
                f"width {self.width} is not a multiple of num_heads {self.num_heads}: choose one that is"
            )
        check_dtype(self.dtype)
        if self.mlp_width == 4 * self.width:
            # one form for one shape, and another width is then another MLP width
            object.__setattr__(self, "mlp_width", None)
        if min(self.num_classes, self.depth, self.hidden_width, *self.strides) < 1:
            raise InputError(
                f"num_classes {self.num_classes}, depth {self.depth}, mlp_width {self.hidden_width} and "
                f"strides {self.strides} must all be at least 1"
            )
        if not 0 <= self.drop_path < 1:
            raise InputError(f"drop_path {self.drop_path}: wanted a share of at least 0 and below 1")
        if self.depth > MOST_BLOCKS:
            raise InputError(f"depth {self.depth}: wanted {MOST_BLOCKS} blocks at most")
        (rows, columns), (freq, time, patches) = self.grid, self.patchout
        left = (rows - freq) * (columns - time) - patches
        if min(freq, time, patches, rows - freq - 1, columns - time - 1, left - 1) < 0:
            raise InputError(
                f"config.patchout takes {freq} rows, {time} columns and {patches} patches of {rows} x "
                f"{columns}: leave at least one, and take none below 0"
            )

    @classmethod
    def variant(cls, name: str, **changes: Any) -> "ASTConfig":
        """The width, depth and heads of one of VARIANTS, with any other field changed."""
        if name not in VARIANTS:
            raise InputError(f"there is no variant {name!r}: choose one of {', '.join(VARIANTS)}")
        return cls(**{**VARIANTS[name], **changes})

    @staticmethod
    def upgraded(stated: Mapping[str, Any]) -> dict[str, Any]:
        """What an older card states, in today's fields."""
        fields = dict(stated)
        if isinstance(fields.get("remat"), bool):  # from before there were policies
            fields["remat"] = "blocks" if fields["remat"] else "none"
        ratio, width = fields.pop("mlp_ratio", None), fields.get("width")
        if isinstance(ratio, int) and isinstance(width, int):
            fields.setdefault("mlp_width", ratio * width)
        return fields

    @classmethod
    def from_settings(cls, settings: Settings, *, num_classes: int) -> "ASTConfig":
        """The variant's shape, where a recipe does not say another width, depth or number of heads."""
        model, out = settings.model, settings.patchout
        if unknown := model.options.keys() - set(cls.options):
            known = f"only {', '.join(cls.options)}" if cls.options else "none"
            raise InputError(
                f"config.model.options {', '.join(sorted(unknown))}: the family {model.family} has {known}"
            )
        own = {key: getattr(model, key) for key in ("width", "depth", "num_heads")}
        same: tuple[str, ...] = ("patch_shape", "strides", "distilled", "drop_path", "mask_even")
        same += ("dtype", "remat", "head", "pooling")
        return cls.variant(
            model.variant,
            num_classes=num_classes,
            num_frames=settings.run.num_frames,
            patchout=(out.freq, out.time, out.patches),
            **{key: getattr(model, key) for key in same},
            **{key: value for key, value in own.items() if value is not None},
            **model.options,
        )

    @property
    def grid(self) -> tuple[int, int]:
        """Patches along (mel bins, frames)."""
        return grid_shape(self.num_mel_bins, self.num_frames, self.patch_shape, self.strides)

    @property
    def hidden_width(self) -> int:
        """Of the MLP."""
        return 4 * self.width if self.mlp_width is None else self.mlp_width

    @property
    def num_prefix_tokens(self) -> int:
        """Class and distillation tokens."""
        return 2 if self.distilled else 1

    @property
    def num_tokens(self) -> int:
        """Prefix tokens and patches."""
        return self.num_prefix_tokens + self.grid[0] * self.grid[1]


@dataclasses.dataclass(frozen=True)
class Undistilled(ASTConfig):
    """Of ViTs without a distillation token, whose patches lie side by side (CED, EAT), whatever a recipe says
    of one.
    """

    strides: tuple[int, int] = (16, 16)
    distilled: bool = False

    @classmethod
    def from_settings(cls, settings: Settings, *, num_classes: int) -> ASTConfig:
        return dataclasses.replace(super().from_settings(settings, num_classes=num_classes), distilled=False)


class AST(nnx.Module):
    """Log-mel spectrogram in, logits out.

    Initialised as the reference does without pretraining (timm's ViT and PyTorch's defaults): linear layers
    and tokens normal .02, biases 0, patch projection and head uniform within +-1/sqrt(fan in).
    timm truncates its normal at +-2, a hundred standard deviations: the plain normal is the same
    distribution.
    """

    Config: ClassVar[type] = ASTConfig
    # what feeds the first block
    below: ClassVar[tuple[str, ...]] = ("patch_embed", "cls_token", "dist_token", "pos_embed")

    def __init__(self, config: ASTConfig, *, rngs: nnx.Rngs):
        self.config = config
        normal, width = nnx.initializers.normal(0.02), config.width
        self.patch_embed = PatchEmbed(config, rngs=rngs)
        self._make_tokens(lambda *shape: nnx.Param(normal(rngs.params(), shape)))
        rates = [config.drop_path * number / max(config.depth - 1, 1) for number in range(config.depth)]
        self.blocks = nnx.List([self._make_block(rate, rngs) for rate in rates])
        self.norm: Any = nnx.LayerNorm(width, epsilon=config.norm_eps, use_fast_variance=False, rngs=rngs)
        self.head_norm = nnx.LayerNorm(
            width, epsilon=config.head_norm_eps, use_fast_variance=False, rngs=rngs
        )
        uniform = uniform_fan_in(width)
        self.head = nnx.Linear(
            width,
            config.num_classes,
            kernel_init=uniform,
            bias_init=uniform,
            # always float32, on chips whose default is bfloat16 passes too
            precision=jax.lax.Precision.HIGHEST,
            rngs=rngs,
        )
        if config.head == "frames" and config.pooling == "attention":
            self.attend = nnx.Linear(width, config.num_classes, kernel_init=normal, rngs=rngs)

    def __call__(
        self,
        x: Float[Array, "B T F"],
        *,
        key: Key[Array, " B"] | None = None,
        mask: Float[Array, " B"] | None = None,
        attention: bool = False,
    ) -> tuple[Float[Array, "B C"], dict[str, Any]]:
        """Normalised features to logits and what was computed on the way (`base.py` says what).

        With `key` the recipe's patchout leaves patches out, and its drop path blocks; `mask` means nothing
        here, for no statistic is gathered. `out["tokens"]` [B, N, D] are all tokens after the last block and
        the final norm: class, distillation, patches frequency-major. With `attention`, `out["attention"]`
        [B, L, H, N, N] are each layer's softmax weights, query by key, which fused kernels never write down.

        The last block computes its projection and MLP for the class and distillation tokens alone where only
        logits are read. Exact, and about 7 % of the forward pass saved (base, 10 s).

        With `head="frames"` the head judges each step of time, the mean of its patches over frequency:
        `out["frames"]` [B, t, C], in log-odds, pooled to the clip's. The class and distillation tokens, which
        know the whole clip, are not added to it: with them labels of clips teach what and not when
        (docs/events.md has figures).

        With `mask_even` patches whose cells are all the same are no key of any attention and count in no
        mean over patches; a clip that is all the same is heard as without. Their tokens are still there, in
        `tokens` and where steps of time are pooled; each of `layers` has `heard` [B, t], the other steps.
        """
        del mask
        return self._through(x, self._heard(x), key, attention)

    def _through(
        self, x: Float[Array, "B T F"], heard: Bool[Array, "B N"] | None, key: Any, attention: bool
    ) -> tuple[Float[Array, "B C"], dict[str, Any]]:
        x = self._embed(x)
        if key is not None and any(self.config.patchout):
            x, heard = self._keep(x, heard, key)
        layers, weights = [x], []
        drawn = key if self.config.drop_path else None
        keys = [folded(drawn, DROP_STREAM + number) for number in range(len(self.blocks))]
        for block, own in zip(self.blocks, keys, strict=True):
            if attention:
                weights.append(block.attention.weights(block.attended(layers[-1]), heard))
            layers.append(self._run(block, layers[-1], None, own, heard))
        prefix = self.config.num_prefix_tokens
        read = self._run(self.blocks[-1], layers[-2], prefix, keys[-1], heard) if prefix else layers[-1]
        embedding = self._mean(self.norm(read.astype(jnp.float32)), None if prefix else heard)
        tokens = self.norm(layers[-1].astype(jnp.float32))
        steps = [self._pooled(y, heard) for y in (*(y.astype(jnp.float32) for y in layers[:-1]), tokens)]
        out = {"embedding": embedding, "tokens": tokens, "sequence": steps[-1]["sequence"], "layers": steps}
        if attention:
            out["attention"] = jnp.stack(weights, axis=1)
        if self.config.head == "frames":
            logits, out["frames"] = self._judge(out["sequence"])
            return logits, out
        return self.head(self.head_norm(embedding)), out

    def _judge(self, steps: Float[Array, "B t D"]) -> tuple[Float[Array, "B C"], Float[Array, "B t C"]]:
        heard = self.head_norm(steps)
        frames = self.head(heard)
        attend = self.attend(heard) if self.config.pooling == "attention" else None
        return POOLINGS[self.config.pooling](frames, attend), frames

    def attention_maps(self, x: Float[Array, "B T F"]) -> tuple[Array, Array]:
        """How the class and distillation tokens (their mean) attend to each patch: head by head
        [B, L, H, f, t], and rolled out [B, f, t].

        Rollout (Abnar and Zuidema 2020): the product over layers of (mean over heads + identity) / 2, the
        identity standing for the residual connection. Rows stay sums to 1. It says where the answer may have
        come from, for no label in particular.
        """
        weights = self(x, attention=True)[1]["attention"]
        prefix, asking, identity = *self._prefix(), jnp.eye(self.config.num_tokens)
        rolled = jnp.broadcast_to(identity, (len(weights), *identity.shape))
        for layer in range(weights.shape[1]):
            rolled = (weights[:, layer].mean(axis=1) + identity[None]) / 2 @ rolled
        heads = weights[:, :, :, :asking, prefix:].mean(axis=3)
        found = rolled[:, :asking, prefix:].mean(axis=1)
        return heads.reshape(*heads.shape[:3], *self.config.grid), found.reshape(-1, *self.config.grid)

    def over_cells(self, values: Float[np.ndarray, "*batch f t"]) -> Float[np.ndarray, "*batch T F"]:
        """A value a patch to a value a cell of what the model hears."""
        config = self.config
        extent = (config.num_mel_bins, config.num_frames)
        return over_cells(values, extent, config.patch_shape, config.strides)

    @classmethod
    def from_pretrained(cls, src: str | os.PathLike, **options: Any) -> "AST":
        """The model of any checkpoint that `ast_jax.load_model` takes, with its options; for notebooks.

        Labels, normalisation and activation stay behind: `load_model` has them too. Raises InputError.
        """
        # looked up when it is called: models know nothing of files
        load_model: Any = look_up({}, "ast_jax.weights:load_model", "function")
        model = load_model(src, **options).model
        if not isinstance(model, cls):
            raise InputError(f"{src} holds a {type(model).__name__}, not an {cls.__name__}: take load_model")
        return model

    @property
    def front_end(self) -> FrontEnd:
        """The reference's, with the config's mel bins; not normalised."""
        return Kaldi(num_mel_bins=self.config.num_mel_bins)

    @property
    def time_steps(self) -> tuple[int, int, int]:
        """Of `out["sequence"]`: frames a step sees, frames from one to the next, steps in a whole window."""
        return self.config.patch_shape[1], self.config.strides[1], self.config.grid[1]

    @property
    def levels(self) -> tuple[tuple[str, ...], ...]:
        """What feeds the first block, each block, the final norm, the head."""
        blocks = [(f"blocks/{i}",) for i in range(self.config.depth)]
        return (self.below, *blocks, ("norm",), ("head_norm", "head", "attend"))

    def _make_tokens(self, drawn: Callable[..., nnx.Param]) -> None:
        """Prefix tokens and positions, `drawn` in a shape."""
        config, width = self.config, self.config.width
        self.cls_token = drawn(1, 1, width)
        if config.distilled:
            self.dist_token = drawn(1, 1, width)
        self.pos_embed = drawn(1, config.num_tokens, width)

    def _make_block(self, drop_path: float, rngs: nnx.Rngs) -> Any:
        return Block(self.config, drop_path, rngs=rngs)

    def _embed(self, x: Float[Array, "B T F"]) -> Float[Array, "B N D"]:
        """Prefix tokens and patches with their positions: what the first block sees."""
        check_shape(x, self.config.num_frames, self.config.num_mel_bins)
        return self._with_tokens(self.patch_embed(x).astype(jnp.float32)) + self.pos_embed[...]

    def _with_tokens(self, patches: Float[Array, "B _ D"]) -> Float[Array, "B N D"]:
        names = ("cls_token", "dist_token")[: self.config.num_prefix_tokens]
        shape = (patches.shape[0], 1, patches.shape[2])
        prefix = [jnp.broadcast_to(getattr(self, name)[...], shape) for name in names]
        return jnp.concatenate([*prefix, patches], axis=1)

    def _prefix(self) -> tuple[int, int | None]:
        """How many tokens come before the patches, and where those end that the head reads: all tokens, where
        there are none.
        """
        prefix = self.config.num_prefix_tokens
        return prefix, prefix or None

    def _heard(self, x: Float[Array, "B T F"]) -> Bool[Array, "B N"] | None:
        """False for patches whose cells are all the same, but where all of a clip's are; None where the
        config does not ask.
        """
        if not self.config.mask_even:
            return None
        size, strides = self.config.patch_shape[::-1], self.config.strides[::-1]
        largest = functools.partial(nnx.max_pool, window_shape=size, strides=strides)
        image = x[..., None]
        uneven = (largest(image) + largest(-image))[..., 0] > 0
        patches = uneven.swapaxes(1, 2).reshape(x.shape[0], -1)
        patches = patches | ~patches.any(axis=1, keepdims=True)
        prefix = jnp.ones((x.shape[0], self.config.num_prefix_tokens), bool)
        return jnp.concatenate([prefix, patches], axis=1)

    def _keep(
        self, tokens: Float[Array, "B N D"], heard: Bool[Array, "B N"] | None, key: Key[Array, " B"]
    ) -> tuple[Float[Array, "B M D"], Bool[Array, "B M"] | None]:
        """The prefix tokens and the patches that patchout leaves of each clip."""
        prefix = self.config.num_prefix_tokens
        draw = functools.partial(patchout, grid=self.config.grid, out=self.config.patchout)
        kept = jax.vmap(draw)(key) + prefix
        take = lambda x, places: jnp.concatenate([x[:, :prefix], jnp.take_along_axis(x, places, 1)], axis=1)
        return take(tokens, kept[..., None]), None if heard is None else take(heard, kept)

    def _pooled(self, tokens: Float[Array, "B N D"], heard: Bool[Array, "B N"] | None) -> dict[str, Array]:
        """The mean of the prefix tokens, and at each step of time the mean over frequency (but after
        patchout); which steps have a patch that is heard, where some have none.
        """
        (prefix, read), grid = self._prefix(), self.config.grid
        pooled = {"embedding": self._mean(tokens[:, :read], None if prefix else heard)}
        patches = tokens[:, prefix:]
        if patches.shape[1] != math.prod(grid):
            return pooled | {"sequence": patches}
        by_place = lambda x: x[:, prefix:].reshape(x.shape[0], *grid, *x.shape[2:])
        if heard is None:
            return pooled | {"sequence": self._mean(by_place(tokens), None)}
        places = by_place(heard)
        return pooled | {"sequence": self._mean(by_place(tokens), places), "heard": places.any(axis=1)}

    @staticmethod
    def _mean(tokens: Float[Array, "B N *rest D"], heard: Bool[Array, "B N *rest"] | None) -> Array:
        """Over the tokens that are heard, or over all where none is."""
        if heard is None:
            return tokens.mean(axis=1)
        heard = (heard | ~heard.any(axis=1, keepdims=True))[..., None]
        return (tokens * heard).sum(axis=1) / heard.sum(axis=1)

    def _run(self, block: Any, x: Array, num_queries: int | None, keys: Any, heard: Any) -> Array:
        policy = REMAT[self.config.remat]
        if policy is None:
            return block(x, num_queries, keys, heard)
        call = type(block).__call__
        return nnx.remat(call, static_argnums=(2,), policy=policy)(block, x, num_queries, keys, heard)


def patchout(key: Key[Array, ""], *, grid: tuple[int, int], out: tuple[int, int, int]) -> Int[Array, " K"]:
    """PaSST's patchout (Koutini et al. 2022, section 3): the numbers of patches left in, frequency-major and
    ascending.

    Structured: `out[0]` whole rows and `out[1]` whole columns of the grid (frequency, time) go, drawn without
    replacement; then unstructured: `out[2]` of the rest. Always K = (rows - out[0]) (columns - out[1]) -
    out[2] of them.
    """
    freq, time, patches = out
    row_key, column_key, patch_key = jax.random.split(key, 3)
    draw = lambda key, size, out: jnp.sort(jax.random.permutation(key, size)[: size - out])
    rows, columns = draw(row_key, grid[0], freq), draw(column_key, grid[1], time)
    left = (rows[:, None] * grid[1] + columns[None]).reshape(-1)
    return left[draw(patch_key, left.shape[0], patches)] if patches else left


class PatchEmbed(nnx.Module):
    """A strided convolution without padding from [B, T, F] to tokens, frequency-major (token = f x t_dim +
    t).
    """

    def __init__(self, config: ASTConfig, *, rngs: nnx.Rngs):
        self.config = config
        shape = config.patch_shape
        uniform = uniform_fan_in(math.prod(shape))
        self.kernel = nnx.Param(uniform(rngs.params(), (*shape, 1, config.width)))
        self.bias = nnx.Param(uniform(rngs.params(), (config.width,)))

    def __call__(self, x: Float[Array, "B T F"]) -> Float[Array, "B N D"]:
        dtype = self.config.dtype
        # the ViT's image: height = frequency, width = time
        image, kernel = jnp.swapaxes(x, 1, 2).astype(dtype), self.kernel[...].astype(dtype)
        y = current().patches(image, kernel, self.config.strides)
        return y.reshape(y.shape[0], -1, y.shape[-1]) + self.bias[...].astype(dtype)[None, None]


class Block(nnx.Module):
    """Pre-norm transformer block: x + attention(norm(x)), then x + mlp(norm(x)).

    In training each of the two is left out for a clip with probability `drop_path`, and counts for more
    where it is not, so that its mean is the same (Huang et al. 2016, as timm's ViT has it).
    """

    def __init__(self, config: ASTConfig, drop_path: float = 0.0, *, rngs: nnx.Rngs):
        self.drop_path = drop_path
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
        self.mlp = MLP(config.width, config.hidden_width, config.dtype, rngs=rngs)

    def __call__(
        self,
        x: Float[Array, "B N D"],
        num_queries: int | None = None,
        keys: Key[Array, " B"] | None = None,
        heard: Bool[Array, "B N"] | None = None,
    ) -> Float[Array, "B Q D"]:
        """Returns the first `num_queries` tokens, or all of them; `keys` in training alone. Where `heard` is
        given, tokens that it is false for are not attended to.
        """
        residual, norm = current().residual, current().norm
        left = functools.partial(dropped, rate=self.drop_path, whole=True)
        added = left(self.attention(norm(self.norm1, x), num_queries, heard), folded(keys, 0))
        x = residual(x[:, :num_queries] + added)
        return residual(x + left(self.mlp(norm(self.norm2, x)), folded(keys, 1)))

    def attended(self, x: Float[Array, "B N D"]) -> Float[Array, "B N D"]:
        """What its attention sees of the residual stream."""
        return self.norm1(x)


class Attention(nnx.Module):
    """Multi-head self-attention, query, key and value from one matrix [D, 3D] as in timm."""

    def __init__(self, config: ASTConfig, *, rngs: nnx.Rngs):
        self.num_heads = config.num_heads
        self.qkv = linear(config.width, 3 * config.width, config.dtype, rngs)
        self.proj = linear(config.width, config.width, config.dtype, rngs)

    def __call__(
        self,
        x: Float[Array, "B N D"],
        num_queries: int | None = None,
        heard: Bool[Array, "B N"] | None = None,
    ) -> Float[Array, "B Q D"]:
        q, k, v = self._heads(x, num_queries)
        # fused kernels know no mask by token
        y = current().attend(q, k, v) if heard is None else attend(q, k, v, heard)
        return self.proj(y.reshape(*y.shape[:2], -1))

    def weights(
        self, x: Float[Array, "B N D"], heard: Bool[Array, "B N"] | None = None
    ) -> Float[Array, "B H N N"]:
        """The softmax weights alone, float32, query by key."""
        q, k, _ = self._heads(x)
        scores = jnp.einsum("bqhk,bnhk->bhqn", q, k, preferred_element_type=jnp.float32)
        return jax.nn.softmax(masked(scores * q.shape[-1] ** -0.5, heard), axis=-1)

    def _heads(
        self, x: Float[Array, "B N D"], num_queries: int | None = None
    ) -> list[Float[Array, "B _ H K"]]:
        """Query, key and value."""
        return [y.reshape(*y.shape[:2], self.num_heads, -1) for y in current().qkv(self.qkv, x, num_queries)]


class MLP(nnx.Module):
    """Two linear layers with the exact (erf) GELU between them."""

    def __init__(self, width: int, hidden: int, dtype: str, *, rngs: nnx.Rngs):
        self.fc1 = linear(width, hidden, dtype, rngs)
        self.fc2 = linear(hidden, width, dtype, rngs)

    def __call__(self, x: Float[Array, "B N D"]) -> Float[Array, "B N D"]:
        return self.fc2(current().gelu(self.fc1(x)))
