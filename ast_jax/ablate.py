r"""A table of runs that differ in one choice: runs what is missing, puts each row's figure beside the published one.

  python -m ast_jax ablate --config=configs/ablations.py:strides --workdir=runs/ablations/strides [--config.KEY=VALUE ...]

Each row is a run of its own in WORKDIR/<row>, so the same command again goes on where it stopped. Writes ablation.md and
ablation.json. The figure is that of the averaged weights where the recipe averages, else of the last epoch.
"""

import argparse
import json
import runpy
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ast_jax.commands import split_recipe
from ast_jax.errors import InputError
from ast_jax.recipe import parse


def main(argv: Sequence[str]) -> None:
    recipe, rest = split_recipe(argv)
    parser = argparse.ArgumentParser("python -m ast_jax ablate", description=__doc__)
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--rows", default="", help="by commas; default: all of the table's")
    args = parser.parse_args(rest)

    table, published = rows_of(recipe)
    chosen = args.rows.split(",") if args.rows else list(published)
    configs = {
        row: parse(with_row(recipe, row))[0] for row in chosen
    }  # mistakes are told before anything runs

    from ast_jax.training.loop import train

    rows = []
    for row, config in configs.items():
        print(f"{table}: {row}", file=sys.stderr, flush=True)
        results = train(config, args.workdir / row)
        rows.append({"row": row, **figures(results, config.metric), "published": published.get(row)})
    found = {"table": table, "metric": config.metric, "rows": rows}
    (args.workdir / "ablation.json").write_text(json.dumps(found, indent=2) + "\n")
    (args.workdir / "ablation.md").write_text(markdown(found))
    print(markdown(found))


def rows_of(recipe: Sequence[str]) -> tuple[str, dict[str, float | None]]:
    """The table that the recipe's suffix names, and its rows with the published figures.

    Raises InputError for a recipe without tables, or a suffix that names none of them.
    """
    _, spec, _ = parse(recipe)
    path, _, suffix = spec.partition(":")
    tables = runpy.run_path(path).get("TABLES", {})
    words = suffix.split(",")
    named = [name for name in tables if name in words]
    if len(named) != 1:
        raise InputError(
            f"{spec}: name one table after the colon: {', '.join(tables) or 'this recipe has none'}"
        )
    of = "full" if "full" in words else "balanced"
    shrunk = {"builtin", "esc10"} & set(words)
    return named[0], {row: None if shrunk else known.get(of) for row, known in tables[named[0]].items()}


def with_row(recipe: Sequence[str], row: str) -> list[str]:
    """The recipe's arguments with `row=` in the suffix."""
    _, spec, _ = parse(recipe)
    return [f"{a},row={row}" if a in (spec, f"--config={spec}") else a for a in recipe]


def figures(results: Mapping[str, Any], metric: str) -> dict[str, Any]:
    """The row's figure, the epochs it is of and its parameters' origin."""
    of = results.get("average") or results["last"]
    epochs = of.get("epochs") or [of["epoch"]]
    return {
        "value": of[metric],
        "epochs": epochs,
        "num_examples": of["num_examples"],
        "init": results["init"],
    }


def markdown(found: Mapping[str, Any]) -> str:
    lines = [
        f"| {found['table']} | {found['metric']} | published | difference | epochs |",
        "|---|---|---|---|---|",
    ]
    for row in found["rows"]:
        known = row["published"]
        beside = f"{known:.3f} | {row['value'] - known:+.3f}" if known is not None else "- | -"
        lines.append(
            f"| {row['row']} | {row['value']:.4f} | {beside} | {'-'.join(map(str, row['epochs']))} |"
        )
    return "\n".join(lines) + "\n"
