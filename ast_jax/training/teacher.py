"""Distillation: what a teacher, or the mean of several, says of each training clip as the student sees it.

A program of its own before the step, which adds `taught` [B, C] to the batch: the teacher hears the same
mixed, masked, moved sound as the student ("consistent teaching", Beyer et al. 2022; CED, Dinkel et al. 2024),
normalised in its own way and padded or cut to its own length. One of another front end hears the same mixed
waveform through its own, without what is done to features. B batch, T frames, F mel bins, C classes.
"""

import functools
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ast_jax.datasets.prepared import PreparedSet
from ast_jax.errors import InputError
from ast_jax.features.batches import resampled, waveform
from ast_jax.features.front_end import FrontEnd
from ast_jax.models import kernels, merge
from ast_jax.objectives import activation
from ast_jax.settings import Settings
from ast_jax.sharding import Layout
from ast_jax.training.step import Step, beside_partners, between_layers, features, mixed
from ast_jax.training.taught import Taught
from ast_jax.training.workdir import identity
from ast_jax.weights import LoadedModel, load_model
from ast_jax.weights.program import hear, samples

Teach = Callable[[Mapping[str, Array], int], dict[str, Array]]
# (batch, step) -> scores in the student's order of classes
Says = Callable[[Mapping[str, Array], int], Array]


def teacher_of(settings: Settings, what: Step, layout: Layout, prepared: PreparedSet, workdir: Path) -> Teach:
    """(batch, step) -> the batch with what `config.teacher` says of it; as it is where there is none.

    Raises:
        InputError: a teacher that cannot hear what the student hears, or lacks one of its classes; pmap.
    """
    asked, names = settings.objective, [name for name in settings.objective.teacher.split(",") if name]
    if asked.teacher_scores and not asked.teacher_views:
        raise InputError(
            "config.teacher_scores keeps what is said of views that come again: set teacher_views"
        )
    if not names:
        if asked.teacher_views:
            raise InputError("config.teacher_views is how often a teacher is asked: set config.teacher, or 0")
        return lambda batch, _: dict(batch)
    if asked.consistency:
        raise InputError("config.teacher hears one view of a clip: set config.consistency=0")
    if settings.run.parallel != "jit":
        raise InputError("config.teacher wants config.parallel=jit")
    teachers, columns = [], []
    for name in names:
        teachers.append(load_model(name))
        _check_hears(name, teachers[-1].front_end, what.front_end, settings.data.kind)
        columns.append(_columns(name, teachers[-1], prepared.label_names))
    says = asking(teachers, columns, what, layout)
    if not asked.teacher_views:
        return lambda batch, step: {**batch, "taught": says(batch, step)}
    if jax.process_count() > 1:
        raise InputError("config.teacher_views keeps what one process asks: set it to 0 on several hosts")
    about = views(settings, what, prepared) | {"teachers": [loaded.digest() for loaded in teachers]}
    place = Path(asked.teacher_scores or workdir / "teacher_scores")
    kept = Taught(place, about, num_classes=len(prepared.label_names))
    rows = what.period * settings.run.batch_size
    print(f"what teachers say of {rows} views is kept in {kept.directory}, and asked once", file=sys.stderr)

    def teach(batch: Mapping[str, Array], step: int) -> dict[str, Array]:
        first, count = what.view(step) * settings.run.batch_size, settings.run.batch_size
        scores = kept.read(first, count)
        if scores is None:
            scores = kept.write(first, np.asarray(says(batch, step))[:count])
        # rows that only fill the devices' share
        fill = len(batch["index"]) - count
        placed = layout.place_rows({"taught": np.pad(scores, ((0, fill), (0, 0)))})
        return {**batch, **placed}

    return teach


def views(settings: Settings, what: Step, prepared: PreparedSet) -> dict[str, Any]:
    """What decides how each clip is seen: the same for two students if a teacher says the same to both."""
    run, data = settings.run, settings.data
    keys = ("seed", "batch_size", "sampling", "mixup", "mixup_alpha", "mixup_of", "num_frames")
    return {
        "data": identity(prepared),
        "classes": list(prepared.label_names),
        "labels": data.labels,
        "inside": data.inside,
        "splits": list(data.train),
        "front_end": what.front_end.identity,
        "statistics": [float(what.front_end.mean), float(what.front_end.std)],
        "views": [settings.objective.teacher_views, what.period],
        **{key: getattr(run, key) for key in keys},
        "augment": repr(settings.augment),
    }


def asking(
    teachers: Sequence[LoadedModel], columns: Sequence[np.ndarray], what: Step, layout: Layout
) -> Says:
    """Teachers that come onto the devices when they are first asked."""
    said = functools.partial(taught, what=what, teachers=teachers, columns=columns, forms=layout.kernels)
    program = layout.rows(said)

    @functools.cache
    def parts() -> list[Any]:
        own = [loaded.parts[1] for loaded in teachers]
        return [layout.place({path: np.asarray(value) for path, value in arrays.items()}) for arrays in own]

    return lambda batch, step: program(parts(), batch, np.int32(what.view(step)))


def taught(
    parts: Sequence[Mapping[str, Array]],
    batch: Mapping[str, Array],
    number: Array,
    *,
    what: Step,
    teachers: Sequence[LoadedModel],
    columns: Sequence[np.ndarray],
    forms: kernels.Kernels = kernels.PLAIN,
) -> Float[Array, "B C"]:
    """The teachers' mean scores of a batch in training step `number`, in the student's order of classes.

    Where the student mixes what its first layer makes, a teacher of such a first layer does too, and another
    one hears both clips and its scores are mixed.
    """
    between, own = between_layers(batch, number, what), what.front_end
    as_it_is = features(batch, number, what)
    seen = between.augment(as_it_is)
    seen = seen if what.mixes_features else between.mix(seen)
    scores = []
    with kernels.using(forms):
        for arrays, loaded, chosen in zip(parts, teachers, columns, strict=True):
            model = merge(loaded.parts[0], arrays)
            same = loaded.front_end.identity == own.identity
            # what follows normalisation follows the teacher's own, where that is its first layer
            inside = same and getattr(model, "normalises", False)
            if same:
                sound = (as_it_is if inside else seen) * (own.spread * own.std) + own.mean
                sound = _fitted(sound, model.config.num_frames, value=loaded.front_end.padding)
            else:
                sound = _heard(batch, loaded, what)
            given = {"between": between} if inside else {}
            logits = model(loaded.front_end.normalise(sound), **given)[0].astype(jnp.float32)
            said = activation(loaded.activation)(logits)[:, chosen]
            scores.append(between.mix(said) if what.mixes_features and not inside else said)
    return jnp.stack(scores).mean(axis=0)


def _heard(batch: Mapping[str, Array], loaded: LoadedModel, what: Step) -> Float[Array, "R T F"]:
    """The batch's sounds, mixed, as a teacher's own front end has them."""
    rows = beside_partners(batch) if what.mixes_features else mixed(batch, what.front_end)
    rates = (what.front_end.sample_rate_hz, loaded.front_end.sample_rate_hz)
    sound, count = resampled(waveform(rows), rows["num_samples"], rates)
    whole = samples(loaded)
    return hear(loaded)(_fitted(sound, whole), jnp.minimum(count, whole))


def _check_hears(name: str, front_end: FrontEnd, own: FrontEnd, kind: str) -> None:
    if front_end.identity == own.identity:
        return
    if not front_end.of_sound or kind != "waveform":
        raise InputError(
            f"config.teacher {name} hears {front_end.identity}, and the student {own.identity}: take a "
            "teacher that hears what the student does, or set config.dataset.kind=waveform, so that it hears "
            "the sounds themselves"
        )
    print(
        f"config.teacher {name} hears otherwise than the student ({front_end.identity}): it is asked about "
        "the sounds as they are mixed, without masks, gain and shifts",
        file=sys.stderr,
    )


def _columns(name: str, loaded: LoadedModel, label_names: Sequence[str]) -> np.ndarray:
    place = {label: column for column, label in enumerate(loaded.label_names or ())}
    if missing := [label for label in label_names if label not in place]:
        raise InputError(
            f"config.teacher {name} does not know {', '.join(missing[:5])}"
            f"{f' and {len(missing) - 5} more' if len(missing) > 5 else ''}: wanted a model with all of the "
            f"student's {len(label_names)} classes among its own, under the same names"
        )
    return np.array([place[label] for label in label_names])


def _fitted(x: Float[Array, "B S *rest"], size: int, *, value: float = 0.0) -> Array:
    missing = ((0, 0), (0, max(0, size - x.shape[1])), *[(0, 0)] * (x.ndim - 2))
    return jnp.pad(x[:, :size], missing, constant_values=value)
