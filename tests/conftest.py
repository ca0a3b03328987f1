"""Shared fixtures. Shapes in annotations are checked here, and only here: use does not pay for it."""

import os
from pathlib import Path

os.environ.setdefault(
    "JAX_PLATFORMS", "cpu"
)  # before jax is imported: with libtpu installed a bare start takes 15 s

from jaxtyping import install_import_hook

_hook = install_import_hook("ast_jax", "beartype.beartype")

import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real sounds and weights beside the checkout (`../shared`, or $AST_JAX_SHARED); it is not part of the project."""
    path = Path(os.environ.get("AST_JAX_SHARED", Path(__file__).resolve().parents[2] / "shared"))
    if not (path / "data" / "ESC-50-master").is_dir():
        pytest.skip(
            f"no real sounds at {path}: set AST_JAX_SHARED to a folder with data/ESC-50-master and weights/"
        )
    return path
