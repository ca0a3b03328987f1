"""A picture of events by day and hour, a panel a label."""

from collections import Counter
from collections.abc import Collection
from datetime import date, timedelta

import numpy as np

from ast_jax.evaluation.style import LIGHT, Png, Theme, paper_to_accent, sheet, shortened

# Panels of one picture.
_LABELS = 8


def calendar(
    counts: Counter[tuple[str, str, int]],
    recorded: Collection[tuple[str, int]] | None = None,
    *,
    theme: Theme = LIGHT,
) -> Png:
    """Of `events.summary.by_hour`: the most frequent labels, days downwards, hours to the right. Where it is
    known which hours of which days were `recorded`, the others are grey.
    """
    days = sorted({day for _, day, _ in counts} | {day for day, _ in recorded or ()})
    first, last = date.fromisoformat(days[0]), date.fromisoformat(days[-1])
    rows = [(first + timedelta(days=n)).isoformat() for n in range((last - first).days + 1)]
    often = Counter[str]()
    for (label, _, _), count in counts.items():
        often[label] += count
    shown = [label for label, _ in often.most_common(_LABELS)]
    with sheet(theme, 3.2 * min(len(shown), 4), (0.6 + 0.18 * min(len(rows), 40)) * -(-len(shown) // 4)) as (
        figure,
        png,
    ):
        panels = figure.subplots(
            -(-len(shown) // 4), min(len(shown), 4), squeeze=False, sharex=True, sharey=True
        )
        for axes, label in zip(panels.flat, shown, strict=False):
            table = np.array([[float(counts[label, day, hour]) for hour in range(24)] for day in rows])
            if recorded is not None:
                there = np.array([[(day, hour) in recorded for hour in range(24)] for day in rows])
                table[~there & (table == 0)] = np.nan
                axes.set_facecolor(theme.grid)
            edges = np.arange(25) - 0.5, np.arange(len(rows) + 1) - 0.5
            axes.pcolormesh(*edges, table, cmap=paper_to_accent(theme), vmin=0)
            axes.set_title(f"{shortened(label)}: {often[label]}", size=9)
            axes.set_xticks([0, 6, 12, 18])
            ticks = np.unique(np.linspace(0, len(rows) - 1, min(len(rows), 6)).round().astype(int))
            axes.set_yticks(ticks, [rows[i] for i in ticks], size=7)
            axes.set_ylim(len(rows) - 0.5, -0.5)
            axes.spines[:].set_visible(False)
        for axes in panels.flat[len(shown) :]:
            axes.set_visible(False)
        if recorded is not None:
            figure.supxlabel("grey: no recording", size=8, color=theme.faint)
        return png()
