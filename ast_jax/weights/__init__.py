"""Weights in, weights out: any ViT or AST checkpoint to this model, and this model to theirs. Names are
imported on first use.

`convert.convert` writes; it is not named here, where its module of the same name would hide it.
"""

from importlib import import_module

_HOMES = {
    "LoadedModel": "pretrained",
    "Source": "source",
    "initialise": "pretrained",
    "load_model": "pretrained",
    "read_source": "recognise",
}
__all__ = list(_HOMES)


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(
            f"module 'ast_jax.weights' has no attribute {name!r}; it offers {', '.join(_HOMES)}"
        )
    return getattr(import_module(f"ast_jax.weights.{_HOMES[name]}"), name)
