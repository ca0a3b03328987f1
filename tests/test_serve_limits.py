"""The server behind real sockets: slow, greedy and broken clients cost nobody an answer; it stops soon."""

import asyncio
import contextlib
import http.client
import json
import logging
import os
import resource
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from chromium import served
from test_serve import sound, tagger  # noqa: F401 (a fixture)

from ast_jax.inference.serve.app import make_app
from ast_jax.inference.serve.limits import Limits, Shares
from ast_jax.inference.serve.server import LOG_EVERY_S, Seldom

UPLOAD = b"POST /api/tags HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n"


@contextlib.contextmanager
def connections(
    address: str, count: int, sent: bytes, client: str = "127.0.0.1"
) -> Iterator[list[socket.socket]]:
    """So many connections of one client (any of 127.0.0.0/8), on each of which that was sent."""
    with contextlib.ExitStack() as stack:
        found = []
        for _ in range(count):
            to = ("127.0.0.1", port(address))
            one = stack.enter_context(socket.create_connection(to, timeout=20, source_address=(client, 0)))
            one.sendall(sent)
            found.append(one)
        yield found


def port(address: str) -> int:
    return int(address.rpartition(":")[2])


def ask(address: str, body: bytes | None = None, client: str = "127.0.0.1") -> tuple[int, dict]:
    connection = http.client.HTTPConnection(
        "127.0.0.1", port(address), timeout=20, source_address=(client, 0)
    )
    with contextlib.closing(connection):
        if body is None:
            connection.request("GET", "/api/model")
        else:
            connection.request("POST", "/api/tags", body)
        reply = connection.getresponse()
        return reply.status, json.loads(reply.read())


def received(connection: socket.socket) -> bytes:
    """All that comes until the other side closes."""
    parts = []
    with contextlib.suppress(ConnectionResetError):
        while part := connection.recv(1 << 16):
            parts.append(part)
    return b"".join(parts)


def test_uploads_at_a_byte_a_second_stop_nobody(tagger):  # noqa: F811
    limits = Limits(at_once=1, waiting=2, upload_grace_s=15.0)
    with (
        served(make_app(tagger, limits), limits) as address,
        connections(address, 66, UPLOAD + b"x") as slow,
    ):
        assert ask(address, sound(0.5))[0] == 200
        slow[0].setblocking(False)
        with pytest.raises(BlockingIOError):  # it still may send
            slow[0].recv(1)


def test_an_upload_at_a_byte_a_second_is_cut_off(tagger):  # noqa: F811
    limits = Limits(upload_grace_s=0.5, header_time_s=0.5)
    with (
        served(make_app(tagger, limits), limits) as address,
        connections(address, 1, UPLOAD + b"x") as [slow],
    ):
        answer = received(slow)
        assert b" 408 " in answer.splitlines()[0]
        assert b"1 bytes in 0.5 s, and no end" in answer


def test_a_slow_upload_is_taken_as_long_as_it_keeps_the_pace(tagger):  # noqa: F811
    """Ten pieces in a second and a half, where the first alone would be cut off after half a second."""
    body = sound(1.0)
    piece = -(-len(body) // 10)
    limits = Limits(upload_grace_s=0.5, upload_rate=piece * 5)

    def pieces() -> Iterator[bytes]:
        for start in range(0, len(body), piece):
            yield body[start : start + piece]
            time.sleep(0.15)

    with served(make_app(tagger, limits), limits) as address:
        assert ask(address, pieces())[0] == 200


@pytest.mark.parametrize("dribble", [b"", b"x"], ids=["silent", "a byte at a time"])
def test_half_sent_headers_are_cut_off(tagger, dribble):  # noqa: F811
    limits = Limits(header_time_s=0.5)
    with (
        served(make_app(tagger, limits), limits) as address,
        connections(address, 1, b"GET / HTTP/1.1\r\nX-Long: ") as [one],
    ):
        one.settimeout(0.1)
        began, closed = time.monotonic(), False
        while not closed and time.monotonic() - began < 5:
            try:
                one.sendall(dribble)
                closed = one.recv(1) == b""
            except TimeoutError:
                continue
            except (ConnectionResetError, BrokenPipeError):
                closed = True
        assert closed
        assert 0.4 < time.monotonic() - began < 3
        assert ask(address)[0] == 200


def test_a_body_sent_on_after_a_refusal_is_cut_off(tagger):  # noqa: F811
    limits = Limits(header_time_s=0.5)
    asked = UPLOAD.replace(b"/api/tags", b"/api/tags?top=0")
    with served(make_app(tagger, limits), limits) as address, connections(address, 1, asked) as [one]:
        began = time.monotonic()
        assert b" 400 " in received(one).splitlines()[0]
        assert time.monotonic() - began < 3


def test_one_client_gets_half_of_the_connections(tagger):  # noqa: F811
    limits = Limits(connections=6)
    with served(make_app(tagger, limits), limits) as address:
        holding = connections(address, 3, b"GET")
        with holding as [first, *_], connections(address, 1, b"") as [one]:
            refusal = received(one)
            assert b" 503 " in refusal.splitlines()[0]
            assert json.loads(refusal.partition(b"\r\n\r\n")[2]) == {
                "error": "too many connections: try again"
            }
            assert ask(address, client="127.0.0.2")[0] == 200
            first.close()
            time.sleep(0.1)
            assert ask(address)[0] == 200


def test_uploads_in_memory_are_bounded_in_all(tagger):  # noqa: F811
    """Of two uploads' bytes, one client may hold one; what does not fit is told to come again."""
    limits = Limits(upload_bytes=100_000, uploads_held=2)
    with (
        served(make_app(tagger, limits), limits) as address,
        connections(address, 1, UPLOAD + bytes(90_000)) as _,
    ):
        time.sleep(0.2)
        status, answer = ask(address, sound(1.0))
        assert (status, answer["error"]) == (503, "too many uploads at once: try again")
        assert ask(address, sound(1.0), client="127.0.0.2")[0] == 200


def test_shares_are_given_back():
    shares = Shares(4)
    with shares.portion("a") as take_a, shares.portion("b") as take_b, shares.portion("c") as take_c:
        assert [take_a(1), take_a(1), take_a(1)] == [True, True, False]
        assert [take_b(2), take_c(1)] == [True, False]
    with shares.portion("a") as take_a:
        assert take_a(2)


def test_it_stops_within_seconds_while_an_upload_is_unfinished(tagger):  # noqa: F811
    limits = Limits()
    with contextlib.ExitStack() as stack:
        serving = stack.enter_context(contextlib.ExitStack())
        address = serving.enter_context(served(make_app(tagger, limits), limits))
        [upload] = stack.enter_context(connections(address, 1, UPLOAD + b"x"))
        stack.enter_context(connections(address, 1, b"GET / HT"))
        time.sleep(0.2)
        answers: list[bytes] = []
        listener = threading.Thread(target=lambda: answers.append(received(upload)))
        listener.start()
        began = time.monotonic()
        serving.close()
        assert time.monotonic() - began < 3
        listener.join()
        assert b"the server is being stopped" in answers[0]


def test_at_the_limit_of_open_files_it_neither_spins_nor_floods(tmp_path):
    """A server that may open 80 files, 120 connections with half-sent headers, and one that asks properly."""
    program = """
        import resource
        import uvicorn
        from ast_jax.inference.serve.limits import Limits
        from ast_jax.inference.serve.server import listen, settings

        async def app(scope, receive, send):
            if scope["type"] == "lifespan":
                await receive()
                await send({"type": "lifespan.startup.complete"})
                await receive()
                await send({"type": "lifespan.shutdown.complete"})
            else:
                await send({"type": "http.response.start", "status": 200, "headers": []})
                await send({"type": "http.response.body", "body": b"{}"})

        resource.setrlimit(resource.RLIMIT_NOFILE, (80, 80))
        listening = listen("127.0.0.1", 0)
        print(listening.getsockname()[1], flush=True)
        uvicorn.Server(settings(app, Limits(header_time_s=2))).run(sockets=[listening])
    """
    root = Path(__file__).resolve().parents[1]
    with (
        open(tmp_path / "log", "w+") as log,
        subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(program)],
            cwd=root,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        ) as process,
    ):
        assert process.stdout is not None
        address = f":{process.stdout.readline().strip()}"
        with contextlib.ExitStack() as stack:
            for client in range(2, 6):
                with contextlib.suppress(ConnectionResetError, BrokenPipeError):
                    stack.enter_context(connections(address, 30, b"GET / HT", f"127.0.0.{client}"))
            before = _cpu_s(process.pid)
            time.sleep(1.5)
            spent = _cpu_s(process.pid) - before
            time.sleep(1.0)
            assert ask(address)[0] == 200
        process.terminate()
        process.wait(10)
        log.seek(0)
        lines = log.read().splitlines()
    assert spent < 0.5
    assert len(lines) < 10
    assert not any("out of system resource" in line for line in lines)


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_a_message_that_comes_again_and_again_is_logged_once(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    seldom = Seldom()

    def passes(message: str, error: type | None = None) -> logging.LogRecord | None:
        info = error and (error, error(), None)
        record = logging.LogRecord("uvicorn.error", logging.WARNING, "", 0, message, (), info)
        return record if seldom.filter(record) else None

    assert [bool(passes("Invalid request")) for _ in range(4)] == [True, False, False, False]
    assert passes("out of files\nsocket 7")
    assert not passes("out of files\nsocket 8")
    assert passes("Exception", ValueError)
    assert passes("Exception", KeyError), "another fault must not be hidden by the first"
    now[0] += LOG_EVERY_S
    again = passes("Invalid request")
    assert again
    assert again.getMessage() == "Invalid request (and 3 more like it since the last)"


def test_a_server_that_may_open_few_files_talks_to_few(monkeypatch):
    from ast_jax.inference.serve.server import settings

    monkeypatch.setattr(resource, "getrlimit", lambda _: (len(os.listdir("/dev/fd")) + 40, 0))
    assert settings(None, Limits()).backlog <= 5


def test_what_nobody_waits_for_is_not_computed(tagger, monkeypatch):  # noqa: F811
    """With one place for computing: a client that left while it waited costs no decoder."""
    from ast_jax.inference.serve import app

    decoded, go = [], threading.Event()

    async def decode(body: bytes, **_) -> np.ndarray:
        decoded.append(len(body))
        while not go.is_set():
            await asyncio.sleep(0.02)
        return np.zeros(8000, np.float32)

    monkeypatch.setattr(app, "decode", decode)
    limits = Limits(at_once=1)
    with served(make_app(tagger, limits), limits) as address:
        first = threading.Thread(target=ask, args=(address, b"first"))
        first.start()
        until(lambda: decoded == [5])
        whole = UPLOAD.replace(b"1000000", b"2") + b"xx"
        with connections(address, 1, whole):
            time.sleep(0.2)
        time.sleep(0.2)
        go.set()
        first.join()
        assert ask(address, b"last")[0] == 200
    assert decoded == [5, 4]


def until(true) -> None:
    for _ in range(500):
        if true():
            return
        time.sleep(0.02)
    raise AssertionError("not within 10 s")
