"""Extracts clips on all cores, in order: a few child processes, asked for one clip at a time.

Not a pool of `multiprocessing`, `concurrent.futures` or `pebble`, which start children in one of two ways:
forking after jax has started threads may hang, and spawning imports the caller's main module again in every
child. Here a decoder that crashes or hangs costs one clip, and children end with their parent, however that
ends.
"""

import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import NamedTuple

from ast_jax import system
from ast_jax.datasets.extract import Extraction, Record, extract
from ast_jax.datasets.listing import Clip
from ast_jax.features import AudioError

# Clips: below this, starting processes takes longer than the work.
FEW = 48
# Clips a worker may be ahead of the writer: bounds memory.
AHEAD = 2
# Seconds a worker may take for the next record: decoding the longest recording that is stored whole, on a
# slow disk.
PATIENCE_S = 600.0
THREAD_LIMITS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")


class Unreadable(NamedTuple):
    """Why a clip has no record: in a word or two, and in a sentence."""

    reason: str
    detail: str


Outcome = list[Record] | Unreadable
# A clip's records, one by one, and what ends them: nothing more, or why none of them counts.
Answer = Record | Unreadable | None


def outcomes(
    clips: list[Clip], how: Extraction, workers: int | None = None
) -> Generator[tuple[Clip, Outcome], None, None]:
    """Each clip with its records, or with the reason why it cannot be read, in order.

    `workers` processes do it, 1 being this one, as on Windows always; None: as many as this one may use
    cores, unless there are few clips. Close it (`contextlib.closing`) to end the children.
    """
    if workers is None:
        workers = system.cores() if len(clips) >= FEW else 1
    # A front end of the caller's main module cannot be imported in a child.
    if workers == 1 or type(how.front_end).__module__ == "__main__" or not system.POSIX:
        return ((clip, attempt(clip, how)) for clip in clips)
    return _in_processes(clips, how, min(workers, len(clips)))


def attempt(clip: Clip, how: Extraction) -> Outcome:
    """The clip's records, or why there are none."""
    return _collected(_answers(clip, how))


def _answers(clip: Clip, how: Extraction) -> Iterator[Answer]:
    """Whatever a decoder throws is a reason: one file must not end a run over millions."""
    try:
        yield from extract(clip, how)
    except AudioError as error:
        yield Unreadable(error.reason, str(error).removeprefix(f"{clip.path}: {error.reason}: "))
    except Exception as error:
        yield Unreadable("failed", f"{type(error).__name__}: {error}")
    else:
        yield None


def _collected(answers: Iterable[Answer]) -> Outcome:
    """A clip's records, if none of its answers says that it cannot be read."""
    records: list[Record] = []
    for answer in answers:
        if answer is None:
            break
        if isinstance(answer, Unreadable):
            return answer
        records.append(answer)
    return records


def _in_processes(
    clips: list[Clip], how: Extraction, workers: int
) -> Generator[tuple[Clip, Outcome], None, None]:
    idle: queue.SimpleQueue[_Child] = queue.SimpleQueue()
    children = [_Child(how) for _ in range(workers)]
    for child in children:
        idle.put(child)

    def ask(clip: Clip) -> Outcome:
        child = idle.get()
        try:
            return child.ask(clip)
        finally:
            idle.put(child)

    threads = ThreadPoolExecutor(workers)  # they only wait on sockets
    pending: deque = deque()
    try:
        for clip in clips:
            pending.append((clip, threads.submit(ask, clip)))
            if len(pending) > AHEAD * workers:
                clip, answer = pending.popleft()
                yield clip, answer.result()
        while pending:
            clip, answer = pending.popleft()
            yield clip, answer.result()
    finally:
        for child in children:
            child.end()
        threads.shutdown(cancel_futures=True)
        for child in children:
            child.close()


class _Child:
    """One child process; started again after a crash."""

    def __init__(self, how: Extraction):
        self._how = how
        self._ended = False
        self._start()

    def _start(self) -> None:
        # What can be imported here can be there, a front end of the user's own among it.
        path = [os.fspath(Path(__file__).resolve().parents[2]), *filter(None, sys.path)]
        environment = {**dict.fromkeys(THREAD_LIMITS, "1"), "PYTHONPATH": os.pathsep.join(path)}
        self._socket, theirs = (_above_stderr(end) for end in Pipe())
        with theirs:
            call = f"serve({theirs.fileno()}, {os.getpid()})"
            code = f"from ast_jax.datasets.workers import serve; {call}"
            self._process = subprocess.Popen(
                [sys.executable, "-c", code],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env=os.environ | environment,
                process_group=0,  # Ctrl-C reaches the parent only, which ends its children in order
            )
        self._socket.send(self._how)

    def ask(self, clip: Clip) -> Outcome:
        """The clip's records, or why there are none: that the child crashed or hung among the reasons."""
        status = self._try(clip)
        # Killed from outside, as by a machine that runs out of memory: not this clip's fault, the first time.
        if status in (-signal.SIGKILL, -signal.SIGTERM) and not self._ended:
            status = self._try(clip)
        if isinstance(status, int):
            return Unreadable("crashed", f"the decoder ended with signal {-status}")
        return status

    def _try(self, clip: Clip) -> Outcome | int:
        """The outcome, or the status with which the child ended over it."""
        try:
            self._socket.send(clip)
            return _collected(self._received())
        except TimeoutError:
            self._start_again()
            return Unreadable("timed out", f"nothing came of it for {PATIENCE_S:g} s")
        except (EOFError, OSError):
            status = self._process.wait()
            if status >= 0:  # Python ended, not a decoder: its traceback is on stderr
                raise RuntimeError(f"a worker that decodes sound files ended with status {status}") from None
            self._start_again()
            return status

    def _received(self) -> Iterator[Answer]:
        while self._socket.poll(PATIENCE_S):
            yield self._socket.recv()
        raise TimeoutError

    def _start_again(self) -> None:
        self.close()
        if not self._ended:
            self._start()

    def end(self) -> None:
        """At once, whatever it is doing."""
        self._ended = True
        self._process.kill()

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        self._socket.close()


def _above_stderr(end: Connection) -> Connection:
    """The same, but never one of files 0 to 2.

    Where the caller has closed those, libraries write to them still.
    """
    return Connection(system.above_stderr(end.fileno()))


def serve(file: int, parent: int) -> None:
    """The child's side: an Extraction, then clips, until the socket closes or the parent is gone."""
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    socket = Connection(file)
    how = socket.recv()
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # what libraries print must not get into the progress bar
    while True:
        try:
            clip = socket.recv()
        except EOFError:
            return
        for answer in _answers(clip, how):
            socket.send(answer)


def _end_with(parent: int) -> None:
    """A decoder that hangs does not see the socket close."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)
