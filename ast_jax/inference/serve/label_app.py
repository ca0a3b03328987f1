"""The server of `label`: one page, and what it asks of the sitting."""

import asyncio
import contextlib
import io
from http import HTTPStatus
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from fastapi import Depends, FastAPI, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

from ast_jax.errors import InputError
from ast_jax.features import load_audio
from ast_jax.features.front_end import FrontEnd
from ast_jax.inference.labelling import Clip, Session, Taken
from ast_jax.inference.serve.limits import RequestRefused
from ast_jax.inference.serve.pages import page_app, refuse_other_sites
from ast_jax.inference.serve.spectrogram import spectrogram

_FILES = {
    "/": ("label.html", "text/html"),
    "/label.js": ("label.js", "text/javascript"),
    "/shared.js": ("shared.js", "text/javascript"),
    "/style.css": ("style.css", "text/css"),
}
# A classifier of few clips is fitted before the next one is chosen; of many, beside it.
_PATIENCE_S = 0.5
# what is drawn and played of a clip
LONGEST_S = 60.0


class Page(BaseModel):
    """Which of the open pages asks: a name it has drawn itself."""

    page: str = Field(min_length=1, max_length=40)


class Next(Page):
    like: int | None = Field(default=None, description="the clip that it is to be most like")


class Skip(Page):
    clip: int


class Answer(Skip):
    label: str = Field(min_length=1, max_length=100)


def make_label_app(
    session: Session, front_end: FrontEnd, *, hosts: tuple[str, ...] = ("127.0.0.1", "localhost")
) -> FastAPI:
    """The ASGI application around a sitting; what it plays and draws is what the front end hears."""
    app = page_app(
        _FILES,
        hosts,
        title="ast_jax: label sounds",
        dependencies=[Depends(refuse_other_sites)],
        exception_handlers={RequestValidationError: _not_understood, InputError: _refused, Taken: _taken},
    )
    fitting: set[asyncio.Task] = set()

    def found(clip: Clip | None) -> dict[str, Any]:
        told = None
        if clip is not None:
            guesses = [{"label": label, "share": share} for label, share in clip.guesses]
            told = {"clip": clip.number, "name": clip.file, "why": clip.why, "guesses": guesses}
        return {"shown": told, **session.standing()}

    async def fitted() -> None:
        """Waits for the classifier, but not long."""
        task = asyncio.create_task(asyncio.to_thread(session.fit))
        fitting.add(task)
        task.add_done_callback(fitting.discard)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(task), _PATIENCE_S)

    def known(clip: int) -> int:
        """The number of a clip. Raises RequestRefused for another."""
        if not 0 <= clip < len(session.files):
            line = f"clip {clip}: wanted 0 to {len(session.files) - 1}"
            raise RequestRefused(HTTPStatus.NOT_FOUND, line)
        return clip

    @app.post("/api/next")
    async def next_clip(asked: Next) -> dict[str, Any]:
        """The clip to hear."""
        like = None if asked.like is None else known(asked.like)
        return found(await asyncio.to_thread(session.next, by=asked.page, like=like))

    @app.post("/api/answer")
    async def answer(asked: Answer) -> dict[str, Any]:
        """A clip's class; then the next clip."""
        await asyncio.to_thread(session.answer, known(asked.clip), asked.label, by=asked.page)
        await fitted()
        return found(await asyncio.to_thread(session.next, by=asked.page))

    @app.post("/api/skip")
    async def skip(asked: Skip) -> dict[str, Any]:
        """The next clip, without a class for this one."""
        session.skip(known(asked.clip), by=asked.page)
        return found(await asyncio.to_thread(session.next, by=asked.page))

    @app.post("/api/undo")
    async def undo(asked: Page) -> dict[str, Any]:
        """This page's last answer taken back, and its clip; nothing is shown where there is none."""
        clip = await asyncio.to_thread(session.undo, by=asked.page)
        await fitted()
        return found(clip)

    @app.get("/api/clips/{clip}/sound")
    async def sound(clip: int) -> Response:
        """What the model hears of it, as a wav that every browser plays."""
        file = session.files[known(clip)]
        return Response(await asyncio.to_thread(_wav, file, front_end), media_type="audio/wav")

    @app.get("/api/clips/{clip}/spectrogram")
    async def picture(clip: int) -> dict[str, Any]:
        """The same to draw."""
        file = session.files[known(clip)]
        drawn = lambda: front_end.picture(front_end.features(_heard(file, front_end)))
        return await asyncio.to_thread(lambda: spectrogram(drawn()))

    return app


def _heard(file: Path, front_end: FrontEnd) -> np.ndarray:
    rate = front_end.sample_rate_hz
    return load_audio(file, sample_rate_hz=rate)[: round(LONGEST_S * rate)]


def _wav(file: Path, front_end: FrontEnd) -> bytes:
    out = io.BytesIO()
    heard = np.clip(_heard(file, front_end), -1, 1)
    soundfile.write(out, heard, front_end.sample_rate_hz, format="WAV", subtype="PCM_16")
    return out.getvalue()


async def _not_understood(request: Any, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    line = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    return JSONResponse({"error": line}, HTTPStatus.BAD_REQUEST)


async def _refused(request: Any, error: Exception) -> Response:
    return JSONResponse({"error": str(error)}, HTTPStatus.BAD_REQUEST)


async def _taken(request: Any, error: Exception) -> Response:
    return JSONResponse({"error": str(error)}, HTTPStatus.CONFLICT)
