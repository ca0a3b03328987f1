"""A profiler trace of a few training steps, and the share of the devices' peak that steps reach."""

from pathlib import Path

import jax

from ast_jax.models import ASTConfig
from ast_jax.models.cost import forward_flops, matrix_peak
from ast_jax.training.sharding import Layout
from ast_jax.training.step import Recipe

FIRST = 2  # steps of this process before the trace: the first compiles, the second may still wait for data


class Profiler:
    """Writes a trace of `steps` steps to `directory`, for TensorBoard's profile plugin, XProf or Perfetto; 0: none."""

    def __init__(self, directory: Path, steps: int):
        self._directory, self._steps, self._seen, self._running = directory, steps, 0, False

    def after_step(self, figures) -> None:
        """Called after each step with what it returned, which is waited for only where the trace begins and ends."""
        if not self._steps or self._seen > FIRST + self._steps:
            return
        self._seen += 1
        if self._seen == FIRST:
            jax.block_until_ready(figures)
            jax.profiler.start_trace(str(self._directory))
            self._running = True
        elif self._seen == FIRST + self._steps:
            jax.block_until_ready(figures)
            self.close()

    def close(self) -> None:
        """Ends a trace that is still going on."""
        if self._running:
            self._running = False
            jax.profiler.stop_trace()


class PeakShare:
    """Training's clips/s as a share of what one matrix product reaches on the same devices, measured once, here.

    Counted: the published model's floating-point operations on the tokens that patchout leaves, backward pass twice the forward.
    """

    def __init__(self, model: ASTConfig, recipe: Recipe, layout: Layout):
        freq, time, patches = recipe.patchout
        rows, columns = model.grid
        tokens = model.num_prefix_tokens + (rows - freq) * (columns - time) - patches
        self._clip = 3 * forward_flops(model, tokens)
        on_cpu = layout.mesh.devices.flat[0].platform == "cpu"  # its devices are one processor's cores
        self._peak = matrix_peak(model.dtype) * (1 if on_cpu else layout.num_devices)

    def __call__(self, clips_per_s: float) -> float:
        return clips_per_s * self._clip / self._peak
