"""EAT: a ViT of patches side by side with fixed positions, normalised after each residual, its class token
judged (Chen et al. 2024, "EAT: Self-supervised pre-training with efficient audio transformer").

B batch, N tokens, D width, f x t the patch grid.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Float32, Key

from ast_jax.models.ast import AST, MLP, ASTConfig, Attention, Undistilled
from ast_jax.models.base import check_shape
from ast_jax.models.layers import dropped, folded


@dataclasses.dataclass(frozen=True)
class EATConfig(Undistilled):
    """EAT-base on 10 s."""


class EAT(AST):
    """Log-mel in, logits out. Its tokens are in the AST's order: with positions that do not depend on it,
    attention does not either.
    """

    Config: ClassVar[type] = EATConfig
    below: ClassVar[tuple[str, ...]] = ("patch_embed", "cls_token", "pre_norm")

    def __init__(self, config: EATConfig, *, rngs: nnx.Rngs):
        super().__init__(config, rngs=rngs)
        self.pre_norm = _norm(config, rngs)
        # the last block ends in one
        self.norm = Identity()

    def _make_tokens(self, drawn: Callable[..., nnx.Param]) -> None:
        self.cls_token = drawn(1, 1, self.config.width)

    def _make_block(self, drop_path: float, rngs: nnx.Rngs) -> "Block":
        return Block(self.config, drop_path, rngs=rngs)

    def _embed(self, x: Float[Array, "B T F"]) -> Float[Array, "B N D"]:
        config = self.config
        check_shape(x, config.num_frames, config.num_mel_bins)
        places = positions(config.grid, config.width).reshape(1, -1, config.width)
        tokens = self._with_tokens(self.patch_embed(x).astype(jnp.float32) + places)
        return self.pre_norm(tokens)


class Identity(nnx.Module):
    """In the place of a norm."""

    def __call__(self, x: Array) -> Array:
        return x


class Block(nnx.Module):
    """norm(x + attention(x)), then norm(x + mlp(x)), which an AST's block has the other way round."""

    def __init__(self, config: ASTConfig, drop_path: float, *, rngs: nnx.Rngs):
        self.drop_path = drop_path
        self.attention = Attention(config, rngs=rngs)
        self.norm1 = _norm(config, rngs)
        self.mlp = MLP(config.width, config.hidden_width, config.dtype, rngs=rngs)
        self.norm2 = _norm(config, rngs)

    def __call__(
        self,
        x: Float[Array, "B N D"],
        num_queries: int | None = None,
        keys: Key[Array, " B"] | None = None,
        heard: Bool[Array, "B N"] | None = None,
    ) -> Float[Array, "B Q D"]:
        """As an AST's block has it."""
        left = functools.partial(dropped, rate=self.drop_path, whole=True)
        added = left(self.attention(x, num_queries, heard), folded(keys, 0))
        x = self.norm1(x[:, :num_queries] + added.astype(jnp.float32))
        return self.norm2(x + left(self.mlp(x), folded(keys, 1)).astype(jnp.float32))

    def attended(self, x: Float[Array, "B N D"]) -> Float[Array, "B N D"]:
        """What its attention sees of the residual stream."""
        return x


@functools.lru_cache(maxsize=8)
def positions(grid: tuple[int, int], width: int) -> Float32[np.ndarray, "f t D"]:
    """Sines and cosines of a patch's place, half of them of its frequency, half of its time (as MAE's:
    He et al. 2022). Read-only.
    """
    rates = 1 / 10_000 ** (np.arange(width // 4) / (width / 4))
    of_axis = lambda count: np.arange(count)[:, None] * rates
    waves: list[Any] = [np.concatenate([np.sin(a), np.cos(a)], axis=1) for a in map(of_axis, grid)]
    shape = (*grid, width // 2)
    found = [np.broadcast_to(waves[0][:, None], shape), np.broadcast_to(waves[1][None], shape)]
    made = np.concatenate(found, axis=-1).astype(np.float32)
    made.flags.writeable = False
    return made


def _norm(config: ASTConfig, rngs: nnx.Rngs) -> nnx.LayerNorm:
    return nnx.LayerNorm(config.width, epsilon=config.norm_eps, use_fast_variance=False, rngs=rngs)
