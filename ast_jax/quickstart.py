"""`make quickstart`: the whole way once, from nothing to a tagged file, on built-in sounds."""

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ast_jax.recipe import parse

CONFIG = Path(__file__).resolve().parents[1] / "configs" / "quickstart.py"


def main(argv: Sequence[str]) -> None:
    """Trains configs/quickstart.py, tags one held-out file and prints what was found and where it lies."""
    parser = argparse.ArgumentParser("python -m ast_jax quickstart", description=main.__doc__)
    parser.add_argument("--workdir", type=Path, default=Path("runs/quickstart"))
    args, overrides = parser.parse_known_args(argv)
    config, _, unknown = parse([f"--config={CONFIG}", *overrides])
    if unknown:
        parser.error(f"unknown arguments: {' '.join(unknown)}")

    from rich.console import Console
    from rich.table import Table

    from ast_jax.inference.predict import Tagger
    from ast_jax.training.loop import train

    began = time.monotonic()
    results = train(config, args.workdir)
    sounds = Path(config.dataset.source_dir or Path(config.dataset.data_dir, "synthetic", "sounds"))
    file = sorted((sounds / "test").glob("*/*.wav"))[0]
    tagger = Tagger([args.workdir])
    scores = tagger.tag(file).overall
    with (args.workdir / "metrics.jsonl").open() as lines:
        rows = [json.loads(line) for line in lines]
    speed = max(row["clips_per_s"] for row in rows if row["kind"] == "train")

    table = Table(title="quickstart", show_header=False, title_justify="left")
    for name, value in (
        ("accuracy on held-out clips", f"{results['metrics']['accuracy']:.1%} of {results['num_examples']}"),
        ("mAP", f"{results['metrics']['mAP']:.4f}"),
        (file.name, f"{tagger.label_names[int(np.argmax(scores))]} ({scores.max():.1%})"),
        ("training speed", f"{speed:.0f} clips/s at best"),
        ("time", f"{time.monotonic() - began:.0f} s"),
        ("work directory", str(args.workdir)),
        ("report", str(args.workdir / "report.html")),
        ("plots", str(args.workdir / "plots")),
        ("sounds", str(sounds)),
    ):
        table.add_row(name, value)
    Console().print(table)
    print(f"\ntag your own: .venv/bin/python -m ast_jax predict --model={args.workdir} FILE")
