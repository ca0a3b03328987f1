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
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ast_jax.datasets.extract import Extraction, Record, extract
from ast_jax.datasets.records import Clip
from ast_jax.features import AudioError

FEW = 48  # clips: below this, starting processes takes longer than the work
AHEAD = 4  # clips a worker may be ahead of the writer: bounds memory
THREAD_LIMITS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")

Outcome = list[Record] | str  # the records, or the reason why there are none


def outcomes(
    clips: list[Clip], how: Extraction, workers: int | None = None
) -> Iterator[tuple[Clip, Outcome]]:
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
        return error.reason
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def _in_processes(clips: Iterable[Clip], how: Extraction, workers: int) -> Iterator[tuple[Clip, Outcome]]:
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
        self._send(self._how)

    def _send(self, message: object) -> None:
        pickle.dump(message, self._process.stdin)
        self._process.stdin.flush()

    def ask(self, clip: Clip) -> Outcome:
        try:
            self._send(clip)
            return pickle.load(self._process.stdout)
        except (EOFError, BrokenPipeError, pickle.UnpicklingError):
            status = self._process.wait()
            if status > 0:  # Python ended, not a decoder: its traceback is on stderr
                raise RuntimeError(f"a worker that decodes sound files ended with status {status}") from None
            self.close()
            self._start()
            return f"the decoder crashed (signal {-status})"

    def close(self) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
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
