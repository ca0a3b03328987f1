"""PSLA: EfficientNet with four heads of attention over time (Gong, Chung and Glass 2021, "PSLA"), as
published.

B batch, T frames, F mel bins, C classes, D channels, t steps of time (T / 32).
"""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Key

from ast_jax.errors import InputError
from ast_jax.features.front_end import Kaldi
from ast_jax.models.base import check_dtype, check_shape
from ast_jax.models.efficientnet import SCALES, EfficientNet
from ast_jax.models.layers import log_odds, uniform_fan_in

# of the published code, whatever its own setting says
NUM_HEADS = 4


@dataclasses.dataclass(frozen=True)
class PSLAConfig:
    """A PSLA model; 1,056 frames are the published ones for AudioSet."""

    num_classes: int = 527
    num_frames: int = 1056
    num_mel_bins: int = 128
    # the EfficientNet: of SCALES
    scale: str = "b2"
    # the last block is left out of an example with nearly this probability, the first one never
    drop_connect: float = 0.2
    # share of a batch in the running statistics: the published one wants thousands of steps, or a start from
    # ImageNet's
    momentum: float = 0.01
    # of the convolutions' arithmetic; parameters, statistics and the heads stay float32
    dtype: str = "float32"

    def __post_init__(self):
        if self.scale not in SCALES:
            raise InputError(f"scale {self.scale!r} is not offered: choose one of {', '.join(SCALES)}")
        check_dtype(self.dtype)
        if min(self.num_classes, self.num_frames, self.num_mel_bins) < 1:
            raise InputError(
                f"num_classes {self.num_classes}, num_frames {self.num_frames}, num_mel_bins "
                f"{self.num_mel_bins}: wanted 1 or more"
            )


class PSLA(nnx.Module):
    """Log-mel in, log-odds out: the published model gives a score, not a logit."""

    Config: ClassVar[type] = PSLAConfig

    def __init__(self, config: PSLAConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.net = EfficientNet(
            SCALES[config.scale],
            drop_connect=config.drop_connect,
            momentum=config.momentum,
            dtype=config.dtype,
            rngs=rngs,
        )
        heads = lambda: nnx.List([_dense(self.net.width, config.num_classes, rngs) for _ in range(NUM_HEADS)])
        self.attend, self.classify = heads(), heads()
        self.weights = nnx.Param(jnp.full(NUM_HEADS, 1 / NUM_HEADS))

    def __call__(
        self,
        x: Float[Array, "B T F"],
        *,
        key: Key[Array, " B"] | None = None,
        mask: Float[Array, " B"] | None = None,
    ) -> tuple[Float[Array, "B C"], dict[str, Any]]:
        """Normalised features to log-odds and what was computed on the way (`base.py` says what).

        With `key` statistics are the batch's, without rows that `mask` leaves out, and blocks are left out.
        """
        check_shape(x, self.config.num_frames, self.config.num_mel_bins)
        # height = frequency, width = time
        image = jnp.swapaxes(x, 1, 2).astype(self.config.dtype)[..., None]
        steps = self.net(image, key=key, mask=mask).astype(jnp.float32).mean(axis=1)
        score, frames = jnp.zeros(()), jnp.zeros(())
        for number, (attend, classify) in enumerate(zip(self.attend, self.classify, strict=True)):
            weights = jnp.clip(jax.nn.sigmoid(attend(steps)), 1e-7, 1 - 1e-7)
            weights = weights / weights.sum(axis=1, keepdims=True)
            judged = self.weights[number] * jax.nn.sigmoid(classify(steps))
            score, frames = score + (weights * judged).sum(axis=1), frames + judged
        out = {"embedding": steps.mean(axis=1), "sequence": steps, "frames": log_odds(frames)}
        return log_odds(score), out

    @property
    def front_end(self) -> Kaldi:
        """The AST's, but for what a model sees: (x - mean) / std."""
        return Kaldi(num_mel_bins=self.config.num_mel_bins, std=1.0, spread=1.0)

    @property
    def time_steps(self) -> tuple[int, int, int]:
        """Of `out["sequence"]`: frames from one step to the next, which is what it is mostly about, and steps
        in a whole window.
        """
        return 32, 32, self.net.length(self.config.num_frames)

    @property
    def levels(self) -> tuple[tuple[str, ...], ...]:
        """The stem, each block, the last convolution, the heads."""
        blocks = [(f"net/blocks/{i}",) for i in range(len(self.net.blocks))]
        return (
            ("net/stem", "net/stem_norm"),
            *blocks,
            ("net/top", "net/top_norm"),
            ("attend", "classify", "weights"),
        )


def _dense(inputs: int, outputs: int, rngs: nnx.Rngs) -> nnx.Linear:
    uniform = uniform_fan_in(inputs)
    return nnx.Linear(
        inputs,
        outputs,
        kernel_init=uniform,
        bias_init=uniform,
        precision=jax.lax.Precision.HIGHEST,
        rngs=rngs,
    )
