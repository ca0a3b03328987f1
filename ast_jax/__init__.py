"""The Audio Spectrogram Transformer in JAX and Flax.

The names below are imported on first use (PEP 562), so that `import ast_jax.features` needs no jax and starts
at once.
"""

from importlib import import_module

_HOMES = {
    "AST": "ast_jax.models",
    "ASTConfig": "ast_jax.models",
    "Kaldi": "ast_jax.features",
    "Tagger": "ast_jax.inference.predict",
    "load_audio": "ast_jax.features",
    "load_model": "ast_jax.weights",
    "log_mel": "ast_jax.features",
    "recipe": "ast_jax.recipes",
    "train": "ast_jax.training.loop",
}
__all__ = list(_HOMES)
__version__ = "0.1.0"


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module 'ast_jax' has no attribute {name!r}; it offers {', '.join(_HOMES)}")
    return getattr(import_module(_HOMES[name]), name)
