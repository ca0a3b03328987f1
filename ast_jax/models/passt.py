"""PaSST: an AST whose patches have a position in time and one in frequency, each learnt apart (Koutini et al.
2022).

B batch, T frames, F mel bins, N tokens, D width, f x t the patch grid.
"""

import dataclasses
from collections.abc import Callable
from typing import ClassVar

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from ast_jax.features.front_end import FrontEnd
from ast_jax.features.passt import PaSSTMel
from ast_jax.models.ast import AST, ASTConfig
from ast_jax.models.base import check_shape


@dataclasses.dataclass(frozen=True)
class PaSSTConfig(ASTConfig):
    """PaSST-S; 1,000 frames are 10 s."""

    num_frames: int = 1000


class PaSST(AST):
    """Log-mel at 32 kHz in, logits out; patchout, that PaSST brought, is every AST's."""

    Config: ClassVar[type] = PaSSTConfig
    below: ClassVar[tuple[str, ...]] = (
        *("patch_embed", "cls_token", "dist_token"),
        *("token_positions", "freq_positions", "time_positions"),
    )

    def _make_tokens(self, drawn: Callable[..., nnx.Param]) -> None:
        (rows, columns), width = self.config.grid, self.config.width
        if prefix := self.config.num_prefix_tokens:
            self.cls_token = drawn(1, 1, width)
            if prefix > 1:
                self.dist_token = drawn(1, 1, width)
            self.token_positions = drawn(prefix, width)
        self.freq_positions, self.time_positions = drawn(rows, width), drawn(columns, width)

    def _embed(self, x: Float[Array, "B T F"]) -> Float[Array, "B N D"]:
        config = self.config
        check_shape(x, config.num_frames, config.num_mel_bins)
        places = self.freq_positions[...][:, None] + self.time_positions[...][None]
        patches = self.patch_embed(x).astype(jnp.float32) + places.reshape(1, -1, config.width)
        if not config.num_prefix_tokens:
            return patches
        tokens = self._with_tokens(patches)
        # no scatter, which LiteRT has for one axis alone
        behind = ((0, tokens.shape[1] - config.num_prefix_tokens), (0, 0))
        return tokens + jnp.pad(self.token_positions[...], behind)[None]

    @property
    def front_end(self) -> FrontEnd:
        return PaSSTMel(num_mel_bins=self.config.num_mel_bins)
