"""A spectrogram to draw on a page. T frames, F mel bins."""

import base64
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

# At most: more than a screen shows.
COLUMNS = 1000


def spectrogram(fbank: Float[np.ndarray, "T F"]) -> dict[str, Any]:
    """Log-mels as bytes, column after column from low to high, the quietest 0; see `schemas.Spectrogram`."""
    pixels = _pixels(fbank)
    columns, bins = pixels.shape
    data = base64.b64encode(pixels.tobytes()).decode("ascii")
    return {"columns": columns, "bins": bins, "data": data}


def _pixels(fbank: Float[np.ndarray, "T F"]) -> UInt8[np.ndarray, "columns F"]:
    """At most `COLUMNS` columns, each the maximum of its frames, so that a click in an hour still shows."""
    edges = np.linspace(0, len(fbank), min(len(fbank), COLUMNS), endpoint=False).astype(int)
    pooled = np.maximum.reduceat(fbank, edges, axis=0)
    low, high = np.percentile(pooled, [1, 99.8])
    return np.clip((pooled - low) / max(high - low, 1e-6) * 255, 0, 255).astype(np.uint8)
