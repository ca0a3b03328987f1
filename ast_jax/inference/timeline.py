"""A picture of what was heard when: the spectrogram over a heat map of the top labels, on one axis of
seconds.

T frames, F mel bins, K columns of the picture, W windows, C classes.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from ast_jax.evaluation.style import LIGHT, Png, Theme, paper_to_accent, sheet, shortened
from ast_jax.events import Event
from ast_jax.features.audio import SoundSource
from ast_jax.inference.answers import Tags
from ast_jax.inference.windows import Grid, decoded, length_s

_COLUMNS = 1500  # more than the picture has dots
_LABELS = 8


def picture(sound: SoundSource, tags: Tags, grid: Grid, *, theme: Theme = LIGHT, title: str = "") -> Png:
    """The picture of one sound; its labels are those with the highest score anywhere in it."""
    columns, column_s = strip(sound, grid)
    peaks = tags.scores.max(axis=0)
    shown = np.argsort(-peaks, kind="stable")[:_LABELS]
    with sheet(theme, 10.0, 2.6 + 0.28 * len(shown)) as (figure, png):
        if title:
            figure.suptitle(title, size=11, weight="bold", x=0.01, ha="left")
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=[2.2, 0.35 * len(shown)])
        _spectrogram(above, columns, column_s)
        image = below.pcolormesh(
            cell_edges(tags),
            np.arange(len(shown) + 1),
            tags.scores[:, shown].T,
            cmap=paper_to_accent(theme),
            vmin=0,
            vmax=1,
        )
        below.set_yticks(np.arange(len(shown)) + 0.5, [shortened(tags.label_names[i]) for i in shown], size=9)
        below.invert_yaxis()
        below.set_xlabel("seconds")
        below.set_xlim(0, tags.duration_s)
        bar = figure.colorbar(image, ax=[above, below], aspect=30, pad=0.01)
        bar.outline.set_visible(False)
        bar.set_label("score", size=9)
        for axes in (above, below):
            axes.spines[:].set_visible(False)
        return png()


def events_picture(sound: SoundSource, events: Sequence[Event], grid: Grid, *, theme: Theme = LIGHT) -> Png:
    """The picture of one sound with its events: a row a label, in the order of their first events."""
    columns, column_s = strip(sound, grid)
    labels = list(dict.fromkeys(event.label for event in events))
    with sheet(theme, 10.0, 2.4 + 0.26 * max(1, len(labels))) as (figure, png):
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=[2.2, 0.35 * max(1, len(labels))])
        _spectrogram(above, columns, column_s)
        for event in events:
            row = labels.index(event.label)
            below.barh(
                row, event.offset_s - event.onset_s, left=event.onset_s, height=0.7, color=theme.measured
            )
        below.set_yticks(np.arange(len(labels)), [shortened(label) for label in labels], size=9)
        below.set_ylim(max(1, len(labels)) - 0.5, -0.5)
        below.set_xlabel("seconds" if events else "seconds (nothing is heard)")
        below.set_xlim(0, len(columns) * column_s)
        for axes in (above, below):
            axes.spines[:].set_visible(False)
        return png()


def _spectrogram(axes: Any, columns: Float[np.ndarray, "K F"], column_s: float) -> None:
    low, high = np.percentile(columns, [1, 99.5])
    extent = (0, len(columns) * column_s, 0, columns.shape[1])
    axes.imshow(columns.T, origin="lower", aspect="auto", cmap="magma", vmin=low, vmax=high, extent=extent)
    axes.set_ylabel("mel bin")


def cell_edges(tags: Tags) -> Float[np.ndarray, " _"]:
    """Where one window's answer gives way to the next: half way between their middles; the ends are the
    sound's.
    """
    middles = tags.times_s + tags.window_s / 2
    edges = np.r_[0.0, (middles[1:] + middles[:-1]) / 2, tags.duration_s]
    return np.maximum.accumulate(edges)  # a last window that is mostly beyond the end keeps its place


def strip(file: SoundSource, grid: Grid, columns: int = _COLUMNS) -> tuple[Float[np.ndarray, "K F"], float]:
    """The spectrogram of a whole file in at most about `columns` columns, each the mean of its frames, and
    seconds a column.

    Decoded as a stream: three hours need no more memory than a minute. Raises AudioError.
    """
    front_end = grid.front_end
    frames = front_end.num_frames(round(length_s(file, front_end) * front_end.sample_rate_hz))
    each = -(-frames // columns)  # frames a column
    span = lambda frames: front_end.span(frames) // grid.each
    hop = each * front_end.frame_shift // grid.each
    held, found = np.zeros(0, np.float32), []
    for block in decoded(file, grid):
        held = np.concatenate([held, block]) if len(held) else block
        whole = max(0, (len(held) - span(each)) // hop + 1)
        if whole:
            fbank = front_end.picture(front_end.features(held[: span(whole * each)]))
            found.append(fbank.reshape(whole, each, -1).mean(axis=1))
            held = held[whole * hop :]
    if len(held) > front_end.frame_shift // grid.each or not found:
        fbank = front_end.picture(front_end.features(held))
        found.append(fbank.mean(axis=0, keepdims=True))
    return np.concatenate(found), front_end.seconds(each)
