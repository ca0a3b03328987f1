"""What one request may cost, and how a request is refused."""

from dataclasses import dataclass
from http import HTTPStatus


@dataclass(frozen=True)
class Limits:
    """Memory in all is about `at_once` times (upload + 0.5 MB a second of sound), beside the model's own."""

    upload_bytes: int = 64_000_000
    sound_s: float = 600.0
    upload_time_s: float = 60.0
    decode_time_s: float = 30.0  # by the clock; of processor time no more than that either
    decode_bytes: int = 1_000_000_000  # address space of the process that decodes
    answer_time_s: float = 120.0  # from the first byte to the answer
    at_once: int = 2  # uploads read, decoded and computed at a time; the others wait unread
    waiting: int = 64  # more than that are told to come again


class Refusal(Exception):
    """A request that gets no tags: an HTTP status and a line for people: what was got, what was wanted."""

    def __init__(self, status: HTTPStatus, line: str):
        super().__init__(line)
        self.status, self.line = status, line
