"""The pictures of a run, from the files in its work directory: curves, confusion or per-class AP, what the model sees.

Letters: N clips, n examples, T frames, F mel bins, C classes.
"""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float32, Int

from ast_jax.evaluation.metrics import average_precision
from ast_jax.evaluation.run_files import RunFiles, StoredScores, read_run, series
from ast_jax.evaluation.style import (
    HEIGHT,
    LIGHT,
    WIDTH,
    Theme,
    count_axis,
    legend_above,
    paper_to_accent,
    sheet,
    shortened,
)
from ast_jax.features.spec import FRAME_SHIFT, SAMPLE_RATE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.image import AxesImage

METRIC_NAMES = {"accuracy": "Accuracy", "mAP": "mAP", "auc": "ROC AUC", "d_prime": "d'"}
MOST_CONFUSED = 60  # classes: beyond that a confusion matrix cannot be read
MOST_BARS = 40
EXAMPLES_SHOWN = 4


@dataclass(frozen=True)
class Picture:
    """A finished plot: its file name without suffix, what it shows in words, and the PNG."""

    name: str
    alt: str
    png: bytes
    wide: bool = False


def write_plots(workdir: str | Path) -> list[Path]:
    """Writes `workdir`/plots/*.png, as far as the run's files reach, and returns the paths."""
    run = read_run(workdir)
    directory = run.directory / "plots"
    directory.mkdir(exist_ok=True)
    paths = []
    for picture in pictures(run):
        paths.append(directory / f"{picture.name}.png")
        paths[-1].write_bytes(picture.png)
    return paths


def pictures(run: RunFiles, theme: Theme = LIGHT) -> list[Picture]:
    """Draws everything the run's files allow, in the order of a report."""
    made: list[Picture] = []
    made += _loss(run, theme)
    for metric in METRIC_NAMES:
        made += _metric(run, theme, metric)
    made += _learning_rate(run, theme)
    made += _data_wait(run, theme)
    made += _speed(run, theme)
    made += _classes(run, theme)
    made += _spectrograms(run, theme)
    return made


def confusion(predictions: StoredScores) -> Int[np.ndarray, "C C"]:
    """Counts [true class, highest-scored class] of clips with one label each."""
    num_classes = predictions.scores.shape[1]
    counts = np.zeros((num_classes, num_classes), np.int64)
    np.add.at(counts, (predictions.targets.argmax(axis=1), predictions.scores.argmax(axis=1)), 1)
    return counts


def shows_confusion(predictions: StoredScores) -> bool:
    """Whether a confusion matrix says something: one label a clip, and few enough classes."""
    return predictions.single_label and predictions.scores.shape[1] <= MOST_CONFUSED


def spectrogram(fbank: Float32[np.ndarray, "T F"]) -> bytes:
    """PNG of one clip's features, a pixel a value, without axes: time runs right, mel bins run up."""
    from matplotlib.image import imsave

    low, high = np.percentile(fbank, [1, 99.5])
    out = io.BytesIO()
    imsave(out, fbank.T, origin="lower", cmap="magma", vmin=low, vmax=high)
    return out.getvalue()


def _loss(run: RunFiles, theme: Theme) -> Iterator[Picture]:
    steps, losses = series(run.train, "step", "loss")
    eval_steps, eval_losses = series(run.evals, "step", "loss")
    if not steps and not eval_steps:
        return
    with sheet(theme) as (figure, png):
        axes = figure.subplots()
        axes.set_title("Loss")
        if steps:
            _noisy_line(axes, steps, losses, theme, label="training")
        if eval_steps:
            marker = "o" if len(eval_steps) <= 30 else None
            axes.plot(
                eval_steps,
                eval_losses,
                color=theme.published,
                marker=marker,
                markersize=4,
                label="evaluation",
            )
        _finish_curve(axes, "step")
        alt = f"Loss by step: training {_ends(losses)}; evaluation {_ends(eval_losses)}."
        yield Picture("loss", alt, png())


def _metric(run: RunFiles, theme: Theme, metric: str) -> Iterator[Picture]:
    epochs, values = series(run.evals, "epoch", metric)
    if not epochs:
        return
    name = METRIC_NAMES[metric]
    alt = f"{name} by epoch: {_ends(values)}"
    with sheet(theme) as (figure, png):
        axes = figure.subplots()
        axes.set_title(f"{name}: {values[-1]:.3f}")
        published = run.published
        if published and published.metric == metric:
            known = np.array(list(published.curve.items()))
            band = f"published ± {published.band:g}"
            axes.fill_between(
                known[:, 0], known[:, 1] - published.band, known[:, 1] + published.band, color=theme.published, alpha=0.18, linewidth=0
            )  # fmt: skip
            axes.plot(
                known[:, 0],
                known[:, 1],
                color=theme.published,
                linestyle=(0, (4, 2)),
                linewidth=1.6,
                label=band,
            )
            alt += f"; {band}: {_ends(list(published.curve.values()))}"
        marker = "o" if len(epochs) <= 30 else None
        axes.plot(epochs, values, color=theme.measured, marker=marker, markersize=4, label="this run")
        if metric != "d_prime":
            axes.set_ylim(top=min(axes.get_ylim()[1], 1.005))  # no tick above what can be
        _finish_curve(axes, "epoch")
        yield Picture(metric, alt + ".", png())


def _learning_rate(run: RunFiles, theme: Theme) -> Iterator[Picture]:
    steps, rates = series(run.train, "step", "lr")
    if not steps:
        return
    with sheet(theme) as (figure, png):
        axes = figure.subplots()
        axes.set_title("Learning rate")
        axes.plot(
            steps,
            rates,
            color=theme.measured,
            drawstyle="steps-post",
            marker="o" if len(steps) == 1 else None,
        )
        axes.set_ylim(0, max(rates) * 1.08 or 1)
        axes.yaxis.set_major_formatter(lambda value, _: _power_of_ten(value))
        _finish_curve(axes, "step")
        yield Picture(
            "learning_rate", f"Learning rate by step: from {rates[0]:.3g} to {rates[-1]:.3g}.", png()
        )


def _data_wait(run: RunFiles, theme: Theme) -> Iterator[Picture]:
    steps, shares = series(run.train, "step", "data_wait")
    if not steps:
        return
    percent = [100 * share for share in shares]
    mean = sum(percent) / len(percent)
    with sheet(theme) as (figure, png):
        axes = figure.subplots()
        axes.set_title(f"Waiting for data: {mean:.1f} % of the time")
        _noisy_line(axes, steps, percent, theme)
        axes.set_ylim(0, min(100, max(5, max(percent) * 1.15)))
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0f} %")
        _finish_curve(axes, "step")
        yield Picture("data_wait", f"Share of each step spent waiting for data, mean {mean:.1f} %.", png())


def _speed(run: RunFiles, theme: Theme) -> Iterator[Picture]:
    steps, speeds = series(run.train, "step", "clips_per_s")
    if not steps:
        return
    middle = float(np.median(speeds))
    with sheet(theme) as (figure, png):
        axes = figure.subplots()
        axes.set_title(
            f"Clips a second: median {middle:,.3g}"
            if middle < 1000
            else f"Clips a second: median {middle:,.0f}"
        )
        _noisy_line(axes, steps, speeds, theme)
        axes.set_ylim(0, max(speeds) * 1.1 or 1)
        _finish_curve(axes, "step")
        yield Picture("clips_per_s", f"Training clips a second by step, median {middle:.3g}.", png())


def _classes(run: RunFiles, theme: Theme) -> Iterator[Picture]:
    if run.predictions is None or not len(run.predictions.scores):
        return
    if shows_confusion(run.predictions):
        yield from _confusion(run, theme, confusion(run.predictions))
        return
    precision = average_precision(run.predictions.scores, run.predictions.targets)
    order = [int(c) for c in np.argsort(-precision, kind="stable") if not np.isnan(precision[c])]
    if not order:
        return
    names = [run.label(c) for c in order]
    draw = _bars if len(order) <= MOST_BARS else _profile
    yield from draw(names, precision[order], theme)


def _confusion(run: RunFiles, theme: Theme, counts: np.ndarray) -> Iterator[Picture]:
    """Rows are true classes, coloured by the share of the row; cells hold counts as long as they can be read."""
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
        alt = f"Confusion matrix of {num_classes} classes: {right} of {int(counts.sum())} clips on the diagonal."
        yield Picture("confusion", alt, png(), wide=num_classes > 12)


def _bars(names: list[str], precision: np.ndarray, theme: Theme) -> Iterator[Picture]:
    """Every class by name, best first."""
    with sheet(theme, WIDTH, 0.8 + 0.21 * len(names)) as (figure, png):
        axes = figure.subplots()
        axes.set_title(f"AP by class: mean {precision.mean():.3f}")
        _bar_axes(axes, names, precision, theme)
        yield Picture("per_class_ap", _best_and_worst(names, precision), png())


def _profile(names: list[str], precision: np.ndarray, theme: Theme, ends: int = 12) -> Iterator[Picture]:
    """Too many classes to name: the sorted values as a profile, and by name the best and the worst."""
    with sheet(theme, WIDTH, HEIGHT + 0.21 * 2 * ends + 0.6) as (figure, png):
        above, below = figure.subplots(2, 1, height_ratios=[HEIGHT, 0.21 * 2 * ends])
        above.set_title(f"AP by class: mean {precision.mean():.3f}")
        rank = np.arange(1, len(precision) + 1)
        above.fill_between(rank, precision, color=theme.measured, alpha=0.25, linewidth=0, step="mid")
        above.plot(rank, precision, color=theme.measured, drawstyle="steps-mid")
        above.axhline(precision.mean(), color=theme.published, linestyle=(0, (4, 2)), linewidth=1.4)
        above.set(xlim=(1, len(precision)), ylim=(0, 1))
        _finish_curve(above, "classes, best first")
        below.set_title(f"The best {ends} and the worst {ends}", size=10)
        _bar_axes(
            below,
            names[:ends] + names[-ends:],
            np.r_[precision[:ends], precision[-ends:]],
            theme,
            gap_after=ends,
        )
        yield Picture("per_class_ap", _best_and_worst(names, precision), png())


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


def _spectrograms(run: RunFiles, theme: Theme) -> Iterator[Picture]:
    if run.examples is None or not len(run.examples.fbank):
        return
    shown = run.examples.fbank[:EXAMPLES_SHOWN]
    low, high = np.percentile(shown, [1, 99.5])
    with sheet(theme, WIDTH, 0.5 + 1.35 * len(shown)) as (figure, png):
        all_axes = figure.subplots(len(shown), 1, sharex=True, squeeze=False)[:, 0]
        for axes, fbank, target in zip(all_axes, shown, run.examples.labels, strict=False):
            image = _spectrogram(axes, fbank, low, high)
            axes.set_title(shortened("; ".join(run.labels_of(target)) or "no label", 42), size=9)
            axes.label_outer()
        bar = figure.colorbar(image, ax=all_axes, shrink=min(1.0, 2 / len(shown)), aspect=16, pad=0.02)
        bar.outline.set_visible(False)
        bar.set_label("log power, normalised", size=9)
        _, frames, bins = shown.shape
        alt = f"{len(shown)} spectrograms as the model sees them, {frames} frames of {bins} mel bins."
        yield Picture("spectrograms", alt, png())


def _spectrogram(axes: "Axes", fbank: np.ndarray, low: float, high: float) -> "AxesImage":
    """Draws [T, F] with time running right and mel bins up. `magma` rises evenly in brightness, for every kind of eye."""
    frames, bins = fbank.shape
    seconds = frames * FRAME_SHIFT / SAMPLE_RATE
    image = axes.imshow(
        fbank.T, origin="lower", aspect="auto", cmap="magma", vmin=low, vmax=high, extent=(0, seconds, 0, bins), interpolation="antialiased"
    )  # fmt: skip
    axes.set_xlabel("seconds")
    axes.set_ylabel("mel bin")
    axes.set_yticks([0, bins // 2, bins])
    axes.spines[:].set_visible(False)
    return image


def _finish_curve(axes: "Axes", x_name: str) -> None:
    axes.grid(axis="y")
    count_axis(axes, x_name)
    if len(axes.get_legend_handles_labels()[0]) > 1:
        legend_above(axes)


def _noisy_line(
    axes: "Axes", steps: list[float], values: list[float], theme: Theme, label: str | None = None
) -> None:
    """A running mean over a fortieth of the points, with the points themselves faint behind it."""
    window = max(1, len(values) // 40)
    if window > 1:
        axes.plot(steps, values, color=theme.measured, alpha=0.3, linewidth=0.8)
    marker = "o" if len(values) == 1 else None
    axes.plot(steps, _smoothed(values, window), color=theme.measured, marker=marker, label=label)


def _power_of_ten(value: float) -> str:
    """1e-4 rather than 0.0001 or 1e-04."""
    mantissa, exponent = f"{value:.3e}".split("e")
    return f"{float(mantissa):g}e{int(exponent)}" if value else "0"


def _smoothed(values: list[float], window: int) -> np.ndarray:
    """Centred running mean; at the ends, of what there is, so that no point is invented."""
    sums = np.cumsum(np.r_[0.0, values])
    index = np.arange(len(values))
    start, stop = np.maximum(index - window // 2, 0), np.minimum(index + (window + 1) // 2, len(values))
    return (sums[stop] - sums[start]) / np.maximum(stop - start, 1)


def _ends(values: list[float]) -> str:
    return f"from {values[0]:.4g} to {values[-1]:.4g}" if values else "none yet"


def _best_and_worst(names: list[str], precision: np.ndarray) -> str:
    return (
        f"Average precision of {len(names)} classes, mean {precision.mean():.3f}: "
        f"best {names[0]} ({precision[0]:.3f}), worst {names[-1]} ({precision[-1]:.3f})."
    )
