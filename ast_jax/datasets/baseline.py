"""How hard a prepared set is without order in time: logistic regression on each clip's mean log-mel spectrum.

    python -m ast_jax.datasets.baseline DIRECTORY [--train=train] [--eval=test]

DIRECTORY is what `python -m ast_jax prepare` prints. Needs scikit-learn (requirements-dev.txt).
N clips, F mel bins.
"""

import argparse
import sys
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float32, Int64

from ast_jax.datasets.prepared import PreparedSet
from ast_jax.errors import InputError

# Inverse weight of the L2 term, as scikit-learn has it.
STRENGTHS = (0.1, 1.0, 10.0)


def accuracy(prepared: PreparedSet, train: Sequence[str], held_out: Sequence[str]) -> float:
    """Share of the clips of the splits `held_out` classified right after fitting on the splits `train`.

    Raises InputError for a set of waveforms or of several labels a clip.
    """
    if prepared.kind != "log_mel" or prepared.multi_label:
        labels = "several labels" if prepared.multi_label else "one label"
        raise InputError(
            f"{prepared.directory} holds {prepared.kind}, {labels} a clip: "
            "the baseline wants log_mel shards of a set with one label a clip"
        )
    return best_score(*mean_spectra(prepared, train), *mean_spectra(prepared, held_out))


def mean_spectra(
    prepared: PreparedSet, splits: Sequence[str]
) -> tuple[Float32[np.ndarray, "N F"], Int64[np.ndarray, " N"]]:
    """Each clip's log-mel features averaged over time, and its label."""
    source = prepared.source(splits)
    rows = [source[i] for i in range(len(source))]
    means = np.stack([row["fbank"].mean(axis=0, dtype=np.float32) for row in rows])
    return means, np.array([row["labels"][0] for row in rows], np.int64)


def best_score(
    x: Float32[np.ndarray, "N F"],
    y: Int64[np.ndarray, " N"],
    held_out_x: Float32[np.ndarray, "M F"],
    held_out_y: Int64[np.ndarray, " M"],
) -> float:
    """The held-out accuracy with the best of three regularisations.

    It is chosen on the held-out clips: the baseline gets every chance. Raises InputError if scikit-learn is
    not installed.
    """
    try:
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler
    except ModuleNotFoundError:
        raise InputError("the baseline needs scikit-learn: pip install -r requirements-dev.txt") from None
    models = (make_pipeline(StandardScaler(), LogisticRegression(C=c, max_iter=5000)) for c in STRENGTHS)
    return max(float(model.fit(x, y).score(held_out_x, held_out_y)) for model in models)


def main() -> None:
    parser = argparse.ArgumentParser(
        "python -m ast_jax.datasets.baseline", description=__doc__.split("\n")[0]
    )
    parser.add_argument("directory", help="what `python -m ast_jax prepare` prints")
    parser.add_argument("--train", default="train", help="splits to fit on, by commas")
    parser.add_argument("--eval", default="test", help="splits to score, by commas")
    args = parser.parse_args()
    try:
        prepared = PreparedSet(args.directory)
        share = accuracy(prepared, args.train.split(","), args.eval.split(","))
        count = prepared.num_examples(args.eval.split(","))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    print(f"logistic regression on the mean log-mel: {share:.1%} of {count} held-out clips")


if __name__ == "__main__":
    main()
