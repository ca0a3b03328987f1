"""`quickstart`: the whole way once, from nothing to a tagged file, on built-in sounds."""

import json
import sys
import time
from pathlib import Path
from typing import Annotated

import numpy as np

from ast_jax.commands.cli import Flag
from ast_jax.recipes import Recipe

QUICKSTART = Recipe("quickstart")


def quickstart(
    recipe: Recipe = QUICKSTART,
    *,
    workdir: Annotated[Path, Flag("where the run lies")] = Path("runs/quickstart"),
) -> None:
    """Trains the recipe quickstart, tags one held-out file and prints what was found and where it lies.

    python -m ast_jax quickstart [--config=quickstart:short] [--config.KEY=VALUE ...]
    """
    config = recipe.config()

    from rich.console import Console
    from rich.table import Table

    from ast_jax.inference.predict import Tagger
    from ast_jax.training.loop import train

    began = time.monotonic()
    results = train(config, workdir)
    sounds = Path(config.dataset.source_dir or Path(config.dataset.data_dir, "synthetic", "sounds"))
    file = sorted((sounds / "test").glob("*/*.wav"))[0]
    tagger = Tagger([workdir])
    scores = tagger.tag(file).overall
    with (workdir / "metrics.jsonl").open() as lines:
        rows = [json.loads(line) for line in lines]
    speed = max(row["clips_per_s"] for row in rows if row["kind"] == "train")

    table = Table(title="quickstart", show_header=False, title_justify="left")
    for name, value in (
        ("accuracy on held-out clips", f"{results['metrics']['accuracy']:.1%} of {results['num_examples']}"),
        ("mAP", f"{results['metrics']['mAP']:.4f}"),
        (file.name, f"{tagger.label_names[int(np.argmax(scores))]} ({scores.max():.1%})"),
        ("training speed", f"{speed:.0f} clips/s at best"),
        ("time", f"{time.monotonic() - began:.0f} s"),
        ("work directory", str(workdir)),
        ("report", str(workdir / "report.html")),
        ("plots", str(workdir / "plots")),
        ("sounds", str(sounds)),
    ):
        table.add_row(name, value)
    # Whole and plain wherever it goes: a narrow terminal would cut its paths.
    Console(width=1000, color_system=None).print(table)
    print(f"\ntag your own: {program()} predict --model={workdir} FILE")


def program() -> str:
    """How the user calls this program: `ast_jax`, or the Python at hand with `-m ast_jax`."""
    if Path(sys.argv[0]).stem == "ast_jax":
        return "ast_jax"
    python, here = Path(sys.executable), Path.cwd()
    return f"{python.relative_to(here) if python.is_relative_to(here) else python} -m ast_jax"
