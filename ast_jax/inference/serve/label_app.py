"""The server of `label`: one page, and what it asks of the sitting."""

import asyncio
import contextlib
import io
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any

import numpy as np
import soundfile
from fastapi import Depends, FastAPI, Request, Response
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
    service = Service(session, front_end)
    app = page_app(
        _FILES,
        hosts,
        title="ast_jax: label sounds",
        dependencies=[Depends(refuse_other_sites)],
        exception_handlers={
            RequestValidationError: _not_understood,
            InputError: _told(HTTPStatus.BAD_REQUEST),
            Taken: _told(HTTPStatus.CONFLICT),
        },
    )

    @app.post("/api/next")
    async def next_clip(asked: Next) -> dict[str, Any]:
        """The clip to hear."""
        return await service.next(asked.page, asked.like)

    @app.post("/api/answer")
    async def answer(asked: Answer) -> dict[str, Any]:
        """A clip's class; then the next clip."""
        number = service.known(asked.clip)
        await asyncio.to_thread(session.answer, number, asked.label, by=asked.page)
        await service.fitted()
        return await service.next(asked.page)

    @app.post("/api/skip")
    async def skip(asked: Skip) -> dict[str, Any]:
        """The next clip, without a class for this one."""
        session.skip(service.known(asked.clip), by=asked.page)
        return await service.next(asked.page)

    @app.post("/api/undo")
    async def undo(asked: Page) -> dict[str, Any]:
        """This page's last answer taken back, and its clip; nothing is shown where there is none."""
        clip = await asyncio.to_thread(session.undo, by=asked.page)
        await service.fitted()
        return service.found(clip)

    @app.get("/api/clips/{clip}/sound")
    async def sound(clip: int) -> Response:
        """What the model hears of it, as a wav that every browser plays."""
        return Response(await asyncio.to_thread(service.wav, service.known(clip)), media_type="audio/wav")

    @app.get("/api/clips/{clip}/spectrogram")
    async def picture(clip: int) -> dict[str, Any]:
        """The same to draw."""
        return await asyncio.to_thread(service.picture, service.known(clip))

    return app


class Service:
    """What the endpoints do, around one sitting."""

    def __init__(self, session: Session, front_end: FrontEnd):
        self._session, self._front_end = session, front_end
        # held, so that none is collected before it is done
        self._fitting: set[asyncio.Task] = set()

    def known(self, clip: int) -> int:
        """The number of a clip. Raises RequestRefused for another."""
        if not 0 <= clip < len(self._session.files):
            line = f"clip {clip}: wanted 0 to {len(self._session.files) - 1}"
            raise RequestRefused(HTTPStatus.NOT_FOUND, line)
        return clip

    def found(self, clip: Clip | None) -> dict[str, Any]:
        """What the page is told."""
        told = None
        if clip is not None:
            guesses = [{"label": label, "share": share} for label, share in clip.guesses]
            told = {"clip": clip.number, "name": clip.file, "why": clip.why, "guesses": guesses}
        return {"shown": told, **self._session.standing()}

    async def next(self, page: str, like: int | None = None) -> dict[str, Any]:
        """The clip for a page."""
        like = None if like is None else self.known(like)
        return self.found(await asyncio.to_thread(self._session.next, by=page, like=like))

    async def fitted(self) -> None:
        """Waits for the classifier, but not long."""
        task = asyncio.create_task(asyncio.to_thread(self._session.fit))
        self._fitting.add(task)
        task.add_done_callback(self._fitting.discard)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(task), _PATIENCE_S)

    def wav(self, clip: int) -> bytes:
        """A clip as it is heard."""
        out = io.BytesIO()
        rate = self._front_end.sample_rate_hz
        soundfile.write(out, np.clip(self._heard(clip), -1, 1), rate, format="WAV", subtype="PCM_16")
        return out.getvalue()

    def picture(self, clip: int) -> dict[str, Any]:
        """Its spectrogram."""
        return spectrogram(self._front_end.picture(self._front_end.features(self._heard(clip))))

    def _heard(self, clip: int) -> np.ndarray:
        rate = self._front_end.sample_rate_hz
        return load_audio(self._session.files[clip], sample_rate_hz=rate)[: round(LONGEST_S * rate)]


def _told(status: HTTPStatus) -> Callable[[Request, Exception], Awaitable[Response]]:
    """An error's own words, under a status."""

    async def answer(request: Request, error: Exception) -> Response:
        return JSONResponse({"error": str(error)}, status)

    return answer


async def _not_understood(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    line = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    return JSONResponse({"error": line}, HTTPStatus.BAD_REQUEST)
