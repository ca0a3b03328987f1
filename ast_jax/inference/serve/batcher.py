"""One queue in front of the model: windows of all requests share its batches.

T frames, F mel bins, C classes, B windows a batch; an answer may be one for each step.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

Score = Callable[[Float[np.ndarray, "B T F"]], Float[np.ndarray, "B *steps C"]]


class Batcher:
    """Computes windows in batches of one shape, in a thread, in the order they come.

    A request hands in one batch at a time, so that a short sound never waits for the whole of a long one.
    """

    def __init__(self, score: Score, shape: tuple[int, int, int], *, padding: float = 0.0):
        self._score, self._shape, self._padding = score, shape, padding
        self._waiting: asyncio.Queue[tuple[np.ndarray, asyncio.Future]] = asyncio.Queue()
        self.batches = 0  # computed so far

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Compiles, then computes what comes until it is left."""
        await asyncio.to_thread(self._score, np.zeros(self._shape, np.float32))
        worker = asyncio.create_task(self._work())
        try:
            yield
        finally:
            worker.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await worker

    async def scores(self, windows: Sequence[Float[np.ndarray, "t F"]]) -> Float[np.ndarray, "W *steps C"]:
        """Scores of each window; those shorter than T are padded with rows of `padding`."""
        found: list[np.ndarray] = []
        for start in range(0, len(windows), self._shape[0]):
            answers = []
            for window in windows[start : start + self._shape[0]]:
                answers.append(asyncio.get_running_loop().create_future())
                self._waiting.put_nowait((window, answers[-1]))
            found += await asyncio.gather(*answers)
        return np.stack(found)

    async def _work(self) -> None:
        while True:
            taken = [await self._waiting.get()]
            while len(taken) < self._shape[0] and not self._waiting.empty():
                taken.append(self._waiting.get_nowait())
            taken = [(window, answer) for window, answer in taken if not answer.cancelled()]
            if taken:
                await self._compute(taken)

    async def _compute(self, taken: list[tuple[np.ndarray, asyncio.Future]]) -> None:
        batch = np.full(self._shape, self._padding, np.float32)
        for row, (window, _) in zip(batch, taken, strict=False):
            row[: len(window)] = window
        self.batches += 1
        results: list[Any]
        try:
            results = list(await asyncio.to_thread(self._score, batch))
        except Exception as error:  # whatever it is, those who wait are told, and the next batch is tried
            results = [error] * len(taken)
        for (_, answer), found in zip(taken, results, strict=False):
            if answer.done():  # whoever asked has gone
                continue
            answer.set_exception(found) if isinstance(found, Exception) else answer.set_result(found)
