"""Who is held out: a share of each class, or folds that keep what belongs together on one side; before a set
is prepared, and inside its training clips.
"""

import hashlib
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from ast_jax.datasets.prepared import PreparedSet
from ast_jax.errors import InputError, printable


def held_out(stems: Sequence[str], groups: Sequence[object], share: float = 0.2) -> list[bool]:
    """Which clips are for testing: in each group the `share` with the smallest hashes of their stems.

    At least one of two or more. The same names give the same answer on any machine and in any order.
    """
    members: dict[object, list[int]] = defaultdict(list)
    for i, group in enumerate(groups):
        members[group].append(i)
    test = [False] * len(stems)
    for indices in members.values():
        indices.sort(key=lambda i: (_hash(stems[i]), stems[i]))
        count = max(1, round(share * len(indices))) if len(indices) > 1 else 0
        for i in indices[:count]:
            test[i] = True
    return test


def folded(groups: Sequence[str], labels: Sequence[Sequence[str]], count: int) -> list[int]:
    """Each clip's fold, 1 to `count`: clips of one group together, classes spread evenly.

    Groups go one by one, the largest first and equals by the hash of their names, to the fold that they leave
    most even over classes (as scikit-learn's StratifiedGroupKFold): the same names give the same folds.

    Raises InputError for fewer groups than folds.
    """
    members: dict[str, list[int]] = defaultdict(list)
    for i, group in enumerate(groups):
        members[group].append(i)
    if len(members) < count:
        listed = ", ".join(sorted(members)[:5])
        raise InputError(f"{count} folds of {len(members)} groups ({listed}): give fewer folds, or no groups")
    names = sorted({label for each in labels for label in each})
    column = {name: i for i, name in enumerate(names)}
    held = np.zeros((count, len(names)))
    total = np.zeros(len(names))
    for each in labels:
        for label in each:
            total[column[label]] += 1
    folds = [0] * len(groups)
    for group in sorted(members, key=lambda name: (-len(members[name]), _hash(name), name)):
        own = np.zeros(len(names))
        for i in members[group]:
            for label in labels[i]:
                own[column[label]] += 1
        # of each class the share that each fold would hold
        shares = np.repeat(held[None] / total, count, axis=0)
        shares[np.arange(count), np.arange(count)] += own / total
        sizes = held.sum(axis=1) + own.sum()
        best = min(range(count), key=lambda fold: (round(shares[fold].std(axis=0).mean(), 9), sizes[fold]))
        held[best] += own
        for i in members[group]:
            folds[i] = best + 1
    return folds


# The splits of `held_inside`.
INSIDE_TRAIN, INSIDE_EVAL = "inside_train", "inside_eval"


def held_inside(prepared: PreparedSet, splits: Sequence[str], parts: int) -> PreparedSet:
    """The set with the clips of `splits` in two more: one of so many parts, INSIDE_EVAL, and the others.

    As even over classes as `folded` makes them; pieces of one file, and files of one group where the set's
    notes say whose they are, are on one side. Clips of which nothing is known are not held out. Raises
    InputError for fewer groups than parts.
    """
    names, known = prepared.label_names, prepared.known(splits)
    folds = np.full(prepared.num_examples(splits), 2)
    judged = np.arange(len(folds)) if known is None else np.flatnonzero(known.any(axis=1))
    labels, whose = prepared.label_sets(splits), owners(prepared, splits)
    own_labels = [[names[label] for label in labels[i]] for i in judged]
    folds[judged] = folded([whose[i] for i in judged], own_labels, parts)
    return prepared.with_parts(
        splits, {INSIDE_TRAIN: np.flatnonzero(folds > 1), INSIDE_EVAL: np.flatnonzero(folds == 1)}
    )


def owners(prepared: PreparedSet, splits: Sequence[str]) -> list[str]:
    """Whose each clip is, in the order of `source(splits)`: its group's, its file's where there is none, its
    own where that is not known.
    """
    paths, ids = list(prepared.file_digests()), prepared.ids(splits)
    groups: Mapping[str, str] = prepared.metadata["notes"].get("groups", {})
    places = [place for split in splits for place in prepared.files(split)] if paths else [-1] * len(ids)
    files = [paths[place] if place >= 0 else id for place, id in zip(places, ids, strict=True)]
    return [groups.get(printable(file), file) for file in files]


def group_called(path: str, pattern: str) -> str:
    """What of a file's path says to whom it belongs: a regular expression's first group, or all it matches.

    Raises InputError where the pattern is none, or finds nothing.
    """
    try:
        found = re.search(pattern, path)
    except re.error as error:
        raise InputError(f"group {pattern!r} is no regular expression: {error}") from None
    if found is None:
        raise InputError(
            f"{printable(path)}: group {pattern!r} finds nothing in it: wanted a part such as a speaker or a "
            r"site, for example group=_([a-z]+)_ for 7_anna_3.wav"
        )
    return found[1] if found.re.groups and found[1] is not None else found[0]


def _hash(name: str) -> bytes:
    return hashlib.sha256(printable(name).encode()).digest()
