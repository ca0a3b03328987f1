"""Where arrays live: batches split over all devices, parameters and optimiser state on each of them."""

from collections.abc import Iterable, Iterator, Mapping

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ast_jax.errors import InputError


def make_mesh(batch_size: int) -> Mesh:
    """All devices along one axis, `data`. Raises InputError if they do not divide the batch, naming sizes that fit."""
    count = jax.device_count()
    if batch_size % count:
        below, above = batch_size // count * count, -(-batch_size // count) * count
        sizes = " or ".join(str(size) for size in (below, above) if size)
        raise InputError(
            f"batch_size {batch_size} does not divide over {count} devices: set config.batch_size to {sizes}"
        )
    return Mesh(
        np.array(jax.devices()), ("data",)
    )  # jax.make_mesh would make the axis explicit, for types in programs


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def split_over_data(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec("data"))


def to_device(
    batches: Iterable[Mapping[str, np.ndarray]], sharding: NamedSharding
) -> Iterator[Mapping[str, jax.Array]]:
    """The batches on their devices, one ahead of the one in use: the next copy runs while a step computes."""
    ahead = None
    for batch in batches:
        placed = jax.device_put(dict(batch), sharding)
        if ahead is not None:
            yield ahead
        ahead = placed
    if ahead is not None:
        yield ahead
