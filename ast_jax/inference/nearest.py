"""Classifiers that keep examples in the place of weights: the nearest clips vote, or each class's mean does.

Classes are added to one by their clips alone, and nothing is fitted again. N clips, V numbers of an
embedding, M examples, C classes, K numbers of neighbours to choose from.
"""

import dataclasses
import math
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from ast_jax.errors import InputError
from ast_jax.inference.store import unit
from ast_jax.models import host_variables
from ast_jax.models.probed import nearest
from ast_jax.weights import LoadedModel
from ast_jax.weights.pretrained import filled

Head = dict[str, np.ndarray]
# How many neighbours vote, by the kind; all of what there are among prototypes.
NEIGHBOURS = {"knn": (1, 3, 5, 10, 20), "prototypes": (math.inf,)}


def examples(
    kind: str, x: Float[np.ndarray, "N V"], labels: Int[np.ndarray, " N"], classes: int
) -> tuple[Float[np.ndarray, "M V"], Float[np.ndarray, "M C"]]:
    """Of standardised vectors what is kept, at length 1, and of which class each is: every clip, or the mean
    of each class that has one.
    """
    if kind == "knn":
        return unit(x), np.eye(classes)[labels]
    there = np.unique(labels)
    return unit(np.stack([x[labels == label].mean(axis=0) for label in there])), np.eye(classes)[there]


def fitted(kind: str, vectors: Float[np.ndarray, "N V"], labels: Int[np.ndarray, " N"], classes: int) -> Head:
    """The arrays of a head but its temperature; as many examples as `kind` keeps."""
    centre, deviation = vectors.mean(axis=0), vectors.std(axis=0) + 1e-6
    kept, which = examples(kind, (vectors - centre) / deviation, labels, classes)
    return {"centre": centre, "deviation": deviation, "examples": kept, "classes": which}


def logits(
    kind: str, vectors: np.ndarray, labels: np.ndarray, classes: int, x: Float[np.ndarray, "n V"]
) -> Float[np.ndarray, "K n C"]:
    """Of other clips, by each number of NEIGHBOURS among these."""
    head = {name: jnp.asarray(value) for name, value in fitted(kind, vectors, labels, classes).items()}
    count = len(head["examples"])
    found = [nearest(jnp.asarray(x), **head, neighbours=int(min(k, count))) for k in NEIGHBOURS[kind]]
    return np.stack([np.asarray(each) for each in found])


def with_classes(
    loaded: LoadedModel,
    vectors: Float[np.ndarray, "N V"],
    labels: Int[np.ndarray, " N"],
    names: Sequence[str],
) -> LoadedModel:
    """A probe of `fitted` that knows these classes too, by the examples that these clips give; those that it
    had are as they were. From which scores on a class is found is not known any more.

    Raises InputError: a probe of another kind, or a class that it knows already.
    """
    config = loaded.model.config
    if getattr(config, "head", None) not in NEIGHBOURS:
        raise InputError(
            "only a probe of examples takes classes: save it with --kind=prototypes or --kind=knn"
        )
    if both := [name for name in names if name in loaded.label_names]:
        raise InputError(f"the probe knows {', '.join(both)} already: name a directory of new classes alone")
    arrays = host_variables(loaded.model)
    x = (vectors - arrays["head/centre"]) / arrays["head/deviation"]
    kept, which = examples(config.head, x, labels, len(names))
    old = arrays["head/classes"]
    arrays["head/classes"] = np.block(
        [[old, np.zeros((len(old), len(names)))], [np.zeros((len(kept), old.shape[1])), which]]
    )
    arrays["head/examples"] = np.concatenate([arrays["head/examples"], kept])
    count = len(arrays["head/examples"])
    own = dataclasses.replace(
        config,
        num_classes=config.num_classes + len(names),
        examples=count,
        neighbours=int(min(config.neighbours if config.head == "knn" else math.inf, count)),
    )
    model = filled("probed", own, arrays)
    return dataclasses.replace(
        loaded, model=model, label_names=[*loaded.label_names, *names], thresholds=None, new_head=False
    )
