"""Where arrays live and how one pure function runs on many devices: under jit over a mesh, or under pmap.

A state is always kept as global arrays without a device axis, replicated or split by `fsdp_spec`; only the
rows of a batch have another shape under pmap, [devices, rows of each, ...]. So checkpoints, averages and
evaluation do not know which of the two is in use, and a run may change from one to the other.

D devices, P hosts (processes), B clips a batch.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ast_jax.errors import InputError
from ast_jax.models.kernels import Kernels, kernels_on

AXES = ("data", "fsdp")
PMAP_AXIS = "data"
# elements: a smaller array costs more to gather than to keep whole
SMALL = 1024


@dataclasses.dataclass(frozen=True)
class Layout:
    """Devices as a mesh [data, fsdp], and the wrapper (`jit` or `pmap`) that runs a step on all of them.

    Rows of a batch are split over both axes. Parameters and optimiser state are whole on each device, or
    split over the axis `fsdp` where it is longer than 1.
    """

    mesh: Mesh
    parallel: str = "jit"

    @property
    def num_devices(self) -> int:
        return self.mesh.size

    @property
    def kernels(self) -> Kernels:
        """The forms of costly operations that these devices run best."""
        first = self.mesh.devices.flat[0]
        return kernels_on(first, self.mesh) if self.parallel == "jit" else kernels_on(first, None, PMAP_AXIS)

    def num_rows(self, batch_size: int, parts: int = 1) -> int:
        """Rows a batch takes on these devices: `batch_size`, filled up so that each device has as many in
        each part.
        """
        return -(-batch_size // (self.num_devices * parts)) * self.num_devices * parts

    @property
    def replicated(self) -> NamedSharding:
        return NamedSharding(self.mesh, PartitionSpec())

    def shardings(self, tree: Any) -> Any:
        """The placement of each leaf of a state or of parameters, from its shape alone."""
        size = self.mesh.shape["fsdp"]
        return jax.tree.map(lambda leaf: NamedSharding(self.mesh, fsdp_spec(np.shape(leaf), size)), tree)

    def place(self, tree: Any) -> Any:
        """A state or parameters in their places; every host gives the same.

        What is there already is not copied.
        """
        return jax.tree.map(_onto, tree, self.shardings(tree))

    def place_rows(self, rows: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
        """This host's rows of a batch, on its devices: part of one global batch."""
        split = NamedSharding(self.mesh, PartitionSpec(AXES))
        return {
            key: jax.make_array_from_process_local_data(split, self._rows_of(value))
            for key, value in rows.items()
        }

    def abstract_rows(self, rows: Mapping[str, jax.ShapeDtypeStruct]) -> dict[str, jax.ShapeDtypeStruct]:
        """The same for shapes: what a step is compiled ahead of time for."""
        split = NamedSharding(self.mesh, PartitionSpec(AXES))
        shape = lambda value: (
            value.shape
            if self.parallel == "jit"
            else (self.num_devices, value.shape[0] // self.num_devices, *value.shape[1:])
        )
        return {
            key: jax.ShapeDtypeStruct(shape(value), value.dtype, sharding=split)
            for key, value in rows.items()
        }

    def _rows_of(self, value: np.ndarray) -> np.ndarray:
        if self.parallel == "jit":
            return value
        devices = self.num_devices // jax.process_count()
        return value.reshape(devices, -1, *value.shape[1:])

    def train(self, step: Callable, state: Any) -> Callable:
        """(state, rows) -> (state, figures) on all devices, the old state given up; `state` may be
        abstract.
        """
        if self.parallel == "pmap":
            return self._pmap(step, donate_argnums=0)
        if self.mesh.shape["fsdp"] > 1:
            step = functools.partial(step, gather=self._gather)
        places = self.shardings(state)
        rows = NamedSharding(self.mesh, PartitionSpec(AXES))
        return jax.jit(
            step, in_shardings=(places, rows), out_shardings=(places, self.replicated), donate_argnums=0
        )

    def _gather(self, params: Any) -> Any:
        """Whole parameters for the model: else the compiler carries their split into the activations, and
        moves those.
        """
        return jax.lax.with_sharding_constraint(params, self.replicated)

    def score(self, step: Callable) -> Callable:
        """(params, rows) -> arrays over all rows of all hosts, in order, whole on every device."""
        if self.parallel == "pmap":
            gathered = lambda params, rows, axis_name: jax.lax.all_gather(
                step(params, rows), axis_name, tiled=True
            )
            return self._pmap(gathered)
        whole = lambda params, rows: step(self._gather(params), rows)
        return jax.jit(whole, out_shardings=self.replicated)

    def rows(self, step: Callable) -> Callable:
        """(params, rows, number) -> one more array of the batch, placed as its rows are (jit only)."""
        split = NamedSharding(self.mesh, PartitionSpec(AXES))
        whole = lambda params, rows, number: step(self._gather(params), rows, number)
        return jax.jit(whole, out_shardings=split)

    def _pmap(self, step: Callable, **options) -> Callable:
        return jax.pmap(
            functools.partial(step, axis_name=PMAP_AXIS),
            axis_name=PMAP_AXIS,
            in_axes=(None, 0),
            out_axes=None,
            devices=list(self.mesh.devices.flat),
            **options,
        )


def make_layout(*, parallel: str = "jit", fsdp: int = 1, devices: Sequence[jax.Device] = ()) -> Layout:
    """The layout over `devices`, all there are by default; `fsdp` of them share one copy of parameters and
    optimiser.

    Raises InputError for a wrapper that is not offered, and for numbers that do not fit.
    """
    if parallel not in ("jit", "pmap"):
        raise InputError(f"config.parallel is {parallel!r}: choose jit or pmap")
    # By host, so that a host's rows of a batch lie together whatever order the platform counts in.
    found = sorted(devices or jax.devices(), key=lambda device: (device.process_index, device.id))
    if fsdp < 1 or len(found) % fsdp:
        fits = ", ".join(str(n) for n in range(1, len(found) + 1) if len(found) % n == 0)
        raise InputError(f"config.fsdp is {fsdp}, and there are {len(found)} devices: choose one of {fits}")
    if parallel == "pmap" and fsdp > 1:
        raise InputError(
            f"config.fsdp is {fsdp}, and pmap keeps parameters whole: set config.parallel=jit or fsdp=1"
        )
    # jax.make_mesh would make the axes explicit, for types in programs
    return Layout(Mesh(np.array(found).reshape(-1, fsdp), AXES), parallel)


def fsdp_spec(shape: tuple[int, ...], size: int) -> PartitionSpec:
    """How an array of this shape is split over `size` devices: along its longest axis that they divide, or
    not at all.
    """
    fits = [axis for axis, length in enumerate(shape) if length % size == 0]
    if size == 1 or not fits or math.prod(shape) < SMALL:
        return PartitionSpec()
    longest = max(fits, key=lambda axis: shape[axis])
    return PartitionSpec(*(None,) * longest, "fsdp")


def _onto(leaf: Any, sharding: NamedSharding) -> jax.Array:
    if isinstance(leaf, jax.Array):
        if leaf.sharding.is_equivalent_to(sharding, leaf.ndim):
            return leaf
        if not sharding.is_fully_addressable and len(leaf.addressable_shards) > 1:
            # what pmap gives back on several hosts: each one's copies, of what is the same on all
            pieces = [shard.data for shard in leaf.addressable_shards]
            return jax.make_array_from_single_device_arrays(leaf.shape, sharding, pieces)
    host = np.asarray(leaf)
    return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])


def to_device(layout: Layout, batches: Iterable[Mapping[str, np.ndarray]]) -> Iterator[dict[str, jax.Array]]:
    """The batches on their devices, one ahead of the one in use: the next copy runs while a step computes."""
    ahead = None
    for batch in batches:
        placed = layout.place_rows(batch)
        if ahead is not None:
            yield ahead
        ahead = placed
    if ahead is not None:
        yield ahead
