"""`ablate`: runs that differ in one choice, each beside the published figure."""

import json
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from ast_jax.commands.cli import Flag
from ast_jax.commands.sweep import Together, markdown, sweep, write
from ast_jax.errors import InputError
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
    averages, else of the last epoch.
    """
    table, published = rows_of(recipe)
    members = {row: recipe.with_word("row", row) for row in rows or published}
    found = sweep(members, workdir, together=together)
    if not all(found.values()):  # another host has them
        return
    metric = recipe.config().metric
    figures_of = {row: figures(results, metric) for row, results in found.items()}
    summary = {
        "table": table,
        "metric": metric,
        "rows": [
            {"row": row, **values, "published": published.get(row), **costs(workdir / row)}
            for row, values in figures_of.items()
        ],
    }
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


def costs(run: Path) -> dict[str, Any]:
    """The model's parameters, operations a clip, and clips a second of training on these devices (the median
    of its log points); nothing where no run has left its files.
    """
    if not (run / CARD).is_file():
        return {}
    card = read_json(run / CARD)
    model = abstract(card["family"], stated_config(card, str(run)))
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    speeds = [row["clips_per_s"] for row in rows if "clips_per_s" in row]
    return {
        "parameters": num_parameters(model),
        "forward_flops": forward_flops(model),
        "clips_per_s": statistics.median(speeds) if speeds else None,
    }


def table_of(summary: Mapping[str, Any]) -> str:
    """Markdown: a row a run."""
    rows = []
    for row in summary["rows"]:
        known = row["published"]
        beside = ["-", "-"] if known is None else [f"{known:.3f}", f"{row['value'] - known:+.3f}"]
        cost = [
            f"{row['parameters'] / 1e6:.1f} M" if "parameters" in row else "-",
            f"{row['forward_flops'] / 1e9:.2f}" if "forward_flops" in row else "-",
            f"{row['clips_per_s']:.0f}" if row.get("clips_per_s") else "-",
        ]
        rows.append([row["row"], f"{row['value']:.4f}", *beside, "-".join(map(str, row["epochs"])), *cost])
    head = [summary["table"], summary["metric"], "published", "difference", "epochs"]
    return markdown([*head, "parameters", "GFLOP", "clips/s"], rows)
