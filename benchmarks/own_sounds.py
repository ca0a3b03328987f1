r"""The recipe for one's own sounds on small unlike sets (benchmarks/own_sets.py makes them), from scratch and
from pretrained weights, beside what is easy.

  python -m benchmarks.own_sounds --sets=sets [--only=digits,drums] [--how=scratch,masked,pretrained]
      [--work=DIR]

Each is one plain `train --config=folder...`; docs/proofs/own_sounds.json has accuracy at the last epoch, that
of the majority class and of logistic regression, clips, seconds. A stopped run goes on.
"""

import argparse
import json
from pathlib import Path

from benchmarks.prove import DINO, DOCS, ROOT, about, train

# the model's length; clips of drums and instruments fade out
SECONDS = {"digits": 1, "drums": 2, "instruments": 2, "lengths": 5, "esc10_8": 5, "esc10_32": 5}
HOW = {
    "scratch": ("folder:scratch,seconds={seconds}", ()),
    # with padding and digital silence left out of attention
    "masked": ("folder:scratch,seconds={seconds}", ("--config.model.mask_even=True",)),
    "pretrained": (
        "folder:pretrained,cpu,seconds={seconds}",
        ("--config.model.variant=small", f"--config.init_from={DINO}", "--config.epochs=10"),
    ),
}


def main() -> None:
    flags = argparse.ArgumentParser(
        "python -m benchmarks.own_sounds",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    flags.add_argument("--sets", type=Path, required=True)
    flags.add_argument("--only", default=",".join(SECONDS))
    flags.add_argument("--how", default="scratch")
    flags.add_argument("--work", type=Path, default=ROOT / "runs" / "own_sounds")
    asked = flags.parse_args()
    path = DOCS / "own_sounds.json"
    found = json.loads(path.read_text())["runs"] if path.exists() else {}
    for name in asked.only.split(","):
        for how in asked.how.split(","):
            spec, more = HOW[how]
            spec = spec.format(seconds=SECONDS[name])
            source = asked.sets.absolute() / name
            run = f"{name}-{how}"
            train(asked.work.absolute(), run, spec, f"--config.dataset.source_dir={source}", *more)
            results = json.loads((asked.work.absolute() / run / "results.json").read_text())
            easy = results["easy"]
            found[run] = {
                "recipe": " ".join([spec, *more[:1]]),
                "clips": easy["train_clips"],
                "held_out": easy["clips"],
                "accuracy": results["metrics"]["accuracy"],
                "majority": easy["majority"]["accuracy"],
                "logistic_regression": easy["logistic_regression"]["accuracy"],
                "seconds": round(results["seconds"]),
            }
            print(run, found[run], flush=True)
            path.write_text(json.dumps({"runs": found, **about()}, indent=1) + "\n")


if __name__ == "__main__":
    main()
