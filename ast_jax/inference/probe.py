r"""How much a model knows of your classes without any training of it: logistic regression on its embeddings, cross-validated.

  python -m ast_jax probe --model=RUN SOUNDS [--layer=N]

SOUNDS is a set in ESC-50's layout (its own folds are used), a directory per class or a CSV table (five stratified folds).
scikit-learn comes with the extra [probe]. N clips, D width.
"""

import argparse
import json
import re
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from ast_jax.datasets import esc50, folder
from ast_jax.datasets.listing import Clip
from ast_jax.errors import InputError
from ast_jax.inference.embed import add_model_flags, embed_files, embedder, load_from
from ast_jax.inference.files import Failures

FOLDS = 5  # where the set has none of its own


def main(argv: Sequence[str]) -> None:
    """The command: one line for each kind of embedding. Files that cannot be heard are reported and left out."""
    parser = argparse.ArgumentParser("python -m ast_jax probe", description="A classifier on embeddings.")
    add_model_flags(parser)
    parser.add_argument("--C", type=float, default=1.0, help="inverse strength of the regularisation")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of lines")
    parser.add_argument("sounds", type=Path, metavar="SOUNDS", help="a data set: a directory or a table")
    args = parser.parse_args(argv)
    if find_spec("sklearn") is None:
        raise InputError("probe needs scikit-learn: `pip install 'scikit-learn<2'`")
    clips, labels, folds = labelled(args.sounds)
    loaded, grid = load_from(args)
    failures = Failures(len(clips), "embedded")
    pair = lambda kinds: jnp.stack([kinds["token"], kinds["mean"]], axis=1)
    files = [Path(clip.path) for clip in clips]
    heard = list(embed_files(files, grid, embedder(loaded, pair, args.layer), failures))
    places = {clip.path: i for i, clip in enumerate(clips)}
    rows = np.array([places[str(one.file)] for one in heard])
    vectors = np.stack([np.mean(one.answers, axis=0) for one in heard])  # [N, 2, D]: the mean over windows
    kinds = {"token": vectors[:, 0], "mean": vectors[:, 1], "both": vectors.reshape(len(vectors), -1)}
    found = {name: cross_validate(x, labels[rows], folds[rows], C=args.C) for name, x in kinds.items()}
    if args.json:
        print(json.dumps({"clips": len(rows), "kinds": found}))
    else:
        print(f"logistic regression on {len(rows)} clips, each fold held out in turn")
        for name, result in found.items():
            told = "  ".join(f"{fold} {share:.1%}" for fold, share in result["folds"].items())
            print(f"  {name:<5}  {result['accuracy']:.1%} +- {result['spread']:.1%}   ({told})")
    failures.exit_if_any()


def labelled(sounds: Path) -> tuple[list[Clip], Int[np.ndarray, " N"], np.ndarray]:
    """The clips of a set, the label of each and the name of the fold that it belongs to.

    Raises InputError: no set in a known layout, one class only, clips of several labels, or too few of a class to be held out.
    """
    own = esc50.list_clips(sounds) if (sounds / "meta" / "esc50.csv").is_file() else folder.list_clips(sounds)
    if own.multi_label:
        raise InputError(f"{sounds} has clips of several labels: probe takes one label a clip")
    if len(own.label_names) < 2:
        raise InputError(
            f"{sounds} has one class, {', '.join(own.label_names)}: name a directory with a folder for each of two or more"
        )
    clips = [clip for split in own.splits.values() for clip in split]
    labels = np.array([clip.labels[0] for clip in clips])
    splits = np.array([name for name, split in own.splits.items() for _ in split])
    has_folds = len(own.splits) > 1 and all(re.fullmatch(r"fold_?\d+", name) for name in own.splits)
    return clips, labels, splits if has_folds else stratified_folds(labels)


def stratified_folds(labels: Int[np.ndarray, " N"], seed: int = 0) -> np.ndarray:
    """Five folds with each class spread evenly over them. Raises InputError where a class has fewer clips than that."""
    from sklearn.model_selection import StratifiedKFold

    smallest = int(np.min(np.unique(labels, return_counts=True)[1]))
    if smallest < FOLDS:
        raise InputError(f"a class has {smallest} clips: cross-validation wants {FOLDS} or more of each")
    folds = np.empty(len(labels), "U8")
    split = StratifiedKFold(FOLDS, shuffle=True, random_state=seed).split(labels[:, None], labels)
    for number, (_, held_out) in enumerate(split, 1):
        folds[held_out] = f"fold{number}"
    return folds


def cross_validate(
    vectors: Float[np.ndarray, "N D"], labels: Int[np.ndarray, " N"], folds: np.ndarray, *, C: float = 1.0
) -> dict[str, Any]:
    """{accuracy (mean of the folds), spread (standard deviation over them), folds {name: accuracy}}.

    Features are standardised by the training folds' own mean and deviation.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    found = {}
    for fold in sorted(set(folds.tolist())):
        held_out = folds == fold
        classifier = make_pipeline(StandardScaler(), LogisticRegression(C=C, max_iter=2000))
        classifier.fit(vectors[~held_out], labels[~held_out])
        found[fold] = float(classifier.score(vectors[held_out], labels[held_out]))
    shares = list(found.values())
    spread = float(np.std(shares, ddof=1)) if len(shares) > 1 else 0.0
    return {"accuracy": float(np.mean(shares)), "spread": spread, "folds": found}
