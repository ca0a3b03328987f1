"""The pictures of a run, from the files in its work directory: curves, confusion or per-class AP, examples.

Letters: N clips, n examples, T frames, F mel bins, C classes.
"""

import io
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float32, Int

from ast_jax.evaluation import curves
from ast_jax.evaluation.metrics import HEADLINES, METRICS, average_precision
from ast_jax.evaluation.predictions import Predictions
from ast_jax.evaluation.run_files import RunFiles
from ast_jax.evaluation.style import (
    HEIGHT,
    LIGHT,
    WIDTH,
    Picture,
    Theme,
    paper_to_accent,
    sheet,
    shortened,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.image import AxesImage

MOST_CONFUSED = 60  # classes: beyond that a confusion matrix cannot be read
MOST_BARS = 40
EXAMPLES_SHOWN = 4


def metric_names(run: RunFiles) -> dict[str, str]:
    """What is shown of a run: the headline metrics, and the one that decides its best epoch; as people call
    them.
    """
    own = run.config.get("metric")
    shown = dict.fromkeys([*HEADLINES, *([own] if isinstance(own, str) else [])])
    return {name: METRICS[name].label if name in METRICS else name for name in shown}


def pictures(run: RunFiles, theme: Theme = LIGHT) -> list[Picture]:
    """Draws everything the run's files allow, in the order of a report."""
    made = [
        curves.loss(run, theme),
        *(curves.metric(run, theme, metric, name) for metric, name in metric_names(run).items()),
        curves.learning_rate(run, theme),
        curves.data_wait(run, theme),
        curves.clips_per_s(run, theme),
        _classes(run, theme),
        _spectrograms(run, theme),
    ]
    return [picture for picture in made if picture]


def confusion(predictions: Predictions) -> Int[np.ndarray, "C C"]:
    """Counts [true class, highest-scored class] of clips with one label each."""
    num_classes = predictions.scores.shape[1]
    counts = np.zeros((num_classes, num_classes), np.int64)
    np.add.at(counts, (predictions.targets.argmax(axis=1), predictions.scores.argmax(axis=1)), 1)
    return counts


def shows_confusion(predictions: Predictions) -> bool:
    """Whether a confusion matrix says something: one label a clip, and few enough classes."""
    return predictions.single_label and predictions.scores.shape[1] <= MOST_CONFUSED


def spectrogram(fbank: Float32[np.ndarray, "T F"]) -> bytes:
    """PNG of one clip's features, a pixel a value, without axes: time runs right, mel bins run up."""
    from matplotlib.image import imsave

    low, high = np.percentile(fbank, [1, 99.5])
    out = io.BytesIO()
    imsave(out, fbank.T, origin="lower", cmap="magma", vmin=low, vmax=high)
    return out.getvalue()


def _classes(run: RunFiles, theme: Theme) -> Picture | None:
    if run.predictions is None:
        return None
    if shows_confusion(run.predictions):
        return _confusion(run, theme, confusion(run.predictions))
    precision = average_precision(run.predictions.scores, run.predictions.targets)
    order = [int(c) for c in np.argsort(-precision, kind="stable") if not np.isnan(precision[c])]
    if not order:
        return None
    names = [run.label(c) for c in order]
    draw = _bars if len(order) <= MOST_BARS else _profile
    return draw(names, precision[order], theme)


def _confusion(run: RunFiles, theme: Theme, counts: np.ndarray) -> Picture:
    """Rows are true classes, coloured by the share of the row; cells hold counts."""
    num_classes = len(counts)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = max(WIDTH, 0.22 * num_classes + 2.2)
    names = [shortened(run.label(c), 18) for c in range(num_classes)]
    with sheet(theme, side, side) as (figure, png):
        axes = figure.subplots()
        axes.set_title("Confusion matrix")
        axes.imshow(shares, cmap=paper_to_accent(theme), vmin=0, vmax=1)
        axes.set_xlabel("highest-scored class")
        axes.set_ylabel("true class")
        axes.set_xticks(range(num_classes), names, rotation=90 if num_classes > 12 else 45, size=9)
        if num_classes <= 12:
            for tick in axes.get_xticklabels():
                tick.set(ha="right", rotation_mode="anchor")
        axes.set_yticks(range(num_classes), names, size=9)
        axes.set_xticks(np.arange(num_classes + 1) - 0.5, minor=True)
        axes.set_yticks(np.arange(num_classes + 1) - 0.5, minor=True)
        axes.grid(which="minor", linewidth=0.6)
        axes.tick_params(which="minor", length=0)
        axes.spines[:].set_visible(False)
        size = 10 if num_classes <= 12 else 7
        for row, column in np.argwhere(counts):
            color = theme.paper if shares[row, column] > 0.45 else theme.ink
            axes.text(column, row, f"{counts[row, column]}", ha="center", va="center", size=size, color=color)
        right = int(np.trace(counts))
        total = int(counts.sum())
        alt = f"Confusion matrix of {num_classes} classes: {right} of {total} clips on the diagonal."
        return Picture("confusion", alt, png(), wide=num_classes > 12)


def _bars(names: list[str], precision: np.ndarray, theme: Theme) -> Picture:
    """Every class by name, best first."""
    with sheet(theme, WIDTH, 0.8 + 0.21 * len(names)) as (figure, png):
        axes = figure.subplots()
        axes.set_title(f"AP by class: mean {precision.mean():.3f}")
        _bar_axes(axes, names, precision, theme)
        return Picture("per_class_ap", _best_and_worst(names, precision), png())


def _profile(names: list[str], precision: np.ndarray, theme: Theme, ends: int = 12) -> Picture:
    """Too many classes to name: the sorted values as a profile, and by name the best and the worst."""
    with sheet(theme, WIDTH, HEIGHT + 0.21 * 2 * ends + 0.6) as (figure, png):
        above, below = figure.subplots(2, 1, height_ratios=[HEIGHT, 0.21 * 2 * ends])
        above.set_title(f"AP by class: mean {precision.mean():.3f}")
        rank = np.arange(1, len(precision) + 1)
        above.fill_between(rank, precision, color=theme.measured, alpha=0.25, linewidth=0, step="mid")
        above.plot(rank, precision, color=theme.measured, drawstyle="steps-mid")
        above.axhline(precision.mean(), color=theme.published, linestyle=(0, (4, 2)), linewidth=1.4)
        above.set(xlim=(1, len(precision)), ylim=(0, 1))
        curves.finish(above, "classes, best first")
        below.set_title(f"The best {ends} and the worst {ends}", size=10)
        _bar_axes(
            below,
            names[:ends] + names[-ends:],
            np.r_[precision[:ends], precision[-ends:]],
            theme,
            gap_after=ends,
        )
        return Picture("per_class_ap", _best_and_worst(names, precision), png())


def _bar_axes(
    axes: "Axes", names: list[str], values: np.ndarray, theme: Theme, gap_after: int | None = None
) -> None:
    places = np.arange(len(names), dtype=float)
    if gap_after is not None:
        places[gap_after:] += 1
    axes.barh(places, values, color=theme.measured, height=0.72)
    for place, value in zip(places, values, strict=True):
        axes.text(value + 0.01, place, f"{value:.2f}", va="center", size=8, color=theme.faint)
    axes.set_yticks(places, [shortened(name) for name in names], size=8, color=theme.ink)
    axes.set_ylim(places[-1] + 0.7, -0.7)
    axes.set_xlim(0, 1.1)
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1])
    axes.grid(axis="x")
    axes.spines[:].set_visible(False)


def _spectrograms(run: RunFiles, theme: Theme) -> Picture | None:
    if run.examples is None:
        return None
    shown = np.stack([run.front_end.picture(x) for x in run.examples.fbank[:EXAMPLES_SHOWN]])
    low, high = np.percentile(shown, [1, 99.5])
    with sheet(theme, WIDTH, 0.5 + 1.35 * len(shown)) as (figure, png):
        all_axes = figure.subplots(len(shown), 1, sharex=True, squeeze=False)[:, 0]
        for axes, fbank, target in zip(all_axes, shown, run.examples.labels, strict=False):
            image = _spectrogram(axes, fbank, low, high, run.front_end.seconds(len(fbank)))
            axes.set_title(shortened(run.told_of(target), 42), size=9)
            axes.label_outer()
        bar = figure.colorbar(image, ax=all_axes, shrink=min(1.0, 2 / len(shown)), aspect=16, pad=0.02)
        bar.outline.set_visible(False)
        bar.set_label("log power, normalised", size=9)
        _, frames, bins = shown.shape
        alt = f"{len(shown)} spectrograms as the model sees them, {frames} frames of {bins} mel bins."
        return Picture("spectrograms", alt, png())


def _spectrogram(axes: "Axes", fbank: np.ndarray, low: float, high: float, seconds: float) -> "AxesImage":
    """Draws [T, F] with time running right and mel bins up.

    `magma` rises evenly in brightness, for every kind of eye.
    """
    bins = fbank.shape[1]
    extent = (0, seconds, 0, bins)
    look: dict[str, Any] = {"cmap": "magma", "aspect": "auto", "interpolation": "antialiased"}
    image = axes.imshow(fbank.T, origin="lower", vmin=low, vmax=high, extent=extent, **look)
    axes.set_xlabel("seconds")
    axes.set_ylabel("mel bin")
    axes.set_yticks([0, bins // 2, bins])
    axes.spines[:].set_visible(False)
    return image


def _best_and_worst(names: list[str], precision: np.ndarray) -> str:
    return (
        f"Average precision of {len(names)} classes, mean {precision.mean():.3f}: "
        f"best {names[0]} ({precision[0]:.3f}), worst {names[-1]} ({precision[-1]:.3f})."
    )
