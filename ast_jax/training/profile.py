"""A profiler trace of a few training steps, and the share of the devices' peak that steps reach."""

import functools
from pathlib import Path

import jax

from ast_jax.models.cost import forward_flops, matrix_peak
from ast_jax.training.program import Program

# steps of this process before the trace: the first compiles, the second may still wait for data
FIRST = 2


class Profiler:
    """Writes a trace of `steps` steps to `directory`, for TensorBoard's profile plugin, XProf or Perfetto; 0:
    none.
    """

    def __init__(self, directory: Path, steps: int):
        self._directory, self._steps, self._seen, self._running = directory, steps, 0, False

    def after_step(self, figures) -> None:
        """Called after each step with what it returned, which is waited for only where the trace begins and
        ends.
        """
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
    """Training's clips/s as a share of what one matrix product reaches on the same devices, measured at the
    first question.

    Counted: the operations of the training program's forward pass, the backward pass twice those.
    """

    def __init__(self, program: Program):
        self._model, self._layout = program.model, program.layout

    @functools.cached_property
    def _clips_per_s_at_peak(self) -> float | None:
        on_cpu = self._layout.mesh.devices.flat[0].platform == "cpu"  # its devices are one processor's cores
        try:
            flops = 3 * forward_flops(self._model, training=True)
        except RuntimeError:  # JAX_PLATFORMS names no CPU to count for
            return None
        peak = matrix_peak(getattr(self._model.config, "dtype", "float32"))
        return peak * (1 if on_cpu else self._layout.num_devices) / flops

    def __call__(self, clips_per_s: float) -> float | None:
        most = self._clips_per_s_at_peak
        return None if most is None else clips_per_s / most
