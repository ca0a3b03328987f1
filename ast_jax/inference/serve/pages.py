"""What the local pages share: their files, the headers of every answer, who may ask, errors as JSON."""

from collections.abc import Awaitable, Callable, Sequence
from http import HTTPStatus
from importlib import resources
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ast_jax.inference.serve.limits import RequestRefused

# The page may load its own files and nothing else; it may hear the microphone; no other page may frame it.
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; media-src 'self' blob:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Permissions-Policy": "microphone=(self), camera=(), geolocation=()",
    "Cache-Control": "no-cache",
}


def page_app(files: dict[str, tuple[str, str]], hosts: Sequence[str], **options: Any) -> FastAPI:
    """An application that serves `files`, {path: (name among the page's files, media type)}, to the names in
    `hosts` alone: another name that leads here is refused.
    """
    handlers = options.pop("exception_handlers", {})
    app = FastAPI(
        version="1",
        docs_url=None,  # these two would load scripts from elsewhere
        redoc_url=None,
        exception_handlers={
            RequestRefused: _refused,
            HTTPException: _no_such_address,
            Exception: _failed,
            **handlers,
        },
        **options,
    )
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(hosts))
    app.add_middleware(_WithHeaders)
    for path, file in files.items():
        app.add_route(path, _file(*file))
    return app


def refuse_other_sites(request: Request) -> None:
    """Raises RequestRefused where a page of another site makes the browser ask."""
    if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        line = "another site's page asked: open this server's own page"
        raise RequestRefused(HTTPStatus.FORBIDDEN, line)


class _WithHeaders:
    """Every answer gets `_HEADERS`, those for other addresses and hosts included."""

    def __init__(self, app: ASGIApp):
        self._app = app
        self._headers = [(name.lower().encode(), value.encode()) for name, value in _HEADERS.items()]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def sent(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *self._headers]
            await send(message)

        await self._app(scope, receive, sent)


def _file(name: str, kind: str) -> Callable[[Request], Awaitable[Response]]:
    """One of the page's files, read when the server starts."""
    content = (resources.files("ast_jax.inference.serve") / "static" / name).read_bytes()

    async def send(request: Request) -> Response:
        return Response(content, media_type=kind)

    return send


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestRefused)
    return JSONResponse({"error": error.line}, error.status)


async def _no_such_address(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, error.status_code, error.headers)


async def _failed(request: Request, error: Exception) -> Response:
    """A fault of ours: the log has it, for Starlette raises it again after this."""
    line = "the server failed on this sound: its log says how"
    return JSONResponse({"error": line}, HTTPStatus.INTERNAL_SERVER_ERROR, _HEADERS)
