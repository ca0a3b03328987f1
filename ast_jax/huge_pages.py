"""Memory in pages of 2 MiB for a whole program. Imports nothing of ours: benchmarks use it where only jax, flax and optax are installed."""

import os
import sys

HUGE_PAGES = ("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1")


def use_huge_pages() -> None:
    """Starts this process again with memory that comes in pages of 2 MiB, where Linux offers them and the user has set nothing.

    A training step's working memory goes back to the system at its end, and by pages of 4 KiB fetching it again takes up to a third of
    a step on CPUs (docs/benchmarks.md). glibc reads the variable once, as a process starts: hence the second start, which costs 0.1 s.
    Child processes inherit it. Only for a program's own entry, before it has begun anything.
    """
    name, value = HUGE_PAGES
    if sys.platform == "linux" and name not in os.environ:
        os.environ[name] = value
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
