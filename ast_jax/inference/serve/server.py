"""uvicorn as this server runs it, with limits it lacks: on half-sent headers, connections and its log."""

import asyncio
import contextlib
import functools
import json
import logging
import socket
import time

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from ast_jax import system
from ast_jax.errors import InputError
from ast_jax.inference.serve.limits import Limits, Shares

# What requests in progress get at the end.
STOP_S = 1
# A kind of message is logged once in that time.
LOG_EVERY_S = 10.0


def listen(host: str, port: int) -> socket.socket:
    """A socket bound to it, before the model is loaded. Raises InputError where that cannot be."""
    if not 0 <= port < 1 << 16:
        raise InputError(f"--port={port}: wanted 0 to 65535, 0 for any free one")
    try:
        return socket.create_server((host, port), backlog=128)
    # of a name that is no text, too
    except (OSError, TypeError, ValueError) as error:
        raise InputError(f"{host}:{port} cannot be listened on ({error}): choose another --port") from error


def settings(app, limits: Limits) -> uvicorn.Config:
    """uvicorn's settings: quiet, quick to stop, never out of files."""
    for logger in ("uvicorn.error", "asyncio"):
        logging.getLogger(logger).addFilter(_SELDOM)
    # Of the files we may still open, half are for connections we talk to. An eighth may wait: asyncio accepts
    # all of them in one go, and again before the first are refused. Where no file is left it floods the log.
    free = system.free_descriptors()
    connections = Shares(max(2, min(limits.connections, free // 2)))
    return uvicorn.Config(
        app,
        # Not uvloop, should that be installed: it forks, which a process with JAX's threads must not.
        loop="asyncio",
        http=functools.partial(Connection, limits=limits, connections=connections),  # type: ignore[arg-type]
        ws="none",
        lifespan="on",
        backlog=max(1, min(128, free // 8)),
        timeout_graceful_shutdown=STOP_S,
        # Errors go where Python's logging sends them: stderr.
        log_config=None,
        log_level="warning",
        access_log=False,
        proxy_headers=False,
        server_header=False,
    )


def run(app, limits: Limits, host: str, listening: socket.socket) -> None:
    """Says where the page is, and serves it until Ctrl-C."""
    print(f"http://{host}:{listening.getsockname()[1]}   (Ctrl-C stops it)", flush=True)
    # uvicorn ends in order, then raises it again: this is how one stops it
    with contextlib.suppress(KeyboardInterrupt):
        uvicorn.Server(settings(app, limits)).run(sockets=[listening])


class Connection(H11Protocol):
    """A client's connection. While no request is in progress a clock runs; at its end the connection is cut.

    It covers headers that never end, answers that are never taken, and bodies sent on after a refusal.
    """

    def __init__(self, *args, limits: Limits, connections: Shares, **kwargs):
        super().__init__(*args, **kwargs)
        self._limits, self._connections = limits, connections
        self._clock: asyncio.TimerHandle | None = None
        self._share = contextlib.ExitStack()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        take = self._share.enter_context(self._connections.portion(self.client[0] if self.client else ""))
        if not take(1):
            transport.write(_TOO_MANY)
            transport.close()
        self._start_clock()

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop_clock()

    def on_response_complete(self) -> None:
        self._start_clock()
        super().on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_clock()
        self._share.close()
        super().connection_lost(exc)

    def _start_clock(self) -> None:
        self._stop_clock()
        self._clock = self.loop.call_later(self._limits.header_time_s, self.transport.abort)

    def _stop_clock(self) -> None:
        if self._clock is not None:
            self._clock.cancel()
            self._clock = None


_ERROR = json.dumps({"error": "too many connections: try again"})
_TOO_MANY = (
    "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\n"
    f"Content-Length: {len(_ERROR)}\r\nConnection: close\r\n\r\n{_ERROR}"
).encode()


class Seldom(logging.Filter):
    """Lets a kind of message through once in `LOG_EVERY_S`, and then says how many were left out."""

    def __init__(self) -> None:
        super().__init__()
        self._seen: dict[tuple[str, object], tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        # asyncio's further lines name the very socket or task.
        kind = (str(record.msg).partition("\n")[0], record.exc_info and record.exc_info[0])
        now = time.monotonic()
        last, left_out = self._seen.get(kind, (-LOG_EVERY_S, 0))
        if now - last < LOG_EVERY_S:
            self._seen[kind] = (last, left_out + 1)
            return False
        self._seen[kind] = (now, 0)
        if left_out:
            record.msg = f"{record.msg} (and {left_out:,} more like it since the last)"
        return True


_SELDOM = Seldom()
