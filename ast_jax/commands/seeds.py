"""`train --seeds=N`: one recipe with several seeds, their mean and spread."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ast_jax.commands.sweep import markdown, spread, sweep, write
from ast_jax.evaluation.metrics import HEADLINES, METRICS
from ast_jax.recipes import Recipe

# What a run's results hold figures of, where it has them.
OF = {"last": "last epoch", "average": "averaged weights", "test": "test set"}


def train_seeds(recipe: Recipe, workdir: Path, seeds: int, *, together: int = 1) -> dict[str, Any]:
    """Trains with config.seed, config.seed + 1, ... in WORKDIR/seed<s>; writes seeds.json and seeds.md.

    On a host that does not write, the summary is empty. Raises what `sweep` raises.
    """
    first = recipe.config().seed
    chosen = range(first, first + seeds)
    members = {f"seed{seed}": recipe.with_setting("seed", seed) for seed in chosen}
    found = sweep(members, workdir, together=together)
    if not all(found.values()):
        return {}
    summary = summarise({seed: found[f"seed{seed}"] for seed in chosen})
    write(workdir, "seeds", summary, table(summary))
    return summary


def summarise(runs: Mapping[int, Mapping[str, Any]]) -> dict[str, Any]:
    """{what: {metric: {values, mean, spread}}}, `what` from `OF`; spread is the sample's deviation."""
    summary: dict[str, Any] = {"seeds": list(runs)}
    for what in OF:
        if all(what in results for results in runs.values()):
            values = {metric: [results[what][metric] for results in runs.values()] for metric in HEADLINES}
            summary[what] = {metric: _mean(each) for metric, each in values.items()}
    return summary


def _mean(values: Sequence[float | None]) -> dict[str, Any]:
    """A figure without meaning in one of the runs has no mean."""
    known = [value for value in values if value is not None]
    whole = len(known) == len(values)
    return {
        "values": list(values),
        "mean": statistics.fmean(known) if whole else None,
        "spread": spread(known) if whole else None,
    }


def table(summary: Mapping[str, Any]) -> str:
    """Markdown: a row a seed and its figures, then mean and spread."""
    show = lambda value: "-" if value is None else f"{value:.4f}"
    rows = []
    for what, name in ((what, name) for what, name in OF.items() if what in summary):
        of = [summary[what][metric] for metric in HEADLINES]
        for i, seed in enumerate(summary["seeds"]):
            rows.append([f"{name}, seed {seed}", *(show(metric["values"][i]) for metric in of)])
        both = (f"{show(metric['mean'])} +- {show(metric['spread'])}" for metric in of)
        rows.append([f"**{name}, mean +- spread**", *both])
    return markdown(["", *(METRICS[metric].word for metric in HEADLINES)], rows)
