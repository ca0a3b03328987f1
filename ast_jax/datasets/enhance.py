"""Enhanced labels by PSLA's rule (Gong, Chung and Glass 2021, section IV; PSLA's published code): what an
ontology lets expect of a clip and a model trained on the original labels hears in it is added to its labels.

N clips, C classes.
"""

import json
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float

from ast_jax.errors import InputError
from ast_jax.text_tables import read_text

STATISTICS = {"mean": None, "median": 50, "p25": 25, "p10": 10, "p5": 5}


def enhanced(
    scores: Float[np.ndarray, "N C"],
    targets: Float[np.ndarray, "N C"],
    children: Bool[np.ndarray, "C C"],
    *,
    statistic: str = "mean",
) -> Bool[np.ndarray, "N C"]:
    """The labels of each clip: its own; type I, direct children of its own that score above their threshold;
    type II, ancestors, however far, that do.

    `children[a, b]`: b is a direct child of a. A class's threshold is the mean, or a percentile, of its
    scores over the clips that have its label; a class that no clip has is never added.
    """
    own = targets > 0
    expected = (own @ children) | (own @ closure(children).T)
    return own | (expected & (scores > thresholds(scores, own, statistic)))


def thresholds(
    scores: Float[np.ndarray, "N C"], own: Bool[np.ndarray, "N C"], statistic: str
) -> Float[np.ndarray, " C"]:
    """Infinite where no clip has the class."""
    share = STATISTICS[statistic]
    found = np.full(scores.shape[1], np.inf)
    for label in np.flatnonzero(own.any(axis=0)):
        of_its_clips = scores[own[:, label], label]
        found[label] = of_its_clips.mean() if share is None else np.percentile(of_its_clips, share)
    return found


def closure(children: Bool[np.ndarray, "C C"]) -> Bool[np.ndarray, "C C"]:
    """[a, b]: b is below a, however far."""
    below = children
    while (further := below | (below @ children)).sum() > below.sum():
        below = further
    return below


def read_ontology(path: Path, mids: list[str]) -> tuple[Bool[np.ndarray, "C C"], list[str]]:
    """Which class is whose direct child, off AudioSet's ontology.json; and the classes it does not have.

    As in the published code an entry whose restrictions are exactly ["abstract"] has no children, and an
    entry that is no class joins none: ancestors are reached through classes alone. Raises InputError for a
    file that is none.
    """
    index_of = {mid: index for index, mid in enumerate(mids)}
    children, known = np.zeros((len(mids), len(mids)), bool), set()
    try:
        for entry in json.loads(read_text(path)):
            known.add(entry["id"])
            if entry["id"] not in index_of or entry.get("restrictions") == ["abstract"]:
                continue
            for child in entry["child_ids"]:
                if child in index_of:
                    children[index_of[entry["id"]], index_of[child]] = True
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path} is no ontology ({type(error).__name__}: {error}): wanted AudioSet's ontology.json, a "
            "list of objects with id, child_ids and restrictions"
        ) from None
    return children, [mid for mid in mids if mid not in known]
