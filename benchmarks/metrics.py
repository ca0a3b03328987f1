r"""AP and AUC, from one sort, of an AudioSet-sized evaluation beside scikit-learn's, on one core.

  python -m benchmarks.metrics [--clips=19185] [--classes=527] [--repeats=3] [--json=FILE]

The limit is the copy rate over scores and targets, each read once.
"""

import argparse
import time

from benchmarks import timing


def main() -> None:
    import numpy as np

    from ast_jax.evaluation import metrics

    parser = argparse.ArgumentParser("python -m benchmarks.metrics", description=__doc__)
    parser.add_argument("--clips", type=int, default=19_185)
    parser.add_argument("--classes", type=int, default=527)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", help="also write the figures here")
    args = parser.parse_args()
    timing.one_core()

    rng = np.random.default_rng(0)
    targets = (rng.random((args.clips, args.classes)) < 0.005).astype(np.float32)
    targets[0] = 1  # every class has a true clip
    targets[1] = 0
    scores = (rng.random(targets.shape) + 0.3 * targets).astype(np.float32)
    contestants = {"ours": lambda: metrics.Scored(scores, targets).roc_auc}
    try:
        from sklearn.metrics import average_precision_score, roc_auc_score
    except ImportError as error:
        print(f"scikit-learn is absent: {error}")
    else:
        contestants["scikit-learn"] = lambda: (
            average_precision_score(targets, scores, average=None),
            roc_auc_score(targets, scores, average=None),
        )
    seconds = timing.in_turn(contestants, repeats=args.repeats, clock=time.process_time)
    rate = timing.copy_rate()
    rows = [
        {
            "AP and AUC of all classes": name,
            "s": value,
            "ours is faster by": value / seconds["ours"],
            "share of the copy rate": (scores.nbytes + targets.nbytes) / value / rate,
        }
        for name, value in seconds.items()
    ]
    timing.table(f"{args.clips} clips x {args.classes} classes, one core, {timing.machine()}", rows)
    timing.write(args.json, {"rows": rows})


if __name__ == "__main__":
    main()
