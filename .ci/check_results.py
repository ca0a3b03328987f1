"""Checks the results.json of a short training run on the built-in sounds: complete, finite, and well above
chance.

python .ci/check_results.py runs/quickstart/results.json
"""

import json
import math
import sys

METRICS = ("accuracy", "mAP", "auc", "d_prime")
KEYS = ("metrics", "epoch", "step", "best", "last", "per_class", "seconds", "num_examples", "versions")
# Ten classes: guessing gets 0.10, with a standard error of 0.03 on 80 clips; eight short epochs get about
# 0.5.
LOWEST_ACCURACY = 0.30


def complaints(results: dict) -> list[str]:
    """What is wrong with the results, one line each."""
    wrong = [f"no {key!r}" for key in KEYS if key not in results]
    metrics = results.get("metrics", {})
    for name in METRICS:
        value = metrics.get(name)
        if not isinstance(value, int | float) or not math.isfinite(value):
            wrong.append(f"{name} is {value!r}, wanted a finite number")
    if not wrong and metrics["accuracy"] < LOWEST_ACCURACY:
        wrong.append(
            f"accuracy is {metrics['accuracy']:.3f}, wanted at least {LOWEST_ACCURACY} (chance is 0.1)"
        )
    if not wrong and results["step"] < 1:
        wrong.append(f"step is {results['step']!r}: nothing was trained")
    return wrong


if __name__ == "__main__":
    with open(sys.argv[1]) as file:
        found = json.load(file)
    problems = complaints(found)
    print(
        "\n".join(f"{sys.argv[1]}: {problem}" for problem in problems) or f"{sys.argv[1]}: {found['metrics']}"
    )
    sys.exit(bool(problems))
