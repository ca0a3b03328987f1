r"""How the cost of a training step grows: clips/s and memory against frames, batch, variant and strides;
docs/images/cost.png.

  export GLIBC_TUNABLES=glibc.malloc.hugetlb=1      # memory in pages of 2 MiB
  python -m benchmarks.cost [--json=FILE] [--plot=docs/images/cost.png] [--short] [--smoke]

On this machine's CPU in float32, in seconds of processor time: clips/s of one core. Memory is what the
compiled step reserves beside its arguments. Points whose step would cost more than `MOST_FLOPS` are compiled,
not timed.
"""

import argparse
import dataclasses
import time
from pathlib import Path
from typing import Any

from benchmarks import timing

MOST_FLOPS = 2e12
FRAMES = {"tiny": (128, 256, 512, 1024, 2048, 4096), "base": (128, 256, 512, 1024, 2048, 4096)}
SHORT = {"tiny": (128, 256, 512, 1024), "base": (128, 256)}
BATCHES = (2, 4, 8)
STRIDES = (16, 12, 8)


def main() -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.cost", description=__doc__)
    parser.add_argument("--json", help="also write the figures here")
    parser.add_argument("--plot", type=Path, default=timing.ROOT / "docs" / "images" / "cost.png")
    parser.add_argument(
        "--short", action="store_true", help="lengths that ten minutes of one core are enough for"
    )
    parser.add_argument("--smoke", action="store_true", help="the smallest points")
    args = parser.parse_args()
    timing.one_core()
    timing.cpu_only()
    from ast_jax.models import ASTConfig

    frames = {"tiny": (64, 128)} if args.smoke else SHORT if args.short else FRAMES
    found: dict[str, list[timing.Row]] = {}
    for variant, lengths in frames.items():
        points = [ASTConfig.variant(variant, num_frames=length) for length in lengths]
        found[variant] = [point(config, 1) for config in points]
    few = 1 if args.smoke else 2 if args.short else None
    tiny = ASTConfig.variant("tiny", num_frames=64 if args.smoke else 256 if args.short else 1024)
    found["batch"] = [point(tiny, batch) for batch in BATCHES[:few]]
    found["strides"] = [
        point(dataclasses.replace(tiny, strides=(stride, stride)), 1) for stride in STRIDES[:few]
    ]
    for name, rows in found.items():
        timing.table(name, rows)
    timing.write(args.json, found)
    draw(found, args.plot)


def point(config: Any, batch: int) -> timing.Row:
    """One training step, compiled and, if it is not too long, timed."""
    from ast_jax.models import abstract
    from ast_jax.models.cost import forward_flops
    from benchmarks.ours import TrainStep

    step = TrainStep(config, batch, steps=1)
    speed = None
    if 3 * batch * forward_flops(abstract("ast", config)) < MOST_FLOPS:
        speed = batch / timing.in_turn({"ours": step.run}, repeats=3, clock=time.process_time)["ours"]
    return {
        "frames": config.num_frames,
        "strides": config.strides[0],
        "tokens": config.num_tokens,
        "batch": batch,
        "clips/s": speed,  # None: not timed
        "GB": step.temporaries_gb,
    }


def draw(found: dict[str, list[timing.Row]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(2, 3, figsize=(11, 6), layout="constrained")
    columns = (
        ("frames", [name for name in ("tiny", "base") if name in found]),
        ("batch", ["batch"]),
        ("strides", ["strides"]),
    )
    for column, (axis, names) in enumerate(columns):
        series = {
            name: sorted(found[name] + _shared(found, axis), key=lambda row: row[axis]) for name in names
        }
        ticks = sorted({row[axis] for rows in series.values() for row in rows})
        for plot, quantity in zip(axes[:, column], ("clips/s", "GB"), strict=True):
            for name, rows in series.items():
                label = name if axis == "frames" else f"tiny, {rows[0]['frames']} frames"
                known = [(row[axis], row[quantity]) for row in rows if row[quantity] is not None]
                plot.plot(*zip(*known, strict=True), "o-", label=label)
            plot.set_xscale("log")
            plot.set_yscale("log" if axis == "frames" else "linear")
            plot.minorticks_off()
            plot.set_xticks(ticks, [str(tick) for tick in ticks])
            plot.set(xlabel=axis, ylabel=f"training, {quantity}")
            if axis != "frames":
                plot.set_ylim(0, 1.1 * max(row[quantity] or 0 for rows in series.values() for row in rows))
            plot.grid(alpha=0.3)
            plot.legend(frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)


def _shared(found: dict[str, list[timing.Row]], axis: str) -> list[timing.Row]:
    """The point that the sweep over frames has measured already: batch 1, strides of 10, the same length."""
    if axis == "frames":
        return []
    return [row for row in found["tiny"] if row["frames"] == found[axis][0]["frames"]]


if __name__ == "__main__":
    main()
