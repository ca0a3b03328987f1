"""One recipe with several seeds: runs them all, then their mean and spread."""

import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from ast_jax.errors import Diverged

METRICS = ("accuracy", "mAP", "auc", "d_prime")
OF = ("last", "average", "test")  # what a run's results hold figures of, where it has them


def train_seeds(config: ConfigDict, workdir: Path, seeds: int) -> dict[str, Any]:
    """Trains with seeds config.seed, config.seed + 1, ... in `workdir`/seed<s>; each run goes on where it stopped.

    Writes seeds.json and seeds.md. Raises Diverged, after the others, if the loss of one of them broke.
    """
    from ast_jax.training.loop import train

    runs, broken = {}, {}
    for seed in range(config.seed, config.seed + seeds):
        one = config.copy_and_resolve_references()
        one.seed = seed
        print(f"seed {seed}: {workdir / f'seed{seed}'}", file=sys.stderr, flush=True)
        try:
            runs[seed] = train(one.lock(), workdir / f"seed{seed}")
        except Diverged as error:
            broken[seed] = str(error)
    if broken:
        raise Diverged("; ".join(f"seed {seed}: {why}" for seed, why in broken.items()))
    if not all(runs.values()):  # another host has the results
        return {}
    summary = summarise(runs)
    (workdir / "seeds.json").write_text(json.dumps(summary, indent=2) + "\n")
    (workdir / "seeds.md").write_text(table(summary))
    return summary


def summarise(runs: Mapping[int, Mapping[str, Any]]) -> dict[str, Any]:
    """{what: {metric: {values, mean, spread}}}, `what` the last epoch, the averaged weights, the test set; spread is the sample's deviation."""
    found: dict[str, Any] = {"seeds": list(runs)}
    for what in OF:
        if all(what in results for results in runs.values()):
            found[what] = {
                metric: _mean([results[what][metric] for results in runs.values()]) for metric in METRICS
            }
    return found


def _mean(values: Sequence[float | None]) -> dict[str, Any]:
    """A figure without meaning in one of the runs has no mean."""
    known = [value for value in values if value is not None]
    whole = len(known) == len(values)
    return {
        "values": list(values),
        "mean": statistics.fmean(known) if whole else None,
        "spread": statistics.stdev(known) if whole and len(known) > 1 else None,
    }


def table(summary: Mapping[str, Any]) -> str:
    """Markdown: a row a seed and its figures, then mean and spread."""
    show = lambda value: "-" if value is None else f"{value:.4f}"
    lines = ["| | accuracy | mAP | AUC | d' |", "|---|---|---|---|---|"]
    for what in (name for name in OF if name in summary):
        name = {"last": "last epoch", "average": "averaged weights", "test": "test set"}[what]
        of = [summary[what][metric] for metric in METRICS]
        for i, seed in enumerate(summary["seeds"]):
            lines.append(f"| {name}, seed {seed} | {' | '.join(show(m['values'][i]) for m in of)} |")
        both = (f"{show(m['mean'])} +- {show(m['spread'])}" for m in of)
        lines.append(f"| **{name}, mean +- spread** | {' | '.join(both)} |")
    return "\n".join(lines) + "\n"
