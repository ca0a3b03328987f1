"""`train --tune=N` and `crossval --tune=N`: rate, freezing and epochs by a short search inside the training
clips, before the run that they are for.

Successive halving (Jamieson and Talwalkar 2016): all trials for an eighth of the epochs, the better half of
them for a quarter, ..., the best one for all of them. A trial is a run of its own that goes on, so the search
costs two to three trainings, and the same command goes on where it stopped.
"""

import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ast_jax.commands.sweep import DIVERGED, markdown, outcomes, write
from ast_jax.errors import InputError
from ast_jax.evaluation.metrics import metric_called
from ast_jax.recipes import Recipe
from ast_jax.weights.files import read_json

# Of the recipe's rate, at most; and how much larger it is where only the head learns.
WIDEST, HEAD_ALONE = 10.0, 10.0
# One of so many parts of the training clips, at most, is what trials are judged by.
PARTS = 5
# In the table: epochs, figure and its epoch of a trial that broke.
DIVERGING = ["-", "diverged", "-"]


def tuned(recipe: Recipe, workdir: Path, trials: int, *, together: int = 1) -> Recipe:
    """The recipe with what the best of `trials` had; the search lies in WORKDIR/tune, and is not done twice.

    Trials are judged by the recipe's metric on a fifth of the training clips, of fewer than five groups on
    one of them (the last fold that it trains on where it names folds, its validation clips where it keeps
    test clips apart): never by what the run is evaluated on. Raises InputError where WORKDIR holds a run that
    was not tuned so, no trial ends, or all training clips are of one group.
    """
    if trials < 2:
        raise InputError(f"--tune={trials}: wanted at least 2 trials")
    config, place = recipe.config(), workdir / "tune"
    known: Any = read_json(place / "tune.json") if (place / "tune.json").exists() else {}
    if not known and (workdir / "config.json").exists():
        raise InputError(f"{workdir} holds a run that was not tuned: give another --workdir")
    asked = {"trials": trials, "recipe": recipe.flags()}
    if known and known["asked"] != asked:
        raise InputError(
            f"{workdir} was tuned for other settings ({' '.join(known['asked']['recipe'])}, "
            f"{known['asked']['trials']} trials): give another --workdir, or the same settings"
        )
    if not known:
        known = {"asked": asked, **search(recipe, place, trials, together=together)}
        write(place, "tune", known, table(known))
    best = known["best"]
    print(
        f"tuned: rate {best['lr']:.3g}{', frozen ' + best['freeze'] if best['freeze'] else ''}, "
        f"{best['epochs']} of {config.epochs} epochs ({config.metric} {best['value']:.4f} on a part of the "
        f"training clips; the recipe's own rate had {known['own']}): {place / 'tune.md'}",
        file=sys.stderr,
        flush=True,
    )
    return changed(recipe, best)


def search(recipe: Recipe, place: Path, trials: int, *, together: int) -> dict[str, Any]:
    """{metric, rows: what each trial was and had, best: that of the best, own: the recipe's own figure}."""
    config = recipe.config()
    rows = [dict(row, epochs=0, value=None) for row in candidates(config, trials)]
    inside, left = judged_inside(recipe), list(range(trials))
    rounds = math.ceil(math.log2(trials))
    for number in range(rounds + 1):
        epochs = math.ceil(config.epochs / 2 ** (rounds - number))
        print(f"tuning: {len(left)} trials of {epochs} epochs", file=sys.stderr, flush=True)
        ended: list[dict[str, Any]] = []
        # where all that were left break, the next best of those that were not goes on
        while not ended:
            members = {f"trial{i}": changed(inside, {**rows[i], "epochs": epochs}) for i in left}
            for name, outcome in outcomes(members, place, together=together):
                row = rows[int(name.removeprefix("trial"))]
                if isinstance(outcome, dict):
                    best = outcome["best"]
                    row |= {"epochs": epochs, "value": best["value"], "best_epoch": best["epoch"]}
                    ended.append(row)
                elif outcome[0] != DIVERGED:
                    raise InputError(f"{name} failed: {outcome[1]}")
                else:
                    row |= {"epochs": epochs, "value": None}
            ranked = sorted(range(trials), key=lambda i: _rank(rows[i], config.metric))
            left = [i for i in ranked if rows[i]["value"] is not None][:1]
            if not left:
                raise InputError("no trial of --tune ended with a finite loss: lower config.lr")
        ended.sort(key=lambda row: _rank(row, config.metric))
        left = sorted(rows.index(row) for row in ended[: max(1, len(members) // 2)])
    best = {**ended[0], "epochs": ended[0]["best_epoch"]}
    own = "diverged" if rows[0]["value"] is None else f"{rows[0]['value']:.4f} in {rows[0]['epochs']} epochs"
    return {"metric": config.metric, "rows": rows, "best": best, "own": own}


def candidates(config: Any, trials: int) -> list[dict[str, Any]]:
    """{lr, freeze} of each trial, the recipe's own first: rates up to ten times smaller and larger, evenly
    on a logarithmic scale; from other weights a third of the trials trains the head alone, which bears more.
    """
    heads = trials // 3 if config.init_from and not config.freeze else 0
    factors = WIDEST ** np.linspace(-1, 1, trials - heads)
    factors[np.abs(np.log(factors)).argmin()] = 1.0
    order = np.argsort(np.abs(np.log(factors)), kind="stable")
    rows = [{"lr": float(f"{config.lr * factors[i]:.3g}"), "freeze": config.freeze} for i in order]
    alone = HEAD_ALONE * WIDEST ** np.linspace(-0.5, 0.5, heads) if heads > 1 else [HEAD_ALONE] * heads
    return rows + [{"lr": float(f"{config.lr * f:.3g}"), "freeze": "backbone"} for f in alone]


def judged_inside(recipe: Recipe) -> Recipe:
    """The recipe evaluated on clips of its own, not on those it is to be judged by."""
    data = recipe.config().dataset
    if data.test:
        return recipe.with_setting("dataset.test", "()")
    if len(data.train) > 1 and all(split.startswith("fold") for split in data.train):
        inside = recipe.with_setting("dataset.train", data.train[:-1])
        return inside.with_setting("dataset.eval", data.train[-1:])
    if (parts := min(PARTS, groups_left(recipe))) < PARTS:
        print(
            f"tuning: one of the {parts} groups of training clips judges trials", file=sys.stderr, flush=True
        )
    return recipe.with_setting("dataset.inside", parts)


def groups_left(recipe: Recipe) -> int:
    """How many groups of labelled clips there are to train on; a clip by itself is one. Raises InputError for
    one alone.
    """
    from ast_jax.datasets.folds import owners
    from ast_jax.settings import Settings
    from ast_jax.training.data import opened

    settings = Settings.of(recipe.config())
    prepared, train = opened(settings), settings.data.train
    known = prepared.known(train)
    whose = enumerate(owners(prepared, train))
    left = {who for i, who in whose if known is None or known[i].any()}
    if len(left) < 2:
        raise InputError(
            f"all training clips are of one group ({', '.join(left)}): --tune has none to judge trials by"
        )
    return len(left)


def changed(recipe: Recipe, row: Mapping[str, Any]) -> Recipe:
    """The recipe with a trial's settings."""
    for key in ("lr", "freeze", "epochs"):
        recipe = recipe.with_setting(key, row[key])
    return recipe


def table(found: Mapping[str, Any]) -> str:
    """Markdown: a row a trial, the best first."""
    rows = []
    for row in sorted(found["rows"], key=lambda row: _rank(row, found["metric"])):
        ended = row["value"] is not None
        had = [str(row["epochs"]), f"{row['value']:.4f}", str(row["best_epoch"])] if ended else DIVERGING
        rows.append([f"{row['lr']:.3g}", row["freeze"] or "nothing", *had])
    head = ["rate", "frozen", "epochs", f"best {found['metric']} inside", "at epoch"]
    return markdown(head, rows)


def _rank(row: Mapping[str, Any], metric: str) -> tuple[int, float]:
    """Of a trial: who went on longest comes first, of these the best; last who broke."""
    if row["value"] is None:
        return 1, 0.0
    return -row["epochs"], -row["value"] if metric_called(metric).higher_is_better else row["value"]
