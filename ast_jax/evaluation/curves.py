"""What metrics.jsonl becomes when drawn: loss, metrics, rate and speed over a run."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from ast_jax.evaluation.run_files import RunFiles, series
from ast_jax.evaluation.style import Picture, Theme, count_axis, legend_above, sheet

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MOST_MARKED = 30  # evaluations: beyond that their dots touch


def loss(run: RunFiles, theme: Theme) -> Picture | None:
    steps, losses = series(run.train, "step", "loss")
    eval_steps, eval_losses = series(run.evals, "step", "loss")
    if not steps and not eval_steps:
        return None
    alt = f"Loss by step: training {_ends(losses)}; evaluation {_ends(eval_losses)}."
    with _curve(theme, "Loss", "step") as (axes, png):
        if steps:
            _noisy_line(axes, steps, losses, theme, label="training")
        if eval_steps:
            _marked_line(axes, eval_steps, eval_losses, theme.published, "evaluation")
        return Picture("loss", alt, png())


def metric(run: RunFiles, theme: Theme, metric: str, name: str) -> Picture | None:
    """One metric by epoch, beside the published curve where that is of the same metric."""
    epochs, values = series(run.evals, "epoch", metric)
    if not epochs:
        return None
    alt, published, drawn = f"{name} by epoch: {_ends(values)}", None, values
    if run.published and run.published.metric == metric:
        published = run.published
        known = np.array(list(published.curve.items()))
        band = f"published ± {published.band:g}"
        alt += f"; {band}: {_ends(known[:, 1])}"
        drawn = [*values, *known[:, 1]]
    with _curve(theme, f"{name}: {values[-1]:.3f}", "epoch") as (axes, png):
        if published:
            x, y, off = *known.T, published.band
            axes.fill_between(x, y - off, y + off, color=theme.published, alpha=0.18, linewidth=0)
            axes.plot(x, y, color=theme.published, linestyle=(0, (4, 2)), linewidth=1.6, label=band)
        _marked_line(axes, epochs, values, theme.measured, "this run")
        if max(drawn) <= 1:
            axes.set_ylim(top=min(axes.get_ylim()[1], 1.005))  # a share: no tick above what can be
        return Picture(metric, f"{alt}.", png())


def learning_rate(run: RunFiles, theme: Theme) -> Picture | None:
    steps, rates = series(run.train, "step", "lr")
    if not steps:
        return None
    alt = f"Learning rate by step: from {rates[0]:.3g} to {rates[-1]:.3g}."
    with _curve(theme, "Learning rate", "step") as (axes, png):
        marker = "o" if len(steps) == 1 else None
        axes.plot(steps, rates, color=theme.measured, drawstyle="steps-post", marker=marker)
        axes.set_ylim(0, max(rates) * 1.08 or 1)
        axes.yaxis.set_major_formatter(lambda value, _: _power_of_ten(value))
        return Picture("learning_rate", alt, png())


def data_wait(run: RunFiles, theme: Theme) -> Picture | None:
    steps, shares = series(run.train, "step", "data_wait")
    if not steps:
        return None
    percent = [100 * share for share in shares]
    mean = sum(percent) / len(percent)
    alt = f"Share of each step spent waiting for data, mean {mean:.1f} %."
    with _curve(theme, f"Waiting for data: {mean:.1f} % of the time", "step") as (axes, png):
        _noisy_line(axes, steps, percent, theme)
        axes.set_ylim(0, min(100, max(5, max(percent) * 1.15)))
        axes.yaxis.set_major_formatter("{x:.0f} %")
        return Picture("data_wait", alt, png())


def clips_per_s(run: RunFiles, theme: Theme) -> Picture | None:
    steps, speeds = series(run.train, "step", "clips_per_s")
    if not steps:
        return None
    middle = float(np.median(speeds))
    alt = f"Training clips a second by step, median {middle:.3g}."
    shown = f"{middle:,.0f}" if middle >= 1000 else f"{middle:.3g}"
    with _curve(theme, f"Clips a second: median {shown}", "step") as (axes, png):
        _noisy_line(axes, steps, speeds, theme)
        axes.set_ylim(0, max(speeds) * 1.1 or 1)
        return Picture("clips_per_s", alt, png())


@contextmanager
def _curve(theme: Theme, title: str, x_name: str) -> "Iterator[tuple[Axes, Callable[[], bytes]]]":
    """Yields axes to draw on and the function that finishes them and turns them into PNG bytes."""
    with sheet(theme) as (figure, png):
        axes = figure.subplots()
        axes.set_title(title)

        def finished() -> bytes:
            finish(axes, x_name)
            return png()

        yield axes, finished


def finish(axes: "Axes", x_name: str) -> None:
    """Grid, x axis and, where there are several lines, the legend."""
    axes.grid(axis="y")
    count_axis(axes, x_name)
    if len(axes.get_legend_handles_labels()[0]) > 1:
        legend_above(axes)


def _marked_line(axes: "Axes", x: list[float], y: list[float], color: str, label: str) -> None:
    axes.plot(x, y, color=color, marker="o" if len(x) <= _MOST_MARKED else None, label=label)


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


def _ends(values: "list[float] | np.ndarray") -> str:
    return f"from {values[0]:.4g} to {values[-1]:.4g}" if len(values) else "none yet"
