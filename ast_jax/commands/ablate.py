"""`ablate`: runs that differ in one choice, each beside the published figure."""

import runpy
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from ast_jax.commands.cli import Flag
from ast_jax.commands.sweep import markdown, sweep, write
from ast_jax.errors import InputError
from ast_jax.recipes import Recipe


def ablate(
    recipe: Recipe,
    *,
    workdir: Annotated[Path, Flag("where the runs and the table lie")],
    rows: Annotated[tuple[str, ...] | None, Flag("by commas (default: all of the table's)")] = None,
) -> None:
    """A table of runs that differ in one choice: runs what is missing, beside the published figures.

      python -m ast_jax ablate --config=configs/ablations.py:strides --workdir=runs/ablations/strides

    Each row is a run of its own in WORKDIR/<row>, so the same command again goes on where it stopped.
    Writes ablation.md and ablation.json. The figure is that of the averaged weights where the recipe
    averages, else of the last epoch.
    """
    table, published = rows_of(recipe)
    members = {row: recipe.with_word("row", row) for row in rows or published}
    found = sweep(members, workdir)
    if not all(found.values()):  # another host has them
        return
    metric = recipe.config().metric
    figures_of = {row: figures(results, metric) for row, results in found.items()}
    summary = {
        "table": table,
        "metric": metric,
        "rows": [
            {"row": row, **values, "published": published.get(row)} for row, values in figures_of.items()
        ],
    }
    write(workdir, "ablation", summary, table_of(summary))
    print(table_of(summary))


def rows_of(recipe: Recipe) -> tuple[str, dict[str, float | None]]:
    """The table that the recipe's suffix names, and its rows with the published figures.

    Raises InputError for a recipe without tables, or a suffix that names none of them.
    """
    recipe.config()
    tables = runpy.run_path(str(recipe.path)).get("TABLES", {})
    words = recipe.spec.partition(":")[2].split(",")
    named = [name for name in tables if name in words]
    if len(named) != 1:
        raise InputError(
            f"{recipe.spec}: name one table after the colon: {', '.join(tables) or 'this recipe has none'}"
        )
    of = "full" if "full" in words else "balanced"
    shrunk = {"builtin", "esc10"} & set(words)
    return named[0], {row: None if shrunk else known.get(of) for row, known in tables[named[0]].items()}


def figures(results: Mapping[str, Any], metric: str) -> dict[str, Any]:
    """The row's figure, the epochs it is of and its parameters' origin."""
    of = results.get("average") or results["last"]
    return {
        "value": of[metric],
        "epochs": of.get("epochs") or [of["epoch"]],
        "num_examples": of["num_examples"],
        "init": results["init"],
    }


def table_of(summary: Mapping[str, Any]) -> str:
    """Markdown: a row a run."""
    rows = []
    for row in summary["rows"]:
        known = row["published"]
        beside = ["-", "-"] if known is None else [f"{known:.3f}", f"{row['value'] - known:+.3f}"]
        rows.append([row["row"], f"{row['value']:.4f}", *beside, "-".join(map(str, row["epochs"]))])
    return markdown([summary["table"], summary["metric"], "published", "difference", "epochs"], rows)
