"""The patch projection, forward and backward: the convolution, and one product of gathered patches."""

from typing import Any

import jax
import jax.numpy as jnp

from ast_jax.models import ASTConfig
from benchmarks import timing

NHWC = ("NHWC", "HWIO", "NHWC")


def times(config: ASTConfig, batch: int) -> dict[str, Any]:
    """Milliseconds of each form, in turn, and how far the second's outputs are from the first's at most."""
    (rows, columns), (height, width) = config.patch_shape, config.strides

    def convolution(image, kernel):
        return jax.lax.conv_general_dilated(image, kernel, config.strides, "VALID", dimension_numbers=NHWC)

    at = lambda count, stride, size: jnp.arange(count)[:, None] * stride + jnp.arange(size)
    down, along = at(config.grid[0], height, rows), at(config.grid[1], width, columns)

    def product(image, kernel):
        parts = image[..., 0][:, down][..., along]  # [B, down, rows, along, columns]
        parts = parts.swapaxes(2, 3).reshape(image.shape[0], *config.grid, rows * columns)
        return parts @ kernel.reshape(-1, kernel.shape[-1])

    image = jax.random.normal(
        jax.random.key(0), (batch, config.num_mel_bins, config.num_frames, 1), "bfloat16"
    )
    kernel = jax.random.normal(jax.random.key(1), (rows, columns, 1, config.width), "bfloat16") / 16

    def both(form):
        def step(kernel):
            out, pull = jax.vjp(lambda kernel: form(image, kernel), kernel)
            return out, pull(out)

        return jax.jit(step)

    forms = {"convolution": both(convolution), "product": both(product)}
    calls = {
        name: (lambda form=form: jax.block_until_ready([form(kernel) for _ in range(8)]))
        for name, form in forms.items()
    }
    seconds = timing.in_turn(calls, repeats=3)
    first, second = (form(kernel)[0].astype(jnp.float32) for form in forms.values())
    return {
        "ms": {name: 1e3 * value / 8 for name, value in seconds.items()},
        "apart": float(jnp.abs(first - second).max()),
    }
