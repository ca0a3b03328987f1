"""The forms of costly operations that a device runs best. None is part of a model: parameters, checkpoints
and exports know nothing of them.

    with using(kernels_on(jax.devices()[0])):
        logits, _ = model(x)

What is traced inside takes those forms; outside, the plain ones, which every backend, every transformation
(jax.jvp, hessians) and every converter understands. The choice is part of jit's cache keys.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
from jax.sharding import Mesh

from ast_jax.models.attention import Attend, attend, flash_attention, on_each_device, splash_attention


def _as_it_is(x):
    return x


@dataclasses.dataclass(frozen=True)
class Kernels:
    """One form of each operation; the defaults are the plain ones.

    `linear` takes what `jax.lax.dot_general` takes, of a linear layer. `residual` sees each value of a
    residual stream. `batch_axis` is the axis under pmap over which a batch's statistics are gathered; under
    jit a batch is whole.
    """

    attend: Attend = attend
    linear: Callable = jax.lax.dot_general
    residual: Callable = _as_it_is
    batch_axis: str | None = None


PLAIN = Kernels()
using = jax.make_user_context(default_value=PLAIN)


def current() -> Kernels:
    """The forms in use where this is called."""
    return using.value


@functools.lru_cache(maxsize=16)
def kernels_on(device: jax.Device, mesh: Mesh | None = None, batch_axis: str | None = None) -> Kernels:
    """The fastest forms for a device: of the mesh a program is compiled for, not of the machine that compiles
    it.

    cuDNN's flash attention on NVIDIA (Ampere and later), splash attention on TPUs, forms of their own on CPUs
    (`cpu.py`), the plain ones elsewhere. `mesh` is that of the jit the call stands in, if it is over several
    devices; the batch is taken to be split over all of its axes. Under pmap there is none, and `batch_axis`
    is the name of pmap's axis.
    """
    if device.platform == "cpu":
        from ast_jax.models import cpu

        return Kernels(cpu.attend, cpu.linear, cpu.with_stored_gradient, batch_axis)
    form: Attend = attend
    capability = getattr(device, "compute_capability", None) or ""  # "9.0" on NVIDIA, "gfx942" on AMD
    if device.platform == "gpu" and capability[:1].isdigit() and float(capability) >= 8:
        form = flash_attention
    if device.platform == "tpu":
        form = splash_attention
        if mesh is not None and mesh.size > 1:
            form = on_each_device(splash_attention, mesh)
    return Kernels(attend=form, batch_axis=batch_axis)
