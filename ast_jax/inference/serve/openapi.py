"""The JSON endpoints in OpenAPI's words, for programs that want a client made: served as /openapi.json."""

from typing import Any

from ast_jax.inference.serve.limits import Limits

_REFUSALS = {
    "400": "no sound in the request, or a parameter out of range",
    "403": "asked by another site's page",
    "408": "the upload took too long",
    "413": "more bytes than are taken",
    "415": "the body is no sound of a known kind",
    "422": "the sound cannot be decoded, is too long, or costs too much to decode",
    "500": "a fault of the server",
    "503": "too many sounds are waiting, or this one waited too long: try again",
}


def description(limits: Limits) -> dict[str, Any]:
    """The OpenAPI 3.1 document."""
    refused = {"description": "", "content": _json(_object({"error": _text("what was got and wanted")}))}
    sound = {"schema": {"type": "string", "contentMediaType": "audio/*", "maxLength": limits.upload_bytes}}
    tag = {
        "summary": "Tag a sound",
        "description": f"The body is the sound file itself (wav, flac, ogg, mp3, ...), at most {limits.upload_bytes:,} bytes "
        f"and {limits.sound_s:g} s. Its name is never asked for.",
        "operationId": "tag",
        "parameters": [
            _query("top", {"type": "integer", "minimum": 1, "maximum": 50, "default": 5}, "labels told"),
            _query("spectrogram", {"type": "boolean", "default": False}, "whether to send one to draw"),
        ],
        "requestBody": {"required": True, "content": {"application/octet-stream": sound, "audio/*": sound}},
        "responses": {"200": {"description": "tags and timeline", "content": _json(_ANSWER)}}
        | {status: refused | {"description": words} for status, words in _REFUSALS.items()},
    }
    model = {
        "summary": "What the model knows and what a request may cost",
        "operationId": "model",
        "responses": {"200": {"description": "model and limits", "content": _json(_MODEL)}},
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": "ast_jax: sounds to tags", "version": "1"},
        "paths": {"/api/tags": {"post": tag}, "/api/model": {"get": model}},
    }


def _text(words: str) -> dict[str, Any]:
    return {"type": "string", "description": words}


def _number(words: str) -> dict[str, Any]:
    return {"type": "number", "description": words}


def _list(item: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": item}


def _object(properties: dict[str, Any], optional: tuple[str, ...] = ()) -> dict[str, Any]:
    required = [name for name in properties if name not in optional]
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def _json(schema: dict[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}


def _query(name: str, schema: dict[str, Any], words: str) -> dict[str, Any]:
    return {"name": name, "in": "query", "required": False, "schema": schema, "description": words}


_SCORE = {"type": "number", "minimum": 0, "maximum": 1}
_ANSWER = _object(
    {
        "duration_s": _number("of the sound"),
        "tags": _list(_object({"label": _text("its name"), "score": _SCORE})),
        "timeline": _object(
            {
                "starts_s": _list(_number("where a window begins")),
                "ends_s": _list(_number("and ends")),
                "labels": _list(_object({"label": _text("as in tags"), "scores": _list(_SCORE)})),
            }
        ),
        "spectrogram": _object(
            {
                "columns": {"type": "integer", "description": "evenly over the sound"},
                "bins": {"type": "integer", "description": "mel bins, 20 Hz to 8 kHz"},
                "data": _text("base64 of columns x bins bytes, each column from low to high"),
            }
        ),
    },
    optional=("spectrogram",),
)
_MODEL = _object(
    {
        "labels": _list(_text("a class")),
        "window_s": _number("how much the model hears at once"),
        "upload_bytes": {"type": "integer", "description": "the largest upload"},
        "sound_s": _number("the longest sound"),
    }
)
