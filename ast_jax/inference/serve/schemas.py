"""The server's answers as types, which make /openapi.json; `inference.answers.describe` fills them."""

from http import HTTPStatus
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

Score = Annotated[float, Field(ge=0, le=1)]


class _Answer(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Tag(_Answer):
    label: str
    score: Score


class OverallTag(Tag):
    score: Score = Field(description="the mean over all windows")
    spans: list[list[float]] = Field(description="[start, end] in seconds of where it scores 0.5 or more")
    timeline: list[Score] = Field(description="its score in each window")


class WindowTags(_Answer):
    start_s: float
    end_s: float
    tags: list[Tag] = Field(description="the best labels of this window")


class LabelScores(_Answer):
    label: str = Field(description="as in tags")
    scores: list[Score] = Field(description="one for each window")


class Timeline(_Answer):
    starts_s: list[float] = Field(description="where each window begins")
    ends_s: list[float] = Field(description="where each window ends")
    labels: list[LabelScores]


class Spectrogram(_Answer):
    columns: int = Field(description="evenly over the sound")
    bins: int = Field(description="mel bins, 20 Hz to 8 kHz")
    data: str = Field(description="base64 of columns x bins bytes, each column from low to high")


class EventAnswer(Tag):
    onset_s: float
    offset_s: float
    score: Score = Field(description="the mean of its steps")


class TagsAnswer(_Answer):
    start_s: float
    end_s: float
    duration_s: float = Field(description="of the sound")
    tags: list[OverallTag] = Field(description="the best labels, the best one first")
    windows: list[WindowTags]
    timeline: Timeline
    events: list[EventAnswer] | None = Field(None, description="in order of their beginning, if asked for")
    spectrogram: Spectrogram | None = None


class ModelAnswer(_Answer):
    labels: list[str]
    window_s: float = Field(description="how much the model hears at once")
    sample_rate_hz: int = Field(description="at which it hears: more is lost on it")
    upload_bytes: int = Field(description="the largest upload")
    sound_s: float = Field(description="the longest sound")
    judges_steps: bool = Field(description="or events come from many short windows, which takes longer")


class ErrorAnswer(_Answer):
    error: str = Field(description="what was got and wanted, in a line")


REFUSALS: dict[int | str, dict[str, Any]] = {
    status.value: {"model": ErrorAnswer, "description": words}
    for status, words in {
        HTTPStatus.BAD_REQUEST: "no sound in the request, or a parameter out of range",
        HTTPStatus.FORBIDDEN: "asked by another site's page",
        HTTPStatus.REQUEST_TIMEOUT: "the upload took too long",
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "more bytes than are taken",
        HTTPStatus.UNSUPPORTED_MEDIA_TYPE: "the body is no sound of a known kind",
        HTTPStatus.UNPROCESSABLE_ENTITY: "it cannot be decoded, is too long, or costs too much to decode",
        HTTPStatus.INTERNAL_SERVER_ERROR: "a fault of the server",
        HTTPStatus.SERVICE_UNAVAILABLE: "too many sounds are waiting, or this one waited too long: try again",
    }.items()
}


def request_body(upload_bytes: int) -> dict[str, Any]:
    """The sound itself, which FastAPI does not read, in OpenAPI's words."""
    sound = {"schema": {"type": "string", "contentMediaType": "audio/*", "maxLength": upload_bytes}}
    file = {"type": "object", "properties": {"file": sound["schema"]}, "required": ["file"]}
    kinds = {"application/octet-stream": sound, "audio/*": sound, "multipart/form-data": {"schema": file}}
    return {"requestBody": {"required": True, "content": kinds}}
