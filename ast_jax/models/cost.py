"""What a model costs, counted, and what the device could do at most, measured: their quotient is the share of
the peak.
"""

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ast_jax.models.base import merge, split
from ast_jax.models.kernels import PLAIN, using


def forward_flops(model: Any, *, training: bool = False) -> int:
    """Floating-point operations of the program that computes one clip's logits, two a multiply-add.

    Counted by XLA from the program of the plain forms, of any family: 245 GFLOP for AST-base on 10 s at
    strides of 10 (its matrix products alone are 24 N D^2 + 4 N^2 D a block, less what the last block leaves
    out). `model` may be abstract. In `training` the forward pass is that of a training step (patchout); such
    a step is three times this (Kaplan et al. 2020: the backward pass is two forward ones). Raises
    RuntimeError where JAX is told to leave the CPU aside.
    """
    graphdef, params, statistics = split(model)
    x = jax.ShapeDtypeStruct((1, model.config.num_frames, model.front_end.num_mel_bins), jnp.float32)
    key = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 1)) if training else None
    logits = lambda params, statistics, x, key: merge(graphdef, params, statistics)(x, key=key)[0]
    # Lowered for the CPU that every machine has: on GPUs a program that is not compiled has no analysis.
    with jax.default_device(jax.devices("cpu")[0]), using(PLAIN):
        analysis: Any = jax.jit(logits).lower(params, statistics, x, key).cost_analysis()
    return int(analysis["flops"])


def matrix_peak(
    dtype: str = "float32", *, repeats: int = 5, clock: Callable[[], float] = time.perf_counter
) -> float:
    """The best FLOP/s of one matrix product on the default device: what it does, not what its data sheet
    says.

    Of random numbers: GPUs run faster on constant ones. Four products a turn, so that a call's overhead does
    not count.
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
