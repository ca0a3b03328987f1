"""Data sets: sound files to shards, shards to batches.

Names are imported on first use, TFDS and grain only when they are needed. `prepare`, `find` and
`open_prepared` are in `ast_jax.datasets.prepare`, the table of sets in `ast_jax.datasets.registry`.
"""

from importlib import import_module

_HOMES = {
    "Clip": "listing",
    "Listing": "listing",
    "PreparedSet": "prepared",
    "ClipSource": "prepared",
    "SetBuilder": "builder",
}
__all__ = list(_HOMES)


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(
            f"module 'ast_jax.datasets' has no attribute {name!r}; it offers {', '.join(_HOMES)}"
        )
    return getattr(import_module(f"ast_jax.datasets.{_HOMES[name]}"), name)
