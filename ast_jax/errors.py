"""The two ways a run ends that are not faults of the program; their messages are one line: got, wanted,
do.
"""

import os
from typing import Any


def printable(name: Any) -> str:
    """A path or name as text that can be written anywhere: bytes that are no UTF-8 are escaped."""
    return os.fspath(name).encode("utf-8", "backslashreplace").decode()


class InputError(ValueError):
    """Bad input. The command line prints `error: <message>` and exits with status 2; nothing is lost."""


class Diverged(ArithmeticError):
    """The loss is not a finite number. The last checkpoint is from before and is kept; exit status 3."""
