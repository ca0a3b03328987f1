"""What a stranger's file may cost, and how its words are printed.

A file of a few bytes can claim anything: arrays of gigabytes, names that are escape sequences, objects whose
text is endless. What it may ask for is tied to its own size.
"""

import os
import zipfile
from pathlib import Path

from ast_jax.errors import InputError

# Weights hardly compress, and tied ones are named twice or thrice; up to FLOOR bytes nobody counts.
RATIO, FLOOR = 16, 1 << 24


class Budget:
    """The bytes that a file may still ask for: RATIO times its own size, at least FLOOR."""

    def __init__(self, path: Path):
        self.path, self.size = path, os.path.getsize(path)
        self.left = max(RATIO * self.size, FLOOR)

    def spend(self, count: int) -> None:
        """Raises InputError where the file asks for more than it may."""
        self.left -= count
        if count < 0 or self.left < 0:
            raise InputError(
                f"{self.path} has {self.size} bytes and asks for more than {RATIO} times as many: "
                "no checkpoint does, fetch it again from someone you trust"
            )


def zip_members(path: Path, archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """The archive's members by name, the sum of their sizes being within the budget."""
    budget = Budget(path)
    for info in archive.infolist():
        budget.spend(info.file_size)
    return {info.filename: info for info in archive.infolist()}


def shown(value: object) -> str:
    """A stranger's value for a message: one short line, escaped; a container by its type alone."""
    if isinstance(value, (str, bytes)):
        return repr(value[:100])
    plain = isinstance(value, (bool, int, float, type(None)))
    return repr(value)[:100] if plain else f"a {type(value).__name__}"
