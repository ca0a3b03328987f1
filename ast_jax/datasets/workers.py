"""Extracts clips on all cores, in order: a few child processes, each asked for one clip at a time over its own pipe.

Not `multiprocessing`: forking after jax has started threads may hang, spawning imports the caller's main module again in every child, and
a decoder that crashes would take the pool with it. Here a crash costs one clip, and children end by themselves when their parent is gone.
"""

import contextlib
import os
import pickle
import queue
import subprocess
import sys
from collections import deque
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO, NamedTuple, cast

from ast_jax.datasets.extract import Extraction, Record, extract
from ast_jax.datasets.listing import Clip
from ast_jax.features import AudioError

FEW = 48  # clips: below this, starting processes takes longer than the work
AHEAD = 2  # clips a worker may be ahead of the writer: bounds memory
THREAD_LIMITS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")


class Unreadable(NamedTuple):
    """Why a clip has no record: in a word or two, and in a sentence."""

    reason: str
    detail: str


Outcome = list[Record] | Unreadable


def outcomes(
    clips: list[Clip], how: Extraction, workers: int | None = None
) -> Generator[tuple[Clip, Outcome], None, None]:
    """Each clip with its records, or with the reason why it cannot be read, in order. Close it (`contextlib.closing`) to end the children."""
    workers = workers or len(os.sched_getaffinity(0))
    if workers == 1 or len(clips) < FEW:
        return ((clip, attempt(clip, how)) for clip in clips)
    return _in_processes(clips, how, min(workers, len(clips)))


def attempt(clip: Clip, how: Extraction) -> Outcome:
    """The clip's records, or why there are none. Whatever a decoder throws is a reason: one file must not end a run over millions."""
    try:
        return extract(clip, how)
    except AudioError as error:
        return Unreadable(error.reason, str(error).removeprefix(f"{clip.path}: {error.reason}: "))
    except Exception as error:
        return Unreadable("failed", f"{type(error).__name__}: {error}")


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

    threads = ThreadPoolExecutor(workers)  # they only wait on pipes
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
        threads.shutdown(cancel_futures=True)
        for child in children:
            child.close()


class _Child:
    """One child process; started again after a crash."""

    def __init__(self, how: Extraction):
        self._how = how
        self._start()

    def _start(self) -> None:
        package_root = os.fspath(Path(__file__).resolve().parents[2])
        path = os.pathsep.join(filter(None, [package_root, os.environ.get("PYTHONPATH")]))
        self._process = subprocess.Popen(
            [sys.executable, "-c", "from ast_jax.datasets.workers import serve; serve()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **dict.fromkeys(THREAD_LIMITS, "1"), "PYTHONPATH": path},
            process_group=0,  # Ctrl-C reaches the parent only, which ends its children in order
        )
        self._requests = cast(BinaryIO, self._process.stdin)
        self._answers = cast(BinaryIO, self._process.stdout)
        self._send(self._how)

    def _send(self, message: object) -> None:
        pickle.dump(message, self._requests)
        self._requests.flush()

    def ask(self, clip: Clip) -> Outcome:
        try:
            self._send(clip)
            return pickle.load(self._answers)
        except (EOFError, BrokenPipeError, pickle.UnpicklingError):
            status = self._process.wait()
            if status > 0:  # Python ended, not a decoder: its traceback is on stderr
                raise RuntimeError(f"a worker that decodes sound files ended with status {status}") from None
            self.close()
            self._start()
            return Unreadable("crashed", f"the decoder ended with signal {-status}")

    def close(self) -> None:
        for pipe in (self._requests, self._answers):
            with contextlib.suppress(BrokenPipeError):  # what was left to send is for a process that is gone
                pipe.close()
        self._process.wait()


def serve() -> None:
    """The child's side: an Extraction, then clips, until the pipe closes."""
    requests, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    how = pickle.load(requests)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what libraries print must not get between the answers,
    os.dup2(1, 2)  # nor their warnings into the progress bar
    while True:
        try:
            clip = pickle.load(requests)
        except EOFError:
            return
        pickle.dump(attempt(clip, how), answers, protocol=pickle.HIGHEST_PROTOCOL)
        answers.flush()
