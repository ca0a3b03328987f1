"""How much a model knows of your classes without training it: logistic regression on its embeddings.

SOUNDS is a set in ESC-50's layout (its own folds are used), a directory per class or a CSV table (five
stratified folds). scikit-learn comes with the extra [probe]. N clips, D width.
"""

import re
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from ast_jax.datasets import esc50, folder
from ast_jax.datasets.listing import Clip
from ast_jax.errors import InputError

FOLDS = 5  # where the set has none of its own


def labelled(sounds: Path) -> tuple[list[Clip], Int[np.ndarray, " N"], np.ndarray]:
    """The clips of a set, the label of each and the name of the fold that it belongs to.

    Raises InputError: no set in a known layout, one class only, clips of several labels, or too few of a
    class to be held out.
    """
    own = esc50.list_clips(sounds) if (sounds / "meta" / "esc50.csv").is_file() else folder.list_clips(sounds)
    if own.multi_label:
        raise InputError(f"{sounds} has clips of several labels: probe takes one label a clip")
    if len(own.label_names) < 2:
        raise InputError(
            f"{sounds} has one class, {', '.join(own.label_names)}: name a directory with a folder for "
            "each of two or more"
        )
    clips = [clip for split in own.splits.values() for clip in split]
    labels = np.array([clip.labels[0] for clip in clips])
    splits = np.array([name for name, split in own.splits.items() for _ in split])
    has_folds = len(own.splits) > 1 and all(re.fullmatch(r"fold_?\d+", name) for name in own.splits)
    return clips, labels, splits if has_folds else stratified_folds(labels)


def stratified_folds(labels: Int[np.ndarray, " N"], seed: int = 0) -> np.ndarray:
    """Five folds with each class spread evenly over them.

    Raises InputError where a class has fewer clips than that.
    """
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
