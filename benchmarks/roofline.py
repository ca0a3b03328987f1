"""What a training step and a forward pass should take on one GPU, by counting and before any measurement.

N tokens, D width. Every kernel is taken to run at its limit, one after the other: the linear layers'
products at the rate that one large product reaches, attention at half of it (what flash kernels reach with
heads of 64), what lies between them at the rate of a copy. `bound` lets products and memory traffic overlap
wholly, at the data sheet's peaks.
"""

import math
from typing import Any

from ast_jax.models import ASTConfig

# FLOP/s of bfloat16 products and bytes/s: the data sheet's, and what one large product or copy was seen
# to reach.
PEAKS = {
    "H200": {"sheet": (989e12, 4.8e12), "seen": (790e12, 4.3e12)},
    "H100": {"sheet": (989e12, 3.35e12), "seen": (798e12, 3.0e12)},
}
ATTENTION = 0.5  # of the products' rate
# Reads and writes of [N, D] by what lies between the products of one block, in 16-bit activations and in
# residual streams. Forward: two times residual + LayerNorm (2 + 2), GELU 4 + 4. Backward: two LayerNorms
# (1 + 3) and their scales' sums (1 + 1), GELU 8 + 4, the biases' sums 9.
FORWARD = {"activations": 12, "residual": 4}
BACKWARD = {"activations": 25, "residual": 8}
# Bytes a parameter: gradient read twice, parameter and two moments read and written, and a 16-bit copy made.
OPTIMISER = 38
# Forward passes' worth; flash attention computes its scores anew.
BACKWARD_LINEAR, BACKWARD_ATTENTION = 2, 2.5


def peaks(device_kind: str, measured: tuple[float, float]) -> dict[str, tuple[float, float]]:
    """A device's (FLOP/s, bytes/s), 'sheet' and 'seen'; `measured` for both where it is not in the table."""
    return next(
        (value for name, value in PEAKS.items() if name in device_kind), {"sheet": measured, "seen": measured}
    )


def flops(config: ASTConfig) -> dict[str, float]:
    """Of one clip's forward pass, as it is computed: the last block's rows that nobody reads are left out."""
    tokens, width, whole = config.num_tokens, config.width, config.depth - 1
    linear = 2 * tokens * width * (4 * width + 2 * (config.hidden_width))
    patches = 2 * tokens * math.prod(config.patch_shape) * width
    return {
        "linear": whole * linear + 4 * tokens * width**2 + patches,
        "attention": whole * 4 * tokens**2 * width,
    }


def between(config: ASTConfig, *, training: bool, residual: int) -> float:
    """Bytes of one clip moved between the products."""
    parts = [FORWARD, BACKWARD] if training else [FORWARD]
    units = sum(2 * part["activations"] + residual * part["residual"] for part in parts)
    return (config.depth - 1) * units * config.num_tokens * config.width


def parameters(config: ASTConfig) -> float:
    """To the nearest per cent or so."""
    return config.depth * config.width * (4 * config.width + 2 * (config.hidden_width))


def predict(
    config: ASTConfig, batch: int, rates: dict[str, tuple[float, float]], *, training: bool, residual: int = 4
) -> dict[str, Any]:
    """Clips/s, expected and at most. `residual`: bytes a number of the residual stream."""
    count = flops(config)
    linear = count["linear"] * (1 + BACKWARD_LINEAR * training)
    attention = count["attention"] * (1 + BACKWARD_ATTENTION * training)
    moved = between(config, training=training, residual=residual)
    moved += training * OPTIMISER * parameters(config) / batch
    (product, copy), (most_product, most_copy) = rates["seen"], rates["sheet"]
    seconds = linear / product + attention / (ATTENTION * product) + moved / copy
    return {
        "expected_clips_per_s": 1 / seconds,
        "bound_clips_per_s": 1 / max((linear + attention) / most_product, moved / most_copy),
        "gflop": (linear + attention) / 1e9,
        "gb_between": moved / 1e9,
        "ms": {
            "linear": 1e3 * linear / product,
            "attention": 1e3 * attention / (ATTENTION * product),
            "between": 1e3 * moved / copy,
        },
    }
