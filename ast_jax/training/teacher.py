"""Distillation: what a teacher, or the mean of several, says of each training clip as the student sees it.

A program of its own before the step, which adds `taught` [B, C] to the batch: the teacher hears the same
mixed, masked, moved sound as the student ("consistent teaching", Beyer et al. 2022; CED, Dinkel et al. 2024),
normalised in its own way and padded or cut to its own length. B batch, T frames, F mel bins, C classes.
"""

import functools
from collections.abc import Callable, Mapping, Sequence

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from ast_jax.errors import InputError
from ast_jax.features.front_end import FrontEnd
from ast_jax.models import kernels, merge
from ast_jax.objectives import activation
from ast_jax.settings import Settings
from ast_jax.sharding import Layout
from ast_jax.training.step import Step, between_layers, features
from ast_jax.weights import LoadedModel, load_model

Teach = Callable[[Mapping[str, Array], int], dict[str, Array]]


def teacher_of(settings: Settings, what: Step, layout: Layout, label_names: Sequence[str]) -> Teach:
    """(batch, step) -> the batch with what `config.teacher` says of it; as it is where there is none.

    Raises:
        InputError: a teacher that hears otherwise than the student, or lacks one of its classes; pmap.
    """
    names = [name for name in settings.objective.teacher.split(",") if name]
    if not names:
        return lambda batch, _: dict(batch)
    if settings.objective.consistency:
        raise InputError("config.teacher hears one view of a clip: set config.consistency=0")
    if settings.run.parallel != "jit":
        raise InputError("config.teacher wants config.parallel=jit")
    parts, graphdefs, columns = [], [], []
    for name in names:
        loaded = load_model(name)
        columns.append(_columns(name, loaded, what.front_end, label_names))
        graphdef, arrays = loaded.parts
        graphdefs.append((graphdef, loaded.front_end, activation(loaded.activation)))
        parts.append(layout.place({path: np.asarray(value) for path, value in arrays.items()}))
    says = functools.partial(taught, what=what, graphdefs=graphdefs, columns=columns, forms=layout.kernels)
    program = layout.rows(says)

    def teach(batch: Mapping[str, Array], step: int) -> dict[str, Array]:
        return {**batch, "taught": program(parts, batch, np.int32(step))}

    return teach


def taught(
    parts: Sequence[Mapping[str, Array]],
    batch: Mapping[str, Array],
    number: Array,
    *,
    what: Step,
    graphdefs: Sequence[tuple[nnx.GraphDef, FrontEnd, Callable]],
    columns: Sequence[np.ndarray],
    forms: kernels.Kernels = kernels.PLAIN,
) -> Float[Array, "B C"]:
    """The teachers' mean scores of a batch in training step `number`, in the student's order of classes.

    Where the student mixes what its first layer makes, a teacher hears both clips and its scores are mixed.
    """
    between = between_layers(batch, number, what)
    seen = between.augment(features(batch, number, what))
    if not what.mixes_features:
        seen = between.mix(seen)
    own = what.front_end
    sound = seen * (own.spread * own.std) + own.mean
    scores = []
    with kernels.using(forms):
        for arrays, (graphdef, front_end, to_scores), chosen in zip(parts, graphdefs, columns, strict=True):
            model = merge(graphdef, arrays)
            x = front_end.normalise(_fitted(sound, model.config.num_frames, front_end.padding))
            scores.append(to_scores(model(x)[0].astype(jnp.float32))[:, chosen])
    mean = jnp.stack(scores).mean(axis=0)
    return between.mix(mean) if what.mixes_features else mean


def _columns(name: str, loaded: LoadedModel, front_end: FrontEnd, label_names: Sequence[str]) -> np.ndarray:
    if loaded.front_end.identity != front_end.identity:
        raise InputError(
            f"config.teacher {name} hears {loaded.front_end.identity}, and the student "
            f"{front_end.identity}: take a teacher that hears what the student does"
        )
    place = {label: column for column, label in enumerate(loaded.label_names or ())}
    if missing := [label for label in label_names if label not in place]:
        raise InputError(
            f"config.teacher {name} does not know {', '.join(missing[:5])}"
            f"{f' and {len(missing) - 5} more' if len(missing) > 5 else ''}: wanted a model with all of the "
            f"student's {len(label_names)} classes among its own, under the same names"
        )
    return np.array([place[label] for label in label_names])


def _fitted(sound: Float[Array, "B T F"], frames: int, padding: float) -> Float[Array, "B U F"]:
    missing = max(0, frames - sound.shape[1])
    return jnp.pad(sound[:, :frames], ((0, 0), (0, missing), (0, 0)), constant_values=padding)
