"""EfficientNet (Tan and Le 2019) up to its last convolution, in the arithmetic of `efficientnet_pytorch`,
whose ImageNet weights PSLA starts from.

B batch, H height, W width, D channels out.
"""

import dataclasses
import math
from typing import Any, NamedTuple

import jax
from flax import nnx
from jaxtyping import Array, Float, Key

from ast_jax.models.layers import BatchNorm, Convolution, dropped, folded


class Scale(NamedTuple):
    """A size of the family: width and depth against B0's, and the side of the images it was made for."""

    width: float
    depth: float
    image: int


# `tiny` is none of the paper's: for laptops, and for tests.
SCALES = {
    "tiny": Scale(0.25, 0.5, 224),
    "b0": Scale(1.0, 1.0, 224),
    "b1": Scale(1.0, 1.1, 240),
    "b2": Scale(1.1, 1.2, 260),
    "b3": Scale(1.2, 1.4, 300),
    "b4": Scale(1.4, 1.8, 380),
}

# of B0: blocks, kernel, stride, expansion, channels in and out
_STAGES = (
    (1, 3, 1, 1, 32, 16),
    (2, 3, 2, 6, 16, 24),
    (2, 5, 2, 6, 24, 40),
    (3, 3, 2, 6, 40, 80),
    (3, 5, 1, 6, 80, 112),
    (4, 5, 2, 6, 112, 192),
    (1, 3, 1, 6, 192, 320),
)
_STEM, _TOP = 32, 1280


@dataclasses.dataclass(frozen=True)
class BlockShape:
    """An inverted bottleneck; `padding` before and after, on both axes; all but a stage's first add what they
    are given.
    """

    inputs: int
    outputs: int
    kernel: int
    stride: int
    expansion: int
    padding: tuple[int, int]
    adds: bool


def blocks_of(scale: Scale) -> tuple[tuple[int, int], list[BlockShape]]:
    """The stem's padding and every block.

    Padding keeps a *square image of the size the scale was made for* at ceil(size / stride), whatever the
    input's own size: `efficientnet_pytorch` fixes it when a model is made.
    """
    side, shapes = scale.image, []
    stem, side = _padding(side, 3, 2)
    for repeats, kernel, stride, expansion, inputs, outputs in _STAGES:
        narrow, wide = channels(inputs, scale.width), channels(outputs, scale.width)
        for number in range(math.ceil(repeats * scale.depth)):
            step = stride if number == 0 else 1
            padding, side = _padding(side, kernel, step)
            given = wide if number else narrow
            shapes.append(BlockShape(given, wide, kernel, step, expansion, padding, adds=number > 0))
    return stem, shapes


def channels(count: int, width: float) -> int:
    """A multiple of 8 near `count` x `width`, at most a tenth below."""
    wanted = count * width
    near = max(8, int(wanted + 4) // 8 * 8)
    return near + 8 if near < 0.9 * wanted else near


def _padding(side: int, kernel: int, stride: int) -> tuple[tuple[int, int], int]:
    """Before and after, and the side that comes out."""
    out = math.ceil(side / stride)
    total = max((out - 1) * stride + kernel - side, 0)
    return (total // 2, total - total // 2), out


def _norm(count: int, momentum: float) -> BatchNorm:
    return BatchNorm(count, eps=1e-3, momentum=momentum)


class EfficientNet(nnx.Module):
    """Images of one channel to `width` feature maps, a 32nd as high and wide."""

    def __init__(self, scale: Scale, *, drop_connect: float, momentum: float, dtype: str, rngs: nnx.Rngs):
        self.drop_connect = drop_connect
        padding, shapes = blocks_of(scale)
        self.strided = ((3, 2, padding), *((s.kernel, s.stride, s.padding) for s in shapes))
        stem, self.width = channels(_STEM, scale.width), channels(_TOP, scale.width)
        self.stem = Convolution(1, stem, 3, stride=2, padding=padding, dtype=dtype, rngs=rngs)
        self.stem_norm = _norm(stem, momentum)
        self.blocks = nnx.List([Block(shape, momentum=momentum, dtype=dtype, rngs=rngs) for shape in shapes])
        self.top = Convolution(shapes[-1].outputs, self.width, 1, dtype=dtype, rngs=rngs)
        self.top_norm = _norm(self.width, momentum)

    def __call__(
        self, x: Float[Array, "B H W 1"], *, key: Key[Array, " B"] | None, mask: Float[Array, " B"] | None
    ) -> Float[Array, "B h w D"]:
        """With `key`, statistics are the batch's and blocks are left out of single examples, later ones more
        often (drop connect).
        """
        norm: dict[str, Any] = {"training": key is not None, "mask": mask}
        x = jax.nn.silu(self.stem_norm(self.stem(x), **norm))
        for number, block in enumerate(self.blocks):
            rate = self.drop_connect * number / len(self.blocks)
            x = block(x, folded(key, number), rate, norm)
        return jax.nn.silu(self.top_norm(self.top(x), **norm))

    def length(self, side: int) -> int:
        """Of an axis that is `side` long, at the end."""
        for kernel, stride, padding in self.strided:
            side = (side + sum(padding) - kernel) // stride + 1
        return side


class Block(nnx.Module):
    """Expand, depthwise convolution, squeeze and excitation, project; the input added where it fits."""

    def __init__(self, shape: BlockShape, *, momentum: float, dtype: str, rngs: nnx.Rngs):
        self.shape = shape
        inner = shape.inputs * shape.expansion
        if shape.expansion > 1:
            self.expand = Convolution(shape.inputs, inner, 1, dtype=dtype, rngs=rngs)
            self.expand_norm = _norm(inner, momentum)
        self.depthwise = Convolution(
            inner,
            inner,
            shape.kernel,
            stride=shape.stride,
            padding=shape.padding,
            depthwise=True,
            dtype=dtype,
            rngs=rngs,
        )
        self.depthwise_norm = _norm(inner, momentum)
        # a quarter of what the block is given, not of what it is expanded to
        squeezed = max(1, shape.inputs // 4)
        self.squeeze = Convolution(inner, squeezed, 1, use_bias=True, dtype=dtype, rngs=rngs)
        self.excite = Convolution(squeezed, inner, 1, use_bias=True, dtype=dtype, rngs=rngs)
        self.project = Convolution(inner, shape.outputs, 1, dtype=dtype, rngs=rngs)
        self.project_norm = _norm(shape.outputs, momentum)

    def __call__(self, x: Float[Array, "B H W I"], keys: Any, rate: float, norm: dict[str, Any]) -> Array:
        y = x
        if self.shape.expansion > 1:
            y = jax.nn.silu(self.expand_norm(self.expand(x), **norm))
        y = jax.nn.silu(self.depthwise_norm(self.depthwise(y), **norm))
        weight = self.excite(jax.nn.silu(self.squeeze(y.mean(axis=(1, 2), keepdims=True))))
        y = self.project_norm(self.project(jax.nn.sigmoid(weight) * y), **norm)
        if self.shape.adds:
            y = dropped(y, keys, rate, whole=True) + x
        return y
