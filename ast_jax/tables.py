"""Names in tables: what a recipe calls by name is a row of ours, or `module:attribute` of the user's own.

One rule for model families, front ends, objectives, metrics, augmentations and data sets. Imports nothing of
ours but errors.
"""

import difflib
import importlib
import os
import sys
from collections.abc import Mapping
from typing import Any, TypeVar

from ast_jax.errors import InputError

Row = TypeVar("Row")


def look_up(table: Mapping[str, Row], name: str, what: str) -> Row:
    """The row of `table` called `name`, or the attribute that `module:attribute` names.

    A module is searched for in the working directory too, as `python -m` does. A row may itself be such an
    address: it is imported on first use.

    Raises:
        InputError: no such row, module or attribute; the nearest names are told.
    """
    row: Any = table.get(name)
    if row is None and ":" in name:
        row = name
    if row is None:
        near = difflib.get_close_matches(name, table, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"choose one of {', '.join(table)}"
        raise InputError(f"there is no {what} {name!r}: {hint} (or module:name of your own)")
    return _imported(row, what) if isinstance(row, str) else row


def _imported(address: str, what: str) -> Any:
    module, _, attribute = address.partition(":")
    here = os.getcwd()
    if here not in sys.path:
        sys.path.append(here)
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise InputError(f"{what} {address!r} cannot be imported from {here} ({error})") from error
