r"""Trains and evaluates one recipe.

  python -m ast_jax.main --config=configs/esc50.py:fold=1 [--workdir=runs/esc] [--seeds=3] [--config.KEY=VALUE ...]

The same command again goes on where a stopped run stood. With --seeds=N the recipe is run N times, in WORKDIR/seed<s>, and
their mean and spread are reported. Exit status: 0 done, 2 bad input, 3 the loss diverged,
130 interrupted by Ctrl-C, 143 stopped by SIGTERM after saving.
"""

import argparse
import errno
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from ast_jax.errors import Diverged, InputError
from ast_jax.recipe import parse


def main(argv: Sequence[str]) -> None:
    config, spec, rest = parse(argv)
    flags = argparse.ArgumentParser("python -m ast_jax.main", description=__doc__)
    flags.add_argument("--workdir", type=Path, default=default_workdir(spec))
    flags.add_argument("--seeds", type=int, default=0, help="runs with config.seed, config.seed + 1, ...")
    from ast_jax.training import hosts

    hosts.add_flags(flags)
    args = flags.parse_args(rest)
    check_mounted(args.workdir)
    hosts.join(args)
    if args.seeds:
        from ast_jax.seeds import table, train_seeds

        if summary := train_seeds(config, args.workdir, args.seeds):  # else another host has it
            print(f"{table(summary)}\nas an ensemble: python -m ast_jax evaluate {args.workdir}/seed*")
        return

    from ast_jax.training.loop import train

    results = train(config, args.workdir)
    if not results:  # another host has them
        return
    figures = "  ".join(f"{name} {value:.4f}" for name, value in results["metrics"].items())
    print(f"{figures}\n{args.workdir}/report.html")


def keep_compiled_programs() -> None:
    """Lets jax find compiled programs again in the next process: in the user's own cache directory, at most 2 GiB, the least used go.

    To be called before jax is imported, which reads these variables then. A directory the user has set stands as it is.
    """
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    home = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = os.path.join(home, "ast_jax", "xla")
    os.environ.setdefault("JAX_COMPILATION_CACHE_MAX_SIZE", str(2 << 30))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")


def check_mounted(workdir: Path) -> None:
    """Raises InputError for a bucket's address, which as a path would be a directory here called `gs:`."""
    if workdir.parts[:1] and workdir.parts[0].endswith(":"):
        raise InputError(
            f"--workdir={workdir}: logs are appended and checkpoints renamed, which buckets do not do: mount it (docs/scaling.md) "
            "and give the mounted path"
        )


def default_workdir(spec: str) -> Path:
    """runs/<recipe>[-<suffix>]: `configs/esc50.py:fold=1,cpu` -> runs/esc50-fold1-cpu."""
    path, _, suffix = spec.partition(":")
    name = "-".join([Path(path).stem, *filter(None, suffix.split(","))])
    return Path("runs", re.sub(r"[^\w.-]", "", name))


def run(command: Callable[[Sequence[str]], None], argv: Sequence[str]) -> None:
    """Runs a command as a program: what the user can mend becomes one line and an exit status, not a traceback."""
    try:
        command(argv)
    except InputError as error:
        status, line = 2, f"error: {error}"
    except Diverged as error:
        status, line = 3, f"error: {error}"
    except BrokenPipeError:  # whoever read the output has enough: `| head`
        os.dup2(
            os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno()
        )  # or the interpreter's last flush fails again
        sys.exit(141)  # as a shell counts SIGPIPE
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        status = 2
        line = f"error: {error}: free some space, and the same command goes on from the last checkpoint"
    except KeyboardInterrupt:
        status, line = 130, "interrupted (training: the same command goes on from the last checkpoint)"
    else:
        return
    print(line, file=sys.stderr, flush=True)
    hosts = sys.modules.get("ast_jax.training.hosts")
    if (
        hosts is not None and hosts.joined()
    ):  # else JAX would wait for the others at the end, and they for this one
        os._exit(status)
    sys.exit(status)


if __name__ == "__main__":
    keep_compiled_programs()
    run(main, sys.argv[1:])
