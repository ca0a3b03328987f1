"""What requests may cost, in all and by client, and how one is refused."""

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http import HTTPStatus


@dataclass(frozen=True)
class Limits:
    """Of `connections`, `waiting` and the bytes of uploads one client (an address) gets half at most.

    Memory is at most `uploads_held` uploads and `at_once` times 0.5 MB a second of sound, beside the model's.
    """

    upload_bytes: int = 64_000_000
    sound_s: float = 600.0
    connections: int = 256
    # Until a request's headers are whole, and until an answer has been taken.
    header_time_s: float = 10.0
    # An upload may take `upload_grace_s`, and a second more for every `upload_rate` bytes that came.
    upload_grace_s: float = 5.0
    upload_rate: int = 10_000
    upload_time_s: float = 60.0
    # Uploads of the largest size in memory at a time; of smaller ones, as many as have those bytes.
    uploads_held: int = 8
    # By the clock; of processor time no more than that either.
    decode_time_s: float = 30.0
    # Address space of the process that decodes.
    decode_bytes: int = 1_000_000_000
    # From the first byte to the answer.
    answer_time_s: float = 120.0
    # Sounds decoded and computed at a time. Uploads are read outside of these: a slow one costs nobody.
    at_once: int = 2
    # Sounds that are there and wait for their turn, those being computed included.
    waiting: int = 128


class Shares:
    """So many of something for all clients together, and half of it at most for each of them."""

    def __init__(self, most: int):
        self._most, self._held = most, Counter[str]()

    @contextlib.contextmanager
    def portion(self, client: str) -> Iterator[Callable[[int], bool]]:
        """A function that takes so many more, or says False where too few are left; the end returns all."""
        taken = 0

        def take(count: int) -> bool:
            nonlocal taken
            half = -(-self._most // 2)
            if self._held.total() + count > self._most or self._held[client] + count > half:
                return False
            self._held[client] += count
            taken += count
            return True

        try:
            yield take
        finally:
            self._held[client] -= taken
            if not self._held[client]:
                del self._held[client]


class RequestRefused(Exception):
    """A request that gets no tags: an HTTP status, and a line that says what was got and what was wanted."""

    def __init__(self, status: HTTPStatus, line: str):
        super().__init__(line)
        self.status, self.line = status, line
