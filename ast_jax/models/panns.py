"""PANNs: the convolutional taggers of Kong et al. 2020 (CNN6, CNN10, CNN14 and CNN14's frame-wise forms), as
published.

B batch, R rows of features (B, or 2 B where clips are mixed after the first layer), T frames, F mel bins, C
classes, D channels of the last block, t steps of time (T / 32 for CNN14).
"""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Key

from ast_jax.errors import InputError
from ast_jax.features.front_end import FrontEnd
from ast_jax.features.slaney import Slaney
from ast_jax.models.base import Between, check_dtype, check_shape
from ast_jax.models.layers import BatchNorm, Convolution, dropped, folded, log_odds, rows_of

# samples of a frame, samples between frames and highest frequency, by sample rate
_RATES = {32_000: (1024, 320, 14_000.0), 16_000: (512, 160, 8_000.0), 8_000: (256, 80, 4_000.0)}
# of 10 s
FRAMES = 1001
XAVIER = nnx.initializers.xavier_uniform()
NUM_MEL_BINS = 64


def front_end_at(rate_hz: int) -> Slaney:
    """PANNs' front end at 32, 16 or 8 kHz."""
    length, shift, high = _RATES[rate_hz]
    return Slaney(rate_hz, length, shift, NUM_MEL_BINS, high_hz=high)


@dataclasses.dataclass(frozen=True)
class PANNsConfig:
    """A PANN; 1,001 frames are 10 s."""

    num_classes: int = 527
    num_frames: int = FRAMES
    # of each block
    channels: tuple[int, ...] = (64, 128, 256, 512, 1024, 2048)
    sample_rate_hz: int = 32_000
    # of each block's output, and before each layer that reads the blocks
    dropout: tuple[float, float] = (0.2, 0.5)
    # of the convolutions' arithmetic; parameters, statistics and the layers after the blocks stay float32
    dtype: str = "float32"

    def __post_init__(self):
        if self.sample_rate_hz not in _RATES:
            raise InputError(
                f"sample_rate_hz {self.sample_rate_hz}: PANNs hear at {', '.join(map(str, _RATES))}"
            )
        check_dtype(self.dtype)
        if self.num_classes < 1 or min(self.channels, default=0) < 1:
            raise InputError(f"num_classes {self.num_classes}, channels {self.channels}: wanted 1 or more")
        if self.num_frames < (least := 2 ** len(self.channels)):
            raise InputError(
                f"num_frames {self.num_frames}: {len(self.channels)} blocks that halve the time want {least} "
                "or more"
            )


@dataclasses.dataclass(frozen=True)
class FourBlocks(PANNsConfig):
    """CNN6's and CNN10's shape."""

    channels: tuple[int, ...] = (64, 128, 256, 512)


class CNN14(nnx.Module):
    """Log-mel in decibels in, log-odds out. Initialised as published: Xavier uniform, biases 0."""

    Config: ClassVar[type] = PANNsConfig
    normalises = True
    # convolutions a block, their size, and by how much the last block's output is pooled
    convolutions, kernel, last_pool = 2, 3, 1
    # what a column of the features is
    columns = "mel bins"

    def __init__(self, config: PANNsConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.bn0 = BatchNorm(NUM_MEL_BINS)
        inputs = (1, *config.channels)
        last = len(config.channels) - 1
        self.blocks = nnx.List(
            [
                ConvBlock(
                    *inputs[i : i + 2],
                    convolutions=self.convolutions,
                    kernel=self.kernel,
                    pool=self.last_pool if i == last else 2,
                    dtype=config.dtype,
                    rngs=rngs,
                )
                for i in range(last + 1)
            ]
        )
        width = config.channels[-1]
        self.fc1 = _dense(width, width, rngs)
        self._make_head(width, rngs)

    def __call__(
        self,
        x: Float[Array, "R T F"],
        *,
        key: Key[Array, " B"] | None = None,
        mask: Float[Array, " B"] | None = None,
        between: Between = Between(),  # noqa: B008
    ) -> tuple[Float[Array, "B C"], dict[str, Any]]:
        """Features as the front end gives them to log-odds and what was computed on the way (`base.py` says
        what).

        With `key` statistics are the batch's, without rows that `mask` leaves out, and units are dropped.
        """
        check_shape(x, self.config.num_frames, self.front_end.num_mel_bins, called=self.columns)
        training, real = key is not None, rows_of(mask, x)
        log_mel = self.bn0(self._log_mel(x), training=training, mask=real)
        y = between.mix(between.augment(log_mel)).astype(self.config.dtype)[..., None]
        for number, block in enumerate(self.blocks):
            y = dropped(block(y, training=training, mask=mask), folded(key, number), self.config.dropout[0])
            if number == 0:
                beside = [between.mix(each) for each in self._beside(x, training, real)]
                y = jnp.concatenate([y, *(each.astype(y.dtype) for each in beside)], axis=-1)
        return self._judge(y.astype(jnp.float32).mean(axis=2), key)

    def _log_mel(self, x: Float[Array, "B T F"]) -> Float[Array, "B _ M"]:
        """What the first layer normalises."""
        return x

    def _beside(self, x: Float[Array, "B T F"], training: bool, mask: Any) -> list[Float[Array, "B t f O"]]:
        """What stands beside the first block's output; none here."""
        return []

    def _make_head(self, width: int, rngs: nnx.Rngs) -> None:
        self.head = _dense(width, self.config.num_classes, rngs)

    def _judge(self, steps: Float[Array, "B t D"], key: Any) -> tuple[Array, dict[str, Any]]:
        """From the last block's output, its mean over frequency; the head reads the embedding undropped."""
        pooled = steps.max(axis=1) + steps.mean(axis=1)
        embedding = jax.nn.relu(self.fc1(dropped(pooled, folded(key, 100), self.config.dropout[1])))
        return self.head(embedding), {"embedding": embedding, "sequence": steps}

    @property
    def front_end(self) -> FrontEnd:
        """PANNs' of this sample rate; the first layer normalises."""
        return front_end_at(self.config.sample_rate_hz)

    @property
    def time_steps(self) -> tuple[int, int, int]:
        """Of `out["sequence"]`: frames from one step to the next, which is what it is mostly about, and steps
        in a whole window.
        """
        halvings = sum(block.pool == 2 for block in self.blocks)
        return 2**halvings, 2**halvings, self.config.num_frames >> halvings

    @property
    def levels(self) -> tuple[tuple[str, ...], ...]:
        """Each block (the first one with the input's norm), what reads them, the head."""
        blocks = [(f"blocks/{i}",) for i in range(1, len(self.blocks))]
        return (("bn0", "blocks/0"), *blocks, ("fc1",), ("head", "attend", "classify"))


class CNN10(CNN14):
    """Four blocks of two convolutions."""

    Config: ClassVar[type] = FourBlocks
    last_pool = 2


class CNN6(CNN10):
    """Four blocks of one convolution, 5 x 5."""

    convolutions, kernel = 1, 5


class CNN14DecisionMax(CNN14):
    """CNN14 that judges each step of time, .32 s of 10 s; a clip has what its loudest step has."""

    def _judge(self, steps: Float[Array, "B t D"], key: Any) -> tuple[Array, dict[str, Any]]:
        sequence = self._read(steps, key)
        frames = self.head(dropped(sequence, folded(key, 101), self.config.dropout[1]))
        out = {"embedding": sequence.mean(axis=1), "sequence": sequence, "frames": frames}
        return frames.max(axis=1), out

    def _read(self, steps: Float[Array, "B t D"], key: Any) -> Float[Array, "B t D"]:
        """Each step with its neighbours: their maximum and their mean, zeros around the clip."""
        around = jnp.pad(steps, ((0, 0), (1, 1), (0, 0)))
        three = jnp.stack([around[:, :-2], steps, around[:, 2:]])
        # PyTorch's maximum has -inf around the clip, which after a ReLU is the same as 0.
        pooled = three.max(axis=0) + three.mean(axis=0)
        return jax.nn.relu(self.fc1(dropped(pooled, folded(key, 100), self.config.dropout[1])))


class CNN14DecisionAtt(CNN14DecisionMax):
    """CNN14 that judges each step, and weighs steps by attention, class by class."""

    def _make_head(self, width: int, rngs: nnx.Rngs) -> None:
        self.attend = _dense(width, self.config.num_classes, rngs)
        self.classify = _dense(width, self.config.num_classes, rngs)

    def _judge(self, steps: Float[Array, "B t D"], key: Any) -> tuple[Array, dict[str, Any]]:
        sequence = self._read(steps, key)
        read = dropped(sequence, folded(key, 101), self.config.dropout[1])
        weights = jax.nn.softmax(jnp.clip(self.attend(read), -10, 10), axis=1)
        frames = self.classify(read)
        score = (weights * jax.nn.sigmoid(frames)).sum(axis=1)
        out = {"embedding": sequence.mean(axis=1), "sequence": sequence, "frames": frames}
        return log_odds(score), out


class ConvBlock(nnx.Module):
    """Convolutions without bias, each normalised and rectified, then the mean over `pool` steps of time and
    bins, or as many of both; a cell that is not full is left out.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        convolutions: int,
        kernel: int,
        pool: int | tuple[int, int],
        dtype: str,
        rngs: nnx.Rngs,
    ):
        self.pool = pool
        make = lambda source: Convolution(source, outputs, kernel, init=XAVIER, dtype=dtype, rngs=rngs)
        self.convs = nnx.List([make(inputs if i == 0 else outputs) for i in range(convolutions)])
        self.norms = nnx.List([BatchNorm(outputs) for _ in range(convolutions)])

    def __call__(
        self, x: Float[Array, "B T F I"], *, training: bool, mask: Float[Array, " B"] | None
    ) -> Float[Array, "B U G O"]:
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = jax.nn.relu(norm(conv(x), training=training, mask=mask))
        batch, height, width, channels = x.shape
        steps, bins = self.pool if isinstance(self.pool, tuple) else (self.pool, self.pool)
        high, wide = height // steps, width // bins
        cells = x[:, : high * steps, : wide * bins]
        return cells.reshape(batch, high, steps, wide, bins, channels).mean(axis=(2, 4))


def _dense(inputs: int, outputs: int, rngs: nnx.Rngs) -> nnx.Linear:
    return nnx.Linear(inputs, outputs, kernel_init=XAVIER, precision=jax.lax.Precision.HIGHEST, rngs=rngs)
