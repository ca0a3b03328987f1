"""What operating systems do not have in common.

Linux has it all; macOS lacks the set of cores a process may use; Windows lacks locks on files and limits on
what a process may take, and what needs them says so.
"""

import os
import sys
from typing import IO

try:
    import fcntl
    import resource
except ImportError:
    POSIX = False
else:
    POSIX = True


def cores() -> int:
    """How many this process may use, where that is known; else how many there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def lock(file: IO, *, wait: bool) -> bool:
    """Whether an exclusive lock on it could be had; the kernel drops it with the process, or as it closes.

    Raises OSError where it lies on something that has no locks. Without locks on this system it is told, and
    true.
    """
    if not POSIX:
        print(f"{file.name} is not locked on {sys.platform}: start no second process on it", file=sys.stderr)
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    return True


def above_stderr(descriptor: int) -> int:
    """A copy of it that is none of 0 to 2."""
    return fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 3)


def limit(*, memory_bytes: int, cpu_s: int) -> None:
    """Of this process, for good: address space (Linux), processor time, no file written, no core dumped."""
    if sys.platform == "linux":
        resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, cpu_s + 1))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def free_descriptors() -> int:
    """How many more files this process may open."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0] - len(os.listdir("/dev/fd"))
