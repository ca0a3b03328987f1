"""How hard a prepared set is: logistic regression on each clip's mean log-mel, which sees no order in time.

python -m ast_jax.datasets.baseline DIRECTORY [--train=train] [--eval=test]     (needs scikit-learn; the directory is what
`python -m ast_jax prepare` prints)
"""

import argparse

import numpy as np

from ast_jax.datasets.records import PreparedSet


def accuracy(prepared: PreparedSet, train: list[str], held_out: list[str]) -> float:
    """Share of held-out clips classified right, with the best of four regularisations: a baseline is given every chance."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    (x, y), (test_x, test_y) = (_means(prepared, splits) for splits in (train, held_out))
    scores = []
    for strength in (0.01, 0.1, 1.0, 10.0):
        model = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=2000)).fit(x, y)
        scores.append(float(model.score(test_x, test_y)))
    return max(scores)


def _means(prepared: PreparedSet, splits: list[str]) -> tuple[np.ndarray, np.ndarray]:
    source = prepared.source(splits)
    rows = [source[i] for i in range(len(source))]
    return np.stack([row["fbank"].astype(np.float32).mean(axis=0) for row in rows]), np.array(
        [row["labels"][0] for row in rows]
    )


def main() -> None:
    parser = argparse.ArgumentParser("python -m ast_jax.datasets.baseline", description=__doc__)
    parser.add_argument("directory")
    parser.add_argument("--train", default="train", help="splits, by commas")
    parser.add_argument("--eval", default="test", help="splits, by commas")
    args = parser.parse_args()
    prepared = PreparedSet(args.directory)
    result = accuracy(prepared, args.train.split(","), args.eval.split(","))
    print(
        f"logistic regression on the mean log-mel: {result:.1%} of {prepared.num_examples(args.eval.split(','))} held-out clips"
    )


if __name__ == "__main__":
    main()
