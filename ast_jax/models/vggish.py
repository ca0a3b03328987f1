"""The baseline of the AST paper's table 1, as far as it can be built: a perceptron on VGGish's embeddings.

VGGish (Hershey et al. 2017) turns each .96 s into 128 numbers; three layers judge each of them, and a clip
has the mean of its scores (Kong et al. 2018, "average pooling": mAP .300 on AudioSet). The paper prints
Google's .314, of an embedding that was never released.

B batch, R rows of features (B, or 2 B where clips are mixed), T frames, F mel bins, C classes, P patches of
.96 s, E = 128 numbers of each, D hidden units.
"""

import dataclasses
import itertools
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Key

from ast_jax.errors import InputError
from ast_jax.features.vggish import VGGishMel
from ast_jax.models.base import Between, check_dtype, check_shape
from ast_jax.models.layers import BatchNorm, Convolution, dropped, folded, largest, log_odds

PATCH, BINS, EMBEDDING = 96, 64, 128
# after which convolutions halves are taken
_POOLED = (0, 1, 3, 5)
# Where nothing is loaded. The published training's normal .01 leaves narrow nets no signal.
_HE = nnx.initializers.he_uniform()


@dataclasses.dataclass(frozen=True)
class VGGishConfig:
    """The baseline; 960 frames are ten patches, and what fills no patch is left out, as published."""

    num_classes: int = 527
    num_frames: int = 960
    # of VGGish's four groups of convolutions, and of the two layers that read them
    channels: tuple[int, int, int, int] = (64, 128, 256, 512)
    width: int = 4096
    # Embeddings as AudioSet released them: whitened by PCA, clipped to +-2, cut to 8 bits.
    released: bool = False
    # of the perceptron's three layers
    hidden: int = 1024
    dropout: float = 0.5
    # of the convolutions' arithmetic
    dtype: str = "float32"

    def __post_init__(self):
        check_dtype(self.dtype)
        if len(self.channels) != 4 or min(self.num_classes, self.width, self.hidden, *self.channels) < 1:
            raise InputError(
                f"num_classes {self.num_classes}, channels {self.channels}, width {self.width}, hidden "
                f"{self.hidden}: wanted 1 or more, and four channels"
            )
        if self.num_frames < PATCH:
            raise InputError(f"num_frames {self.num_frames}: VGGish hears {PATCH} frames (.96 s) or more")


class VGGishMLP(nnx.Module):
    """VGGish's log-mel in, log-odds out."""

    Config: ClassVar[type] = VGGishConfig
    normalises = True

    def __init__(self, config: VGGishConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.net = VGGish(config, rngs=rngs)
        self.classifier = Perceptron(config, rngs=rngs)

    def __call__(
        self,
        x: Float[Array, "R T F"],
        *,
        key: Key[Array, " B"] | None = None,
        mask: Float[Array, " B"] | None = None,
        between: Between = Between(),  # noqa: B008
    ) -> tuple[Float[Array, "B C"], dict[str, Any]]:
        """Features as the front end gives them to log-odds and what was computed on the way (`base.py`)."""
        check_shape(x, self.config.num_frames, BINS)
        x = between.mix(between.augment(x))
        patches = x[:, : self._patches * PATCH].reshape(-1, PATCH, BINS)
        embeddings = self.net(patches).reshape(x.shape[0], self._patches, EMBEDDING)
        sequence, frames = self.classifier(embeddings, key=key, mask=mask)
        out = {"embedding": sequence.mean(axis=1), "sequence": sequence, "frames": frames}
        return log_odds(jax.nn.sigmoid(frames).mean(axis=1)), out

    @property
    def _patches(self) -> int:
        return self.config.num_frames // PATCH

    @property
    def front_end(self) -> VGGishMel:
        """VGGish's own."""
        return VGGishMel()

    @property
    def time_steps(self) -> tuple[int, int, int]:
        """Of `out["sequence"]`: frames of a step, frames to the next one, steps in a whole window."""
        return PATCH, PATCH, self._patches

    @property
    def levels(self) -> tuple[tuple[str, ...], ...]:
        """VGGish's layers, then the perceptron as a whole, which is what the published one trains."""
        convolutions = [(f"net/convs/{i}",) for i in range(6)]
        return (*convolutions, ("net/fc1",), ("net/fc2",), ("net/embed", "net/pca"), ("classifier",))


class VGGish(nnx.Module):
    """Six convolutions, halved after the first, second, fourth and last, and three layers; no activation
    after the last one.
    """

    def __init__(self, config: VGGishConfig, *, rngs: nnx.Rngs):
        first, second, third, fourth = config.channels
        widths = (1, first, second, third, third, fourth, fourth)
        shared: Any = {"use_bias": True, "init": _HE, "dtype": config.dtype, "rngs": rngs}
        self.convs = nnx.List([Convolution(*pair, 3, **shared) for pair in itertools.pairwise(widths)])
        self.fc1 = _dense((PATCH // 16) * (BINS // 16) * fourth, config.width, rngs)
        self.fc2 = _dense(config.width, config.width, rngs)
        self.embed = _dense(config.width, EMBEDDING, rngs)
        self.pca = Released() if config.released else None

    def __call__(self, patches: Float[Array, "N 96 64"]) -> Float[Array, "N 128"]:
        x = patches[..., None]
        for i, conv in enumerate(self.convs):
            x = jax.nn.relu(conv(x))
            if i in _POOLED:
                x = _halved(x)
        x = jax.nn.relu(self.fc1(x.reshape(x.shape[0], -1).astype(jnp.float32)))
        x = self.embed(jax.nn.relu(self.fc2(x)))
        return x if self.pca is None else self.pca(x)


class Released(nnx.Module):
    """Embeddings as AudioSet released them, to (-1, 1)."""

    def __init__(self):
        # constants of the published files: no gradient reaches them
        self.matrix = nnx.BatchStat(jnp.eye(EMBEDDING))
        self.mean = nnx.BatchStat(jnp.zeros(EMBEDDING))

    def __call__(self, x: Float[Array, "N E"]) -> Float[Array, "N E"]:
        white = jnp.matmul(x - self.mean[...].reshape(1, -1), self.matrix[...].T, precision="highest")
        byte = (jnp.clip(white, -2.0, 2.0) + 2.0) * (255 / 4)
        # whole, with the gradient of what was not
        byte = byte + jax.lax.stop_gradient(jnp.floor(byte) - byte)
        return (byte - 128) / 128


class Perceptron(nnx.Module):
    """Normalised input, three layers without bias, normalised, rectified and dropped, and the head."""

    def __init__(self, config: VGGishConfig, *, rngs: nnx.Rngs):
        self.dropout = config.dropout
        widths = (EMBEDDING, config.hidden, config.hidden, config.hidden)
        self.norm = BatchNorm(EMBEDDING)
        pairs = itertools.pairwise(widths)
        self.layers = nnx.List([_dense(*pair, rngs, bias=False) for pair in pairs])
        self.norms = nnx.List([BatchNorm(config.hidden) for _ in range(3)])
        self.head = _dense(config.hidden, config.num_classes, rngs)

    def __call__(
        self,
        x: Float[Array, "B P E"],
        *,
        key: Key[Array, " B"] | None,
        mask: Float[Array, " B"] | None,
    ) -> tuple[Float[Array, "B P D"], Float[Array, "B P C"]]:
        """Hidden units and logits of each patch."""
        training = key is not None
        x = self.norm(x, training=training, mask=mask)
        for number, (layer, norm) in enumerate(zip(self.layers, self.norms, strict=True)):
            x = jax.nn.relu(norm(layer(x), training=training, mask=mask))
            x = dropped(x, folded(key, number), self.dropout)
        return x, self.head(x)


def _halved(x: Float[Array, "N H W C"]) -> Float[Array, "N h w C"]:
    """The largest of each two by two."""
    number, height, width, channels = x.shape
    fours = x.reshape(number, height // 2, 2, width // 2, 2, channels).swapaxes(2, 3)
    return largest(fours.reshape(number, height // 2, width // 2, 4, channels), axis=3)


def _dense(inputs: int, outputs: int, rngs: nnx.Rngs, *, bias: bool = True) -> nnx.Linear:
    highest = jax.lax.Precision.HIGHEST
    return nnx.Linear(inputs, outputs, use_bias=bias, kernel_init=_HE, precision=highest, rngs=rngs)
