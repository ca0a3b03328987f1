"""The forms of costly operations that a device runs best. None is part of a model: parameters, checkpoints
and exports know nothing of them.

    with using(kernels_on(jax.devices()[0])):
        logits, _ = model(x)

What is traced inside takes those forms; outside, those of the device where JAX computes by default. The plain
ones (`using(PLAIN)`) are what every backend, every transformation (jax.jvp, hessians) and every converter
understands: exports take them. The choice is part of jit's cache keys.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array

from ast_jax.models.attention import Attend, attend, flash_attention, on_each_device, splash_attention
from ast_jax.models.checks import trusted


def gelu(x: Array) -> Array:
    """x Phi(x), the exact GELU.

    In float32 by erf, as PyTorch has it: half the time of `jax.nn.gelu`'s erfc on CPUs.
    """
    if x.dtype == jnp.float32:
        return 0.5 * x * (1 + jax.lax.erf(x * 0.5**0.5))
    # 1 + erf cancels in fewer bits
    return jax.nn.gelu(x, approximate=False)


def convolved(image: Array, kernel: Array, strides: tuple[int, int]) -> Array:
    """A convolution without padding: image [B, F, T] by kernel [f, t, 1, D] to [B, rows, columns, D]."""
    layout = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(image[..., None], kernel, strides, "VALID", dimension_numbers=layout)


def depthwise(x: Array, kernel: Array, stride: int, padding: tuple[int, int]) -> Array:
    """Each channel of x [B, H, W, C] by a kernel of its own [k, k, 1, C].

    `padding` is (before, after) of both axes.
    """
    layout = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        (padding, padding),
        dimension_numbers=layout,
        feature_group_count=x.shape[3],
    )


def split_qkv(layer: Any, x: Array, num_queries: int | None) -> tuple[Array, Array, Array]:
    """Query, of the first `num_queries` tokens or all, key and value: thirds of what the layer gives."""
    q, k, v = jnp.split(layer(x), 3, axis=-1)
    return q[:, :num_queries], k, v


def _applied(layer, x):
    return layer(x)


def _as_it_is(x):
    return x


@dataclasses.dataclass(frozen=True)
class Kernels:
    """One form of each operation; the defaults are the plain ones.

    `linear` takes what `jax.lax.dot_general` takes, of a linear layer. `residual` sees each value of a
    residual stream. `norm` takes a LayerNorm and its input; `qkv` the layer of query, key and value, its
    input and the number of queries. `batch_axis` is the axis under pmap over which a batch's statistics are
    gathered; under jit a batch is whole.
    """

    attend: Attend = attend
    linear: Callable = jax.lax.dot_general
    residual: Callable = _as_it_is
    gelu: Callable = gelu
    norm: Callable = _applied
    patches: Callable = convolved
    depthwise: Callable = depthwise
    qkv: Callable = split_qkv
    batch_axis: str | None = None


PLAIN = Kernels()
using = jax.make_user_context(default_value=None)


def current() -> Kernels:
    """The forms in use where this is called."""
    return using.value or _by_default()


@functools.cache
def _by_default() -> Kernels:
    """Of the default device; among several TPUs the plain ones, for only a layout knows what each has."""
    devices = jax.devices()
    return PLAIN if devices[0].platform == "tpu" and len(devices) > 1 else kernels_on(devices[0])


def multiplies_16_bits(device: jax.Device) -> bool:
    """Whether products of bfloat16 are what a device is made for: TPUs, and NVIDIA from Ampere (8.0) on."""
    return device.platform == "tpu" or (device.platform == "gpu" and _ampere(device))


def _ampere(device: jax.Device) -> bool:
    # "9.0" on NVIDIA, "gfx942" on AMD
    capability = getattr(device, "compute_capability", None) or ""
    return capability[:1].isdigit() and float(capability) >= 8


@functools.lru_cache(maxsize=16)
def kernels_on(device: jax.Device, mesh: Mesh | None = None, batch_axis: str | None = None) -> Kernels:
    """The fastest forms for a device: of the mesh a program is compiled for, not of the machine that compiles
    it.

    cuDNN's flash attention and the forms of `gpu.py` on NVIDIA (Ampere and later), splash attention on TPUs,
    forms of their own on CPUs (`cpu.py`), the plain ones elsewhere. `mesh` is that of the jit the call stands
    in, if it is over several devices; the batch is taken to be split over all of its axes. Under pmap there
    is none, and `batch_axis` is the name of pmap's axis.

    Forms are believed once they have been checked on this kind of device (`checks.py`).
    """
    return trusted(offered(device, mesh, batch_axis), offered(device), PLAIN, device)


def offered(device: jax.Device, mesh: Mesh | None = None, batch_axis: str | None = None) -> Kernels:
    """The same, checked or not."""
    if device.platform == "cpu":
        from ast_jax.models import cpu

        return Kernels(
            cpu.attend,
            cpu.linear,
            cpu.with_stored_gradient,
            depthwise=cpu.depthwise,
            batch_axis=batch_axis,
        )
    form: Attend = attend
    if device.platform == "gpu":
        from ast_jax.models import gpu

        if _ampere(device):
            return Kernels(
                flash_attention,
                gelu=gpu.gelu,
                norm=gpu.norm,
                patches=gpu.patches,
                qkv=gpu.qkv,
                batch_axis=batch_axis,
            )
    if device.platform == "tpu":
        form = splash_attention
        if mesh is not None and mesh.size > 1:
            form = on_each_device(splash_attention, mesh)
    return Kernels(attend=form, batch_axis=batch_axis)
