"""Shared fixtures. Shapes in annotations are checked here, and only here: use does not pay for it."""

import atexit
import os
import shutil
import tempfile
from pathlib import Path

# before jax is imported: with libtpu installed a bare start takes 15 s
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# nothing is fetched: what a recipe may start from is not there
os.environ["HF_HUB_OFFLINE"] = "1"
# Many tests train the same small models: each program is compiled once for all of them, workers and commands
# too, which inherit this. A store that the caller named is used, and stays.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    _programs = tempfile.mkdtemp(prefix="ast_jax_programs_")
    atexit.register(shutil.rmtree, _programs, ignore_errors=True)
    os.environ |= {
        "JAX_COMPILATION_CACHE_DIR": _programs,
        # With a limit there is a lock: two processes never meet in a file that one of them is still writing.
        "JAX_COMPILATION_CACHE_MAX_SIZE": str(1 << 30),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1",
    }

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
