"""Devices to plan for: this machine's, or those of a TPU slice that is not there, through libtpu's
ahead-of-time compiler.

A chip is what is bought; a device is what JAX shows and what has a memory of its own. A v2 or v3 chip shows
as two devices, each with half the chip's memory; from v4 on, as slices are set up, they are the same.
"""

import dataclasses
import importlib.util
from collections.abc import Sequence
from typing import Any

import jax
from jax.experimental import topologies

from ast_jax.errors import InputError

GIB = 2**30

# What the compiler lets a program use on a device, GiB: as libtpu 0.0.50 says on refusing one that is too
# large. It is less than the data sheet's figure (16, 32, 95, 32, 16, 8), the rest being reserved.
CAPACITY_GIB = {
    "TPU v5 lite": 15.75,
    "TPU v4": 30.75,
    "TPU v5": 95.73,
    "TPU v6 lite": 31.24,
    "TPU v3": 15.48,
    "TPU v2": 7.48,
}

GENERATIONS = ("v2", "v3", "v4", "v5e", "v5p", "v6e")
ONE_HOST = {(1, 1), (2, 2), (2, 4)}  # v5e and v6e slices that are one machine


@dataclasses.dataclass(frozen=True)
class Devices:
    """What a step is compiled for."""

    name: str  # "v5e:2x4", or "this machine"
    devices: tuple[Any, ...]
    num_chips: int
    num_hosts: int
    capacity: (
        int | None
    )  # bytes a program may use on each device; None where nothing bounds it but the host's memory

    @property
    def kind(self) -> str:
        return self.devices[0].device_kind

    def __str__(self) -> str:
        hosts = f"{self.num_hosts} host{'s' * (self.num_hosts > 1)}"
        chips = f"{len(self.devices)} devices on {self.num_chips} chips of {hosts}"
        bound = "" if self.capacity is None else f", {self.capacity / GIB:.2f} GiB each"
        return f"{self.name}: {chips}, {self.kind}{bound}"


def here() -> Devices:
    """This machine's devices."""
    devices = jax.devices()
    stats = devices[0].memory_stats() or {}
    return _described("this machine", devices, stats.get("bytes_limit"))


def tpu_slice(name: str) -> Devices:
    """The devices of a slice such as v5e:2x4 (generation : chips along each axis), whether or not there is
    one.

    Raises InputError for a name libtpu does not know, and where libtpu is not installed.
    """
    if importlib.util.find_spec("libtpu") is None:
        raise InputError(
            "--topology needs libtpu's compiler: pip install libtpu, of the release that jax[tpu] asks for"
        )
    generation, _, shape = name.partition(":")
    sizes = shape.split("x")
    if generation not in GENERATIONS or len(sizes) not in (2, 3) or not all(map(str.isdecimal, sizes)):
        raise InputError(
            f"--topology={name}: wanted generation and chips along each axis, such as v5e:2x4 or v4:2x2x4; "
            f"generations are {', '.join(GENERATIONS)}"
        )
    try:
        topology = topologies.get_topology_desc(
            topology_name=name, platform="tpu", **_as_set_up(generation, tuple(map(int, sizes)))
        )
    except jax.errors.JaxRuntimeError as error:
        raise InputError(f"--topology={name}: {str(error).splitlines()[0]}") from None
    devices: Sequence[Any] = topology.devices
    capacity = CAPACITY_GIB.get(devices[0].device_kind)
    return _described(name, devices, None if capacity is None else int(capacity * GIB))


def _as_set_up(generation: str, sizes: tuple[int, ...]) -> dict[str, Any]:
    """What libtpu has to be told so that it shows a slice as a real one does: it defaults to v4 cores apart
    and hosts of four chips.
    """
    if generation == "v4":
        return {"chip_config_name": "megacore"}
    if generation in ("v5e", "v6e") and sizes in ONE_HOST:
        return {"chips_per_host_bounds": (*sizes, 1)}
    return {}


def _described(name: str, devices: Sequence[Any], capacity: int | None) -> Devices:
    """On TPUs devices with the same coordinates are one chip; elsewhere a device is called a chip."""
    chips = {(d.process_index, *getattr(d, "coords", (d.id,))) for d in devices}
    hosts = {d.process_index for d in devices}
    return Devices(name, tuple(devices), len(chips), len(hosts), capacity)
