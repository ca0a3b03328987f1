"""Wavegram-Logmel-CNN14 (Kong et al. 2020, section IV.B): CNN14 with a second branch that learns its own
spectrogram from the waveform; PANNs' row of the AST paper's table 1 on the full set.

B batch, T rows of a hop's samples, S samples, C classes.
"""

import dataclasses
import itertools
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from ast_jax.errors import InputError
from ast_jax.features.samples import Samples
from ast_jax.models.layers import BatchNorm, largest
from ast_jax.models.panns import CNN14, NUM_MEL_BINS, XAVIER, ConvBlock, PANNsConfig, front_end_at

# Of the branch's convolutions; its last output is taken as _PLANES planes of half the mel bins.
_WIDTHS, _PLANES = (64, 64, 128, 128), 4
_STRIDE = 5


@dataclasses.dataclass(frozen=True)
class WavegramConfig(PANNsConfig):
    """1,000 rows of 10 ms, of which the log-mel branch makes 1,001 frames."""

    num_frames: int = 1000

    def __post_init__(self):
        super().__post_init__()
        if self.sample_rate_hz != 32_000:
            raise InputError(f"sample_rate_hz {self.sample_rate_hz}: the wavegram hears at 32,000 alone")
        if self.num_frames % 2:
            raise InputError(
                f"num_frames {self.num_frames}: the wavegram's two branches meet at an even number alone"
            )


class WavegramLogmelCNN14(CNN14):
    """A waveform, row by row, in; log-odds out. Masks are of the log-mel branch, mixup is of both."""

    Config: ClassVar[type] = WavegramConfig
    columns = "samples"

    def __init__(self, config: WavegramConfig, *, rngs: nnx.Rngs):
        super().__init__(config, rngs=rngs)
        first, second = config.channels[:2]
        self.blocks[1] = _block(2 * first, second, 2, config, rngs)
        self.pre_conv = TimeConvolution(1, _WIDTHS[0], 11, stride=_STRIDE, rngs=rngs)
        self.pre_norm = BatchNorm(_WIDTHS[0])
        self.pre_blocks = nnx.List([TimeBlock(*pair, rngs=rngs) for pair in itertools.pairwise(_WIDTHS)])
        self.wavegram = _block(_PLANES, first, (2, 1), config, rngs)

    def _log_mel(self, x: Float[Array, "B T F"]) -> Float[Array, "B _ M"]:
        return front_end_at(self.config.sample_rate_hz).features(x.reshape(x.shape[0], -1))

    def _beside(self, x: Float[Array, "B T F"], training: bool, mask: Any) -> list[Float[Array, "B t f O"]]:
        """The wavegram: half as many steps as the log-mel has frames, half as many columns as it has bins. It
        is not dropped, as published.
        """
        sound = x.reshape(x.shape[0], -1)
        y = self.pre_conv(sound[..., None].astype(self.config.dtype))
        y = jax.nn.relu(self.pre_norm(y, training=training, mask=mask))
        for block in self.pre_blocks:
            y = block(y, training=training, mask=mask)
        planes = y.reshape(*y.shape[:2], _PLANES, NUM_MEL_BINS // 2)
        return [self.wavegram(jnp.swapaxes(planes, 2, 3), training=training, mask=mask)]

    @property
    def front_end(self) -> Samples:
        """Sound as it is; the first layers make what they need of it."""
        return Samples()

    @property
    def levels(self) -> tuple[tuple[str, ...], ...]:
        """CNN14's, the waveform's branch with the first block."""
        first, *others = super().levels
        return ((*first, "pre_conv", "pre_norm", "pre_blocks", "wavegram"), *others)


class TimeConvolution(nnx.Module):
    """A convolution along time of [B, S, inputs], without bias, padded by half its reach."""

    def __init__(
        self, inputs: int, outputs: int, size: int, *, stride: int = 1, dilation: int = 1, rngs: nnx.Rngs
    ):
        self.stride, self.dilation = stride, dilation
        self.kernel = nnx.Param(XAVIER(rngs.params(), (size, inputs, outputs)))

    def __call__(self, x: Float[Array, "B S I"]) -> Float[Array, "B _ O"]:
        half = self.dilation * (self.kernel.shape[0] // 2)
        # over one column: exporters know convolutions of planes alone
        return jax.lax.conv_general_dilated(
            x[:, :, None],
            self.kernel[...].astype(x.dtype)[:, None],
            (self.stride, 1),
            ((half, half), (0, 0)),
            rhs_dilation=(self.dilation, 1),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )[:, :, 0]


class TimeBlock(nnx.Module):
    """Two convolutions along time, the second one dilated, each normalised and rectified, then the maximum of
    every four steps.
    """

    def __init__(self, inputs: int, outputs: int, *, rngs: nnx.Rngs):
        self.convs = nnx.List(
            [
                TimeConvolution(inputs, outputs, 3, rngs=rngs),
                TimeConvolution(outputs, outputs, 3, dilation=2, rngs=rngs),
            ]
        )
        self.norms = nnx.List([BatchNorm(outputs) for _ in range(2)])

    def __call__(
        self, x: Float[Array, "B S I"], *, training: bool, mask: Float[Array, " B"] | None
    ) -> Float[Array, "B _ O"]:
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = jax.nn.relu(norm(conv(x), training=training, mask=mask))
        fours = x.reshape(x.shape[0], -1, 4, x.shape[-1])
        return largest(fours, axis=2)


def _block(inputs: int, outputs: int, pool: Any, config: PANNsConfig, rngs: nnx.Rngs) -> ConvBlock:
    return ConvBlock(inputs, outputs, convolutions=2, kernel=3, pool=pool, dtype=config.dtype, rngs=rngs)
