"""CED: a ViT on 64 mel bins in decibels, its input normalised by a layer of its own, the mean of all patches
judged (Dinkel et al. 2023, "CED: Consistent ensemble distillation for audio tagging").

B batch, R rows of features (B, or 2 B where clips are mixed after the first layer), T frames, F mel bins, C
classes.
"""

import dataclasses
from typing import Any, ClassVar

from flax import nnx
from jaxtyping import Array, Float, Key

from ast_jax.features.front_end import FrontEnd
from ast_jax.features.slaney import HTKDecibels
from ast_jax.models.ast import Undistilled
from ast_jax.models.base import Between, check_shape
from ast_jax.models.layers import BatchNorm, rows_of
from ast_jax.models.passt import PaSST

# of what is heard, below its loudest cell; torchaudio's `top_db`
RANGE_DB = 120.0


@dataclasses.dataclass(frozen=True)
class CEDConfig(Undistilled):
    """CED-base; 1,001 frames are 10 s. It has no class token either."""

    num_frames: int = 1001
    num_mel_bins: int = 64

    @property
    def num_prefix_tokens(self) -> int:
        return 0


class CED(PaSST):
    """Log-mel in decibels as it is in, logits out; positions apart as PaSST's are."""

    Config: ClassVar[type] = CEDConfig
    below: ClassVar[tuple[str, ...]] = ("input_norm", "patch_embed", "freq_positions", "time_positions")
    normalises = True

    def __init__(self, config: CEDConfig, *, rngs: nnx.Rngs):
        super().__init__(config, rngs=rngs)
        self.input_norm = BatchNorm(config.num_mel_bins, momentum=0.01)

    def __call__(
        self,
        x: Float[Array, "R T F"],
        *,
        key: Key[Array, " B"] | None = None,
        mask: Float[Array, " B"] | None = None,
        between: Between = Between(),  # noqa: B008
        attention: bool = False,
    ) -> tuple[Float[Array, "B C"], dict[str, Any]]:
        """As `AST` has it. A window is heard from its loudest cell down to 120 dB below, as in training:
        so padding is as quiet as zeros beside that sound would be. R is B, or twice where `between` mixes.
        """
        check_shape(x, self.config.num_frames, self.config.num_mel_bins)
        x = x.clip(x.max(axis=(1, 2), keepdims=True) - RANGE_DB)
        # before each band is normalised in its own way, which leaves nothing even
        before = self._heard(x)
        x = self.input_norm(x, training=key is not None, mask=rows_of(mask, x))
        x = between.mix(between.augment(x))
        heard = self._heard(x)
        if before is not None and heard is not None:
            # of two that are mixed, what either has; whole masks are even since
            heard = heard & before.reshape(x.shape[0], -1, heard.shape[1]).any(axis=1)
        return self._through(x, heard, key, attention)

    @property
    def front_end(self) -> FrontEnd:
        return HTKDecibels(num_mel_bins=self.config.num_mel_bins)
