"""What a model costs, counted, and what the device could do at most, measured: their quotient is the share of the peak.

N tokens, D width.
"""

import math
import time
from collections.abc import Callable

import jax

from ast_jax.models.ast import ASTConfig


def forward_flops(config: ASTConfig, num_tokens: int | None = None) -> int:
    """Floating-point operations of the matrix products for one clip, two a multiply-add, every block counted in full.

    24 N D^2 + 4 N^2 D a block at an MLP ratio of 4; 261 GFLOP for AST-base on 10 s at strides of 10. What the last block saves
    by computing only the rows that are read is not taken off: a share of the peak is then of the published model. `num_tokens`
    is for patchout; a training step is three times this (Kaplan et al. 2020: the backward pass is two forward ones).
    """
    tokens, width = num_tokens or config.num_tokens, config.width
    patches = 2 * tokens * math.prod(config.patch_shape) * width
    linear = 2 * (4 + 2 * config.mlp_ratio) * tokens * width**2
    attention = 4 * tokens**2 * width
    return patches + config.depth * (linear + attention) + 2 * width * config.num_classes


def matrix_peak(
    dtype: str = "float32", *, repeats: int = 5, clock: Callable[[], float] = time.perf_counter
) -> float:
    """The best FLOP/s of one matrix product on the default device: what it does, not what its data sheet says.

    Of random numbers: GPUs run faster on constant ones. Four products a turn, so that a call's overhead does not count.
    """
    size = 1024 if jax.default_backend() == "cpu" else 8192
    x = jax.random.normal(jax.random.key(0), (size, size), dtype)
    product = jax.jit(lambda x: x @ x)
    product(x).block_until_ready()
    seconds = []
    for _ in range(repeats):
        began = clock()
        jax.block_until_ready([product(x) for _ in range(4)])
        seconds.append((clock() - began) / 4)
    return 2 * size**3 / min(seconds)
