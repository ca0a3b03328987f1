"""`ablate`: runs that differ in one choice, each beside the published figure."""

import json
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from ast_jax.commands.cli import Flag
from ast_jax.commands.sweep import Together, markdown, sweep, write
from ast_jax.errors import InputError
from ast_jax.evaluation.predictions import Predictions
from ast_jax.models.base import abstract, num_parameters
from ast_jax.models.cost import forward_flops
from ast_jax.recipes import Recipe
from ast_jax.weights.files import read_json
from ast_jax.weights.model_card import CARD, stated_config


def ablate(
    recipe: Recipe,
    *,
    workdir: Annotated[Path, Flag("where the runs and the table lie")],
    rows: Annotated[tuple[str, ...] | None, Flag("by commas (default: all of the table's)")] = None,
    together: Together = 1,
) -> None:
    """A table of runs that differ in one choice: runs what is missing, beside the published figures.

      python -m ast_jax ablate --config=configs/ablations.py:strides --workdir=runs/ablations/strides

    Each row is a run of its own in WORKDIR/<row>, so the same command again goes on where it stopped.
    Writes ablation.md and ablation.json. The figure is that of the averaged weights where the recipe
    averages, else of the last epoch. A row that is an ensemble is the mean of its members' scores at their
    last epochs, and a row that cannot be run has a dash.
    """
    table, published = rows_of(recipe)
    runs_of = {row: members_of(recipe, row) for row in rows or published}
    members = {name: member for members in runs_of.values() for name, member in members.items()}
    found = sweep(members, workdir, together=together)
    if not all(found.values()):  # another host has them
        return
    metric = recipe.config().metric
    notes = recipe.table("NOTES")
    summary: dict[str, Any] = {"table": table, "metric": metric, "rows": []}
    for row, names in runs_of.items():
        results = {workdir / name: found[name] for name in names}
        values = ensemble(results, metric) if row not in names else figures(found[row], metric)
        known = {"published": published.get(row)} | ({"note": notes[row]} if row in notes else {})
        summary["rows"].append({"row": row, **values, **known, **costs(*results)})
    write(workdir, "ablation", summary, table_of(summary))
    print(table_of(summary))


def rows_of(recipe: Recipe) -> tuple[str, dict[str, float | None]]:
    """The table that the recipe's suffix names, and its rows with the published figures.

    Raises InputError for a recipe without tables, or a suffix that names none of them.
    """
    recipe.config()
    tables = recipe.table("TABLES")
    words = recipe.spec.partition(":")[2].split(",")
    named = [name for name in tables if name in words]
    if len(named) != 1:
        raise InputError(
            f"{recipe.spec}: name one table after the colon: {', '.join(tables) or 'this recipe has none'}"
        )
    of, shrunk = _set_of(recipe), {"builtin", "esc10"} & set(words)
    return named[0], {row: None if shrunk else known.get(of) for row, known in tables[named[0]].items()}


def members_of(recipe: Recipe, row: str) -> dict[str, Recipe]:
    """The runs of a row by their names: itself; an ensemble's members, of which those without a change are
    the run of the row they are of; none where nobody knows the members.
    """
    ensembles = recipe.table("ENSEMBLES")
    if row not in ensembles:
        return {row: recipe.with_word("row", row)}
    one, changes = ensembles[row].get(_set_of(recipe), ("", ()))
    runs = {}
    for changed in changes:
        member, name = recipe.with_word("row", one), one
        for key, value in changed.items():
            member, name = member.with_setting(key, value), f"{name}-{_told(key, value)}"
        runs[name] = member
    return runs


def _told(key: str, value: Any) -> str:
    """A change as a part of a directory's name: seed1, strides12x12."""
    sides = value if isinstance(value, tuple) else (value,)
    return key.rpartition(".")[2] + "x".join(map(str, sides))


def _set_of(recipe: Recipe) -> str:
    return "full" if "full" in recipe.spec.partition(":")[2].split(",") else "balanced"


def ensemble(results: Mapping[Path, Mapping[str, Any]], metric: str) -> dict[str, Any]:
    """The figure of the mean of these runs' scores, by their directories, each at its last epoch; None where
    there are no runs.
    """
    if not results:
        return {"value": None, "epochs": [], "num_examples": None, "members": []}
    mean = Predictions.mean([Predictions.read(run / "predictions.npz") for run in results])
    return {
        "value": mean.summary(also=metric)[metric],
        "epochs": sorted({found["last"]["epoch"] for found in results.values()}),
        "num_examples": len(mean.ids),
        "members": [run.name for run in results],
    }


def figures(results: Mapping[str, Any], metric: str) -> dict[str, Any]:
    """The row's figure, the epochs it is of and its parameters' origin."""
    of = results.get("average") or results["last"]
    return {
        "value": of[metric],
        "epochs": of.get("epochs") or [of["epoch"]],
        "num_examples": of["num_examples"],
        "init": results["init"],
    }


def costs(*runs: Path) -> dict[str, Any]:
    """The parameters and operations a clip of these runs' models together, and of one run alone its clips a
    second of training on these devices (the median of its log points); nothing where no run has left its
    files.
    """
    if not runs or not all((run / CARD).is_file() for run in runs):
        return {}
    cards = {run: read_json(run / CARD) for run in runs}
    models = [abstract(card["family"], stated_config(card, str(run))) for run, card in cards.items()]
    rows = [json.loads(line) for line in (runs[0] / "metrics.jsonl").read_text().splitlines()]
    speeds = [row["clips_per_s"] for row in rows if "clips_per_s" in row and len(runs) == 1]
    return {
        "parameters": sum(map(num_parameters, models)),
        "forward_flops": sum(map(forward_flops, models)),
        "clips_per_s": statistics.median(speeds) if speeds else None,
    }


def table_of(summary: Mapping[str, Any]) -> str:
    """Markdown: a line a row, then the notes."""
    rows, notes = [], ""
    for row in summary["rows"]:
        known, value = row["published"], row["value"]
        beside = ["-" if known is None else f"{known:.3f}"]
        beside.append("-" if None in (known, value) else f"{value - known:+.3f}")
        cost = [
            f"{row['parameters'] / 1e6:.1f} M" if "parameters" in row else "-",
            f"{row['forward_flops'] / 1e9:.2f}" if "forward_flops" in row else "-",
            f"{row['clips_per_s']:.0f}" if row.get("clips_per_s") else "-",
        ]
        ours = "-" if value is None else f"{value:.4f}"
        rows.append([row["row"], ours, *beside, "-".join(map(str, row["epochs"])) or "-", *cost])
        told = [row["note"]] if "note" in row else []
        if row.get("members"):
            told.append(f"the mean of the scores of {', '.join(row['members'])}")
        notes += f"\n{row['row']}: {'; '.join(told)}.\n" if told else ""
    head = [summary["table"], summary["metric"], "published", "difference", "epochs"]
    return markdown([*head, "parameters", "GFLOP", "clips/s"], rows) + notes
