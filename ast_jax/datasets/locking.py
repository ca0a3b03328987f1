"""One process at a time: a lock on a file, which the kernel drops when the process that holds it dies."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from ast_jax import system
from ast_jax.errors import InputError


@contextmanager
def alone(path: Path, waiting: str = "") -> Iterator[None]:
    """Waits until no other process holds the lock on `path`; if it has to, it says `waiting` on stderr.

    The file stays: deleting it would let two processes lock two files. Raises InputError where none can be
    locked.
    """
    with path.open("w") as file:
        if not locked(file):
            if waiting:
                print(waiting, file=sys.stderr)
            system.lock(file, wait=True)
        yield


def locked(file: IO) -> bool:
    """Whether the lock on it could be had at once; closing the file gives it back."""
    try:
        return system.lock(file, wait=False)
    except OSError as error:
        raise InputError(
            f"{file.name} cannot be locked ({error}): prepare on a local disk and copy the result"
        ) from None
