"""A request's body: read with an eye on its size and pace, and the one file of a form taken out of it."""

import asyncio
import re
from collections.abc import Callable
from email.message import Message
from http import HTTPStatus

from fastapi import Request
from starlette.requests import ClientDisconnect

from ast_jax.inference.serve.limits import Limits, RequestRefused


async def read_sound(request: Request, limits: Limits, hold: Callable[[int], bool]) -> bytes:
    """The sound in the body. `hold` says whether so many more bytes may be kept. Raises RequestRefused.

    What is too large is read to its end all the same, and forgotten: who still sends hears no answer.
    """
    chunks, size, room = [], 0, True
    loop = asyncio.get_running_loop()
    began = loop.time()
    try:
        async with asyncio.timeout(min(limits.upload_grace_s, limits.upload_time_s)) as clock:
            async for chunk in request.stream():
                size += len(chunk)
                earned_s = limits.upload_grace_s + size / limits.upload_rate
                clock.reschedule(began + min(earned_s, limits.upload_time_s))
                room = room and size <= limits.upload_bytes and hold(len(chunk))
                chunks.append(chunk)
                if not room:
                    chunks.clear()
    except TimeoutError:
        line = f"{size:,} bytes in {loop.time() - began:.1f} s, and no end: send it faster, or less"
        raise RequestRefused(HTTPStatus.REQUEST_TIMEOUT, line) from None
    except ClientDisconnect:
        raise RequestRefused(HTTPStatus.BAD_REQUEST, "the upload broke off") from None
    return _sound(b"".join(chunks), size, room, request.headers.get("content-type", ""), limits)


def _sound(body: bytes, size: int, room: bool, content_type: str, limits: Limits) -> bytes:
    if size > limits.upload_bytes:
        most = f"{limits.upload_bytes / 1e6:,.1f} MB is the most"
        line = f"{size / 1e6:,.1f} MB came, and {most}: cut or compress it"
        raise RequestRefused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, line)
    if not room:
        raise RequestRefused(HTTPStatus.SERVICE_UNAVAILABLE, "too many uploads at once: try again")
    if content_type.lower().startswith("multipart/form-data"):
        body = file_of_form(body, content_type)
    if not body:
        raise RequestRefused(HTTPStatus.BAD_REQUEST, "no sound came: send the file as the request's body")
    return body


def file_of_form(body: bytes, content_type: str) -> bytes:
    """The file in a form, as `curl -F file=@x.wav` and web pages send it. Raises RequestRefused."""
    header = Message()
    header["content-type"] = content_type
    boundary = (header.get_boundary() or "").encode("latin-1", "replace")
    # RFC 2046: nothing inside a part can look like the line between parts.
    parts = [part.partition(b"\r\n\r\n") for part in (b"\r\n" + body).split(b"\r\n--" + boundary)[1:-1]]
    files = [part for part in parts if re.search(rb"\bfilename\*?=", part[0], re.IGNORECASE)] or parts
    files = files if boundary else []
    if len(files) != 1:
        line = f"a form with {len(files)} files came: send one, or the sound itself (curl --data-binary @X)"
        raise RequestRefused(HTTPStatus.BAD_REQUEST, line)
    return files[0][2]
