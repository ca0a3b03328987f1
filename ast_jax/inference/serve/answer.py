"""What the server says about a sound: tags, a timeline, and a spectrogram to draw. S samples, T frames, F mel bins, W windows, C classes."""

import base64
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from ast_jax.features import log_mel
from ast_jax.inference.windows import Window

COLUMNS = 1000  # of the spectrogram at most: more than a screen shows


def describe(
    windows: Sequence[Window], scores: Float[np.ndarray, "W C"], names: Sequence[str], top: int
) -> dict[str, Any]:
    """The `top` labels by their mean score, and their scores window by window."""
    overall = scores.mean(axis=0)
    best = [int(c) for c in np.argsort(-overall, kind="stable")[:top]]
    return {
        "duration_s": round(windows[-1].end_s, 3),
        "tags": [{"label": names[c], "score": _figure(overall[c])} for c in best],
        "timeline": {
            "starts_s": [round(window.start_s, 3) for window in windows],
            "ends_s": [round(window.end_s, 3) for window in windows],
            "labels": [{"label": names[c], "scores": [_figure(s) for s in scores[:, c]]} for c in best],
        },
    }


def spectrogram(waveform: Float[np.ndarray, " S"]) -> dict[str, Any]:
    """Log-mels as bytes, a column after the other from low to high, the quietest 0: for a canvas of `columns` x `bins`."""
    pixels = _pixels(log_mel(waveform))
    columns, bins = pixels.shape
    data = base64.b64encode(pixels.tobytes()).decode("ascii")
    return {"columns": columns, "bins": bins, "data": data}


def _pixels(fbank: Float[np.ndarray, "T F"]) -> UInt8[np.ndarray, "columns F"]:
    """At most `COLUMNS` columns, each the maximum of its frames, so that a click in an hour is still a line."""
    edges = np.linspace(0, len(fbank), min(len(fbank), COLUMNS), endpoint=False).astype(int)
    pooled = np.maximum.reduceat(fbank, edges, axis=0)
    low, high = np.percentile(pooled, [1, 99.8])
    return np.clip((pooled - low) / max(high - low, 1e-6) * 255, 0, 255).astype(np.uint8)


def _figure(score: np.floating) -> float:
    return round(float(score), 4)
