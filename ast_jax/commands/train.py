"""`train`: one recipe, once or with several seeds."""

import re
from pathlib import Path
from typing import Annotated

from ast_jax.commands.cli import Flag
from ast_jax.commands.starting import started
from ast_jax.commands.sweep import Together, Tune
from ast_jax.errors import InputError
from ast_jax.recipes import Recipe


def train(
    recipe: Recipe,
    *,
    workdir: Annotated[Path | None, Flag("where the run lies (default: runs/ and the recipe's name)")] = None,
    seeds: Annotated[
        int | None, Flag("runs with config.seed, config.seed + 1, ...", least=1, most=1000)
    ] = None,
    together: Together = 1,
    tune: Tune = 0,
    coordinator_address: Annotated[
        str | None,
        Flag(
            "several hosts: of process 0; they are found by themselves on TPU slices and under SLURM, "
            "elsewhere this and the next two are given on each host",
            metavar="HOST:PORT",
        ),
    ] = None,
    num_processes: Annotated[int | None, Flag("several hosts: processes in all", least=1)] = None,
    process_id: Annotated[int | None, Flag("several hosts: 0 to num_processes - 1", least=0)] = None,
    heartbeat_timeout_seconds: Annotated[
        int, Flag("after which a silent host is taken for dead, and the group ends", least=1)
    ] = 30,
) -> None:
    """Trains and evaluates one recipe.

      python -m ast_jax train --config=configs/esc50.py:fold=1 [--workdir=runs/esc] [--config.KEY=VALUE ...]

    `python -m ast_jax.main` is its other name. The same command again goes on where a stopped run stood.
    With --seeds=N the recipe is run N times, in WORKDIR/seed<s>, and their mean and spread are reported;
    with --together=K so many of these runs at once, as one program. With --tune=N rate, freezing and epochs
    are those of the best of N short trials inside the training clips (WORKDIR/tune).
    Exit status: 0 done, 2 bad input, 3 the loss diverged, 70 a fault of the program, 130 interrupted by
    Ctrl-C, 143 stopped by SIGTERM after saving.
    """
    seed = recipe.config().seed
    workdir = workdir or default_workdir(recipe.spec)
    check_mounted(workdir)
    if tune and (seeds or coordinator_address):
        raise InputError("--tune is for one run on one host: tune first, then run its settings")

    from ast_jax.training import hosts

    hosts.join(
        coordinator_address=coordinator_address,
        num_processes=num_processes,
        process_id=process_id,
        heartbeat_timeout_seconds=heartbeat_timeout_seconds,
    )
    if not hosts.joined():  # several hosts would each have to find the same
        recipe = started(recipe, workdir / f"seed{seed}" if seeds else workdir)
    if tune:
        from ast_jax.commands.tune import tuned

        recipe = tuned(recipe, workdir, tune, together=together)
    if seeds:
        from ast_jax.commands.seeds import table, train_seeds

        if summary := train_seeds(recipe, workdir, seeds, together=together):  # else another host has it
            print(f"{table(summary)}\nas an ensemble: python -m ast_jax evaluate {workdir}/seed*")
        return

    from ast_jax.training import loop

    results = loop.train(recipe.config(), workdir)
    if not results:  # another host has them
        return
    show = lambda value: "-" if value is None else f"{value:.4f}"
    figures = "  ".join(f"{name} {show(value)}" for name, value in results["metrics"].items())
    print(f"{figures}\n{workdir}/report.html")


def check_mounted(workdir: Path) -> None:
    """Raises InputError for a bucket's address, which as a path would be a directory here called `gs:`."""
    if workdir.parts[:1] and workdir.parts[0].endswith(":"):
        raise InputError(
            f"--workdir={workdir}: logs are appended and checkpoints renamed, which buckets do not do: "
            "mount it (docs/scaling.md) and give the mounted path"
        )


def default_workdir(spec: str) -> Path:
    """runs/<recipe>[-<suffix>]: `configs/esc50.py:fold=1,cpu` -> runs/esc50-fold1-cpu."""
    path, _, suffix = spec.partition(":")
    name = "-".join([Path(path).stem, *filter(None, suffix.split(","))])
    return Path("runs", re.sub(r"[^\w.-]", "", name))
