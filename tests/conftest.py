"""Shared fixtures. Shapes in annotations are checked here, and only here: use does not pay for it."""

import os
from pathlib import Path

# before jax is imported: with libtpu installed a bare start takes 15 s
os.environ.setdefault("JAX_PLATFORMS", "cpu")

from jaxtyping import install_import_hook

# an int stands for a float, as everywhere in Python (PEP 484)
_hook = install_import_hook("ast_jax", "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))")

import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real sounds and weights beside the checkout (`../shared`, or $AST_JAX_SHARED); it is not
    part of the project."""
    path = Path(os.environ.get("AST_JAX_SHARED", Path(__file__).resolve().parents[2] / "shared"))
    if not (path / "data" / "ESC-50-master").is_dir():
        pytest.skip(
            f"no real sounds at {path}: set AST_JAX_SHARED to a folder with data/ESC-50-master and weights/"
        )
    return path
