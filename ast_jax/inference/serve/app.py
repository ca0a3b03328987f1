"""The server: a page of three files, two JSON endpoints, and what a request must pass first.

A request's body is the sound. No name or path that comes with it is opened, and nothing is kept: what was
sent is gone with the answer.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from http import HTTPStatus
from typing import Annotated, Any, NamedTuple

import numpy as np
from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from jaxtyping import Float

from ast_jax.events import SIMPLE
from ast_jax.inference.answers import Tags, describe
from ast_jax.inference.frames import read_off, steps_of
from ast_jax.inference.predict import Tagger
from ast_jax.inference.serve.batcher import Batcher
from ast_jax.inference.serve.guard import decode
from ast_jax.inference.serve.limits import Limits, RequestRefused, Shares
from ast_jax.inference.serve.pages import page_app, refuse_other_sites
from ast_jax.inference.serve.schemas import REFUSALS, ModelAnswer, TagsAnswer, request_body
from ast_jax.inference.serve.spectrogram import spectrogram
from ast_jax.inference.serve.uploads import read_sound
from ast_jax.inference.windows import BATCH, cut

_FILES = {
    "/": ("index.html", "text/html"),
    "/app.js": ("app.js", "text/javascript"),
    "/shared.js": ("shared.js", "text/javascript"),
    "/style.css": ("style.css", "text/css"),
}
_WANTED = {"top": "a number from 1 to 50", "spectrogram": "true or false", "events": "true or false"}


def make_app(
    tagger: Tagger, limits: Limits, *, hosts: tuple[str, ...] = ("127.0.0.1", "localhost")
) -> FastAPI:
    """The ASGI application. `hosts` are the names it answers to: another name that leads here is refused."""
    service = Service(tagger, limits)
    app = page_app(
        _FILES,
        hosts,
        title="ast_jax: sounds to tags",
        lifespan=service.lifespan,
        exception_handlers={RequestValidationError: _out_of_range},
    )

    @app.head("/api/model", include_in_schema=False)
    @app.get("/api/model", operation_id="model")
    async def model() -> ModelAnswer:
        """What the model knows and what a request may cost."""
        return service.model()

    @app.post(
        "/api/tags",
        operation_id="tag",
        summary="Tag a sound",
        description="The body is the sound file itself (wav, flac, ogg, mp3, ...), or a form with one file; "
        f"at most {limits.upload_bytes:,} bytes and {limits.sound_s:g} s. Its name is never asked for.",
        response_model=TagsAnswer,
        response_model_exclude_none=True,
        responses=REFUSALS,
        openapi_extra=request_body(limits.upload_bytes),
    )
    async def tags(
        request: Request,
        top: Annotated[int, Query(ge=1, le=50, description="labels told")] = 5,
        spectrogram: Annotated[bool, Query(description="whether to send one to draw")] = False,
        events: Annotated[bool, Query(description="whether to tell when each label begins and ends")] = False,
    ) -> dict[str, Any]:
        return await service.tags(request, Wanted(top, spectrogram, events))

    return app


class Wanted(NamedTuple):
    """What a request asks for."""

    top: int
    spectrogram: bool
    events: bool


class Service:
    """What the endpoints do, around one model and its queue of windows; one that judges steps has another."""

    def __init__(self, tagger: Tagger, limits: Limits):
        self._tagger, self._limits = tagger, limits
        self._grid = tagger.grid()
        self._steps = steps_of(tagger)
        padding = self._grid.front_end.padding
        queue = lambda score, grid: Batcher(score, (BATCH, *grid.shape), padding=padding)
        self.batcher = queue(lambda fbank: np.asarray(tagger.scores(fbank)), self._grid)
        # a model of clips answers windows for events as it answers any
        self._events = self.batcher
        if not self._steps.note:
            whole = np.full(BATCH, self._steps.grid.num_frames)
            self._events = queue(
                lambda fbank: np.asarray(self._steps.forward(fbank, whole)), self._steps.grid
            )
        self._slots, self._places = asyncio.Semaphore(limits.at_once), Shares(limits.waiting)
        self._held = Shares(limits.uploads_held * limits.upload_bytes)

    @contextlib.asynccontextmanager
    async def lifespan(self, app: FastAPI) -> AsyncIterator[None]:
        async with contextlib.AsyncExitStack() as stack:
            for batcher in {self.batcher, self._events}:
                await stack.enter_async_context(batcher.running())
            yield

    def model(self) -> ModelAnswer:
        return ModelAnswer(
            labels=list(self._tagger.label_names),
            window_s=self._grid.window_s,
            sample_rate_hz=self._grid.front_end.sample_rate_hz,
            upload_bytes=self._limits.upload_bytes,
            sound_s=self._limits.sound_s,
            judges_steps=not self._steps.note,
        )

    async def tags(self, request: Request, wanted: Wanted) -> dict[str, Any]:
        """What the sound in the body holds. Raises RequestRefused."""
        refuse_other_sites(request)
        client = request.client.host if request.client else ""
        try:
            with self._held.portion(client) as hold, self._places.portion(client) as take_place:
                async with asyncio.timeout(self._limits.answer_time_s):
                    sound = await read_sound(request, self._limits, hold)
                    if not take_place(1):
                        line = "too many sounds are waiting: try again"
                        raise RequestRefused(HTTPStatus.SERVICE_UNAVAILABLE, line)
                    async with self._slots:
                        if await request.is_disconnected():
                            raise RequestRefused(HTTPStatus.BAD_REQUEST, "nobody waits for the answer")
                        return await self._answer(sound, wanted)
        except TimeoutError:
            line = f"no answer within {self._limits.answer_time_s:g} s: try again, or a shorter sound"
            raise RequestRefused(HTTPStatus.SERVICE_UNAVAILABLE, line) from None
        except asyncio.CancelledError:  # by uvicorn, when it is told to end
            raise RequestRefused(HTTPStatus.SERVICE_UNAVAILABLE, "the server is being stopped") from None

    async def _answer(self, sound: bytes, wanted: Wanted) -> dict[str, Any]:
        heard_at, channels = self._grid.front_end.sample_rate_hz, self._grid.channels
        waveform = await decode(sound, channels=channels, sample_rate_hz=heard_at, limits=self._limits)
        windows = await asyncio.to_thread(lambda: list(cut([waveform], self._grid)))
        scores = await self.batcher.scores([window.fbank for window in windows])
        starts, ends = np.array([w.start_s for w in windows]), np.array([w.end_s for w in windows])
        tags = Tags(starts, ends, self._grid.window_s, scores)
        found = describe(tags, self._tagger.label_names, wanted.top, self._tagger.heard_from())
        if wanted.events:
            found["events"] = await self._when(waveform)
        if wanted.spectrogram:
            front_end = self._grid.front_end
            draw = lambda: spectrogram(front_end.picture(front_end.features(waveform)))
            found["spectrogram"] = await asyncio.to_thread(draw)
        return found

    async def _when(self, waveform: Float[np.ndarray, " S"]) -> list[dict[str, Any]]:
        """The events in a sound, by the rules of `predict --events`."""
        windows = await asyncio.to_thread(lambda: list(cut([waveform], self._steps.grid)))
        answers = await self._events.scores([window.fbank for window in windows])
        by_step = answers.reshape(len(windows), self._steps.num, -1)
        rules = SIMPLE, self._tagger.events_from()[0], self._tagger.label_names
        events = read_off("", windows, by_step, self._steps, *rules)
        told = ("label", "onset_s", "offset_s", "score")
        return [{key: getattr(event, key) for key in told} for event in events]


async def _out_of_range(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    name, got = first["loc"][-1], str(first["input"])[:20]
    return JSONResponse({"error": f"{name}={got}: wanted {_WANTED[name]}"}, HTTPStatus.BAD_REQUEST)
