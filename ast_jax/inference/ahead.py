"""Sounds decoded ahead, several at a time, each in a thread: decoders and transforms let go of Python's lock.

What is held is a few windows of as many files as are open; files come in their order.
"""

import queue
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from threadpoolctl import threadpool_limits

from ast_jax import system

# Files open at a time: two more than run, so that none waits for a thread to begin.
OPEN = min(8, system.cores()) + 2
# Windows handed over at a time, since each time threads wait for the lock; and how often some may wait.
TOGETHER, HELD = 8, 1
# Seconds until a thread that nobody takes windows from looks whether it is to end.
_LOOK_S = 0.1
Tell = Callable[[str], None]


class Reader:
    """One file's windows; going through it takes them. Raises what reading the file raises."""

    def __init__(self, file: Any, read: Callable[[Any, Tell], Iterable[Any]]):
        self.file = file
        # what is odd about the file; whole when its windows are
        self.notes: list[str] = []
        self._read, self._ended = read, threading.Event()
        self._windows: queue.Queue = queue.Queue(HELD)
        threading.Thread(target=self._work, daemon=True, name="decoder").start()

    def __iter__(self) -> Iterator[Any]:
        while True:
            windows, error = self._windows.get()
            yield from windows
            if error is not None:
                raise error
            if len(windows) < TOGETHER:
                return

    def end(self) -> None:
        """The rest is not wanted: its thread ends."""
        self._ended.set()

    def _work(self) -> None:
        windows: list[Any] = []
        try:
            for window in self._read(self.file, self.notes.append):
                windows.append(window)
                if len(windows) == TOGETHER:
                    self._hand_over(windows)
                    windows = []
                    if self._ended.is_set():
                        return
            self._hand_over(windows)
        except BaseException as error:  # it is raised where the windows are taken
            self._hand_over(windows, error)

    def _hand_over(self, windows: list[Any], error: BaseException | None = None) -> None:
        while not self._ended.is_set():
            try:
                return self._windows.put((windows, error), timeout=_LOOK_S)
            except queue.Full:
                continue
        return None


def readers(files: Iterable[Any], read: Callable[[Any, Tell], Iterable[Any]]) -> Iterator[Reader]:
    """Each file's reader, in order; the next ones are at work already. `read` gives a file's windows, and
    tells what is odd about it.
    """
    begun: deque[Reader] = deque()
    # Threads enough: BLAS's own would spin beside them, for products too small to share.
    with threadpool_limits(1, user_api="blas"):
        try:
            for file in files:
                begun.append(Reader(file, read))
                if len(begun) == OPEN:
                    yield begun[0]
                    begun.popleft()
            while begun:
                yield begun[0]
                begun.popleft()
        finally:
            for reader in begun:
                reader.end()
