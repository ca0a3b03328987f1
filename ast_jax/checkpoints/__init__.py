"""Checkpoints of a run: saved asynchronously through orbax, verified before they are trusted, bounded in
number.
"""

from ast_jax.checkpoints.store import Restored, Store, load_variables, saved_steps

__all__ = ["Restored", "Store", "load_variables", "saved_steps"]
