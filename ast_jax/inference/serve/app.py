"""The server: three fixed files for the page, two JSON endpoints, and what a request must pass before it costs anything.

A request's body is the sound. No name or path comes with it, none is opened, and nothing is kept: what was sent is gone with
the answer.
"""

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator, Awaitable, Callable
from http import HTTPStatus
from importlib import resources
from typing import Any

import numpy as np
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ast_jax.inference.predict import Tagger
from ast_jax.inference.serve import answer, openapi
from ast_jax.inference.serve.batcher import Batcher
from ast_jax.inference.serve.guard import decode
from ast_jax.inference.serve.limits import Limits, Refusal
from ast_jax.inference.windows import BATCH, cut

_FILES = {"/": ("index.html", "text/html"), "/app.js": ("app.js", "text/javascript"), "/style.css": ("style.css", "text/css")}  # fmt: skip
# The page may load its own files and nothing else; it may hear the microphone; no other page may frame it.
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; media-src blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Permissions-Policy": "microphone=(self), camera=(), geolocation=()",
    "Cache-Control": "no-cache",
}


def make_app(tagger: Tagger, limits: Limits, *, hosts: tuple[str, ...] = ("127.0.0.1", "localhost")) -> Starlette:  # fmt: skip
    """The ASGI application. `hosts` are the names it answers to: a name of another site that leads here is refused."""
    service = Service(tagger, limits)
    routes = [Route(path, _file(*file)) for path, file in _FILES.items()]
    routes += [
        Route("/api/model", service.model),
        Route("/api/tags", service.tags, methods=["POST"]),
        Route("/openapi.json", service.openapi),
    ]
    return Starlette(
        routes=routes,
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=list(hosts))],
        exception_handlers={Refusal: _refused, Exception: _failed},
        lifespan=service.lifespan,
    )


class Service:
    """The endpoints, around one model and one queue."""

    def __init__(self, tagger: Tagger, limits: Limits):
        self._tagger, self._limits = tagger, limits
        self._grid = tagger.grid()
        shape = (BATCH, *self._grid.shape)
        self.batcher = Batcher(functools.partial(_mean_score, tagger), shape)
        self._slots, self._waiting = asyncio.Semaphore(limits.at_once), 0

    @contextlib.asynccontextmanager
    async def lifespan(self, app: Starlette) -> AsyncIterator[None]:
        async with self.batcher.running():
            yield

    async def model(self, request: Request) -> Response:
        return _json(
            {
                "labels": list(self._tagger.label_names),
                "window_s": self._grid.window_s,
                "upload_bytes": self._limits.upload_bytes,
                "sound_s": self._limits.sound_s,
            }
        )

    async def openapi(self, request: Request) -> Response:
        return _json(openapi.description(self._limits))

    async def tags(self, request: Request) -> Response:
        """What the sound in the body holds; see openapi.py."""
        if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
            raise Refusal(HTTPStatus.FORBIDDEN, "another site's page asked: open this server's own page")
        top, with_picture = _top(request), request.query_params.get("spectrogram") == "true"
        if self._waiting >= self._limits.waiting:
            raise Refusal(HTTPStatus.SERVICE_UNAVAILABLE, f"{self._waiting} sounds are waiting: try again")
        self._waiting += 1
        try:
            async with asyncio.timeout(self._limits.answer_time_s), self._slots:
                sound = await _read(request, self._limits)
                return _json(await self._answer(sound, top, with_picture))
        except TimeoutError:
            line = f"no answer within {self._limits.answer_time_s:g} s: try again, or a shorter sound"
            raise Refusal(HTTPStatus.SERVICE_UNAVAILABLE, line) from None
        finally:
            self._waiting -= 1

    async def _answer(self, sound: bytes, top: int, with_picture: bool) -> dict[str, Any]:
        waveform = await decode(sound, channels=self._grid.channels, limits=self._limits)
        windows = await asyncio.to_thread(lambda: list(cut([waveform], self._grid)))
        scores = await self.batcher.scores([window.fbank for window in windows])
        found = answer.describe(windows, scores, self._tagger.label_names, top)
        if with_picture:
            found["spectrogram"] = await asyncio.to_thread(answer.spectrogram, waveform)
        return found


def _mean_score(tagger: Tagger, fbank: np.ndarray) -> np.ndarray:
    return np.mean([np.asarray(model.scores(fbank)) for model in tagger.models], axis=0)


async def _read(request: Request, limits: Limits) -> bytes:
    """The body. One that is too large is read to its end all the same, and forgotten: who still sends hears no answer."""
    held, size = [], 0
    try:
        async with asyncio.timeout(limits.upload_time_s):
            async for chunk in request.stream():
                size += len(chunk)
                held.append(chunk)
                if size > limits.upload_bytes:
                    held.clear()
    except TimeoutError:
        line = f"{size:,} bytes in {limits.upload_time_s:g} s, and no end: send it faster, or less"
        raise Refusal(HTTPStatus.REQUEST_TIMEOUT, line) from None
    except ClientDisconnect:
        raise Refusal(HTTPStatus.BAD_REQUEST, "the upload broke off") from None
    if size > limits.upload_bytes:
        line = f"{size / 1e6:,.1f} MB came, and {limits.upload_bytes / 1e6:,.1f} MB is the most: cut or compress it"
        raise Refusal(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, line)
    if not size:
        raise Refusal(HTTPStatus.BAD_REQUEST, "no sound came: send the file as the request's body")
    return b"".join(held)


def _top(request: Request) -> int:
    text = request.query_params.get("top", "5")
    if not text.isascii() or not text.isdigit() or not 1 <= int(text[:9]) <= 50:
        raise Refusal(HTTPStatus.BAD_REQUEST, f"top={text[:20]}: wanted a number from 1 to 50")
    return int(text)


def _file(name: str, kind: str) -> Callable[[Request], Awaitable[Response]]:
    """One of the page's files, read when the server starts."""
    content = (resources.files("ast_jax.inference.serve") / "static" / name).read_bytes()

    async def send(request: Request) -> Response:
        return Response(content, media_type=kind, headers=_HEADERS)

    return send


def _json(content: dict[str, Any], status: HTTPStatus = HTTPStatus.OK) -> Response:
    return JSONResponse(content, status_code=status, headers=_HEADERS)


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refusal)
    return _json({"error": error.line}, error.status)


async def _failed(request: Request, error: Exception) -> Response:
    """A fault of ours: the log has it, for Starlette raises it again after this."""
    return _json(
        {"error": "the server failed on this sound: its log says how"}, HTTPStatus.INTERNAL_SERVER_ERROR
    )
