"""A recipe's data: opened, checked against its settings, sampled."""

import dataclasses
import sys
from typing import Any

import jax

from ast_jax.datasets import folds
from ast_jax.datasets.pipeline import (
    Draws,
    FrameGrid,
    Mixup,
    RoundRobinDraws,
    TrainStream,
    WeightedDraws,
    balanced_weights,
    steps_per_epoch,
)
from ast_jax.datasets.prepare import BeamRun, open_prepared
from ast_jax.datasets.prepared import PreparedSet
from ast_jax.datasets.relabel import relabelled
from ast_jax.errors import InputError
from ast_jax.features.front_end import FrontEnd
from ast_jax.models import abstract
from ast_jax.models.base import config_from, judges_steps
from ast_jax.objectives import Objective
from ast_jax.settings import Data, Settings


def opened(settings: Settings, beam: BeamRun | None = None) -> PreparedSet:
    """The recipe's prepared set, for what its model hears."""
    outline = abstract(settings.model.family, config_from(settings, num_classes=2))
    return open_data(settings.data, outline.front_end, beam)


def open_data(data: Data, front_end: FrontEnd, beam: BeamRun | None = None) -> PreparedSet:
    """The prepared set a recipe names, preparing it first (on `beam`) where its sounds are at hand.

    Raises InputError if there are neither shards nor sounds, and if there are no shards yet where several
    processes would make them at once.
    """
    return open_prepared(
        data.name,
        source_dir=data.source_dir or None,
        data_dir=data.data_dir,
        kind=data.kind,
        channels=data.channels,
        options=data.options,
        max_skipped=data.max_skipped,
        front_end=front_end,
        alone=jax.process_count() == 1,
        beam=beam,
    )


def held_inside(settings: Settings, prepared: PreparedSet) -> tuple[Settings, PreparedSet]:
    """Both with a part of the training clips in the place of what is evaluated, where the recipe asks so."""
    data = settings.data
    if not data.inside:
        return settings, prepared
    inside = dataclasses.replace(data, train=(folds.INSIDE_TRAIN,), eval=(folds.INSIDE_EVAL,), test=())
    found = folds.held_inside(prepared, data.train, data.inside)
    return dataclasses.replace(settings, data=inside), found


def overview(data: Data, prepared: PreparedSet) -> list[str]:
    """What is about to be learned, a line each: classes, clips by split, where the shards come from."""
    names, roles = prepared.label_names, {"train": data.train, "eval": data.eval, "test": data.test}
    listed = ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")
    counts = [
        f"{prepared.num_examples(splits)} to {role} ({' + '.join(splits)})"
        for role, splits in roles.items()
        if splits
    ]
    several = ", several a clip" if prepared.multi_label else ""
    lines = [f"{len(names)} classes{several} ({listed}); clips: {', '.join(counts)}", prepared.told]
    return [f"{prepared.name}: {line}" for line in lines if line]


def statistics(data: Data, prepared: PreparedSet, model: Any) -> FrontEnd:
    """The model's front end with the recipe's mean and deviation, or those measured on the clean training
    clips; features stay as they are where the model normalises them by itself and the recipe says nothing.
    """
    mean, std = data.mean, data.std
    if getattr(model, "normalises", False):
        mean, std = 0.0 if mean is None else mean, 1.0 if std is None else std
    if mean is None or std is None:
        measured = prepared.statistics(data.train)
        mean, std = measured[0] if mean is None else mean, measured[1] if std is None else std
    return model.front_end.with_statistics(mean, std)


def check(settings: Settings, objective: Objective, prepared: PreparedSet) -> None:
    """Raises InputError for settings that do not fit the data."""
    data = settings.data
    if len(prepared.label_names) < 2 and not prepared.multi_label:
        raise InputError(
            f"{prepared.name} has one class alone ({', '.join(prepared.label_names)}): there is nothing to "
            "tell it from; give sounds of another one too (is the directory one level too low?)"
        )
    if objective.activation == "softmax" and prepared.multi_label:
        raise InputError(
            f"{prepared.name} has clips with several labels, and loss {settings.objective.loss} wants one: "
            "set config.loss=bce"
        )
    if objective.activation == "softmax" and settings.model.head == "frames":
        raise InputError(
            f"config.model.head=frames judges each class by itself, and loss {settings.objective.loss} asks "
            "which one it is: set config.loss=bce"
        )
    if objective.row.frames and prepared.events(data.train) is None:
        raise InputError(
            f"{prepared.name} has no events, and loss {settings.objective.loss} is of steps of time: set "
            "config.loss=bce (labels of clips teach frames too), or config.dataset.name=events"
        )
    for splits in (data.train, data.eval, data.test):
        if splits:
            prepared.num_examples(splits)  # raises for a split that is not there
    for key in ("eval", "test"):
        if (splits := getattr(data, key)) and not prepared.known_counts(splits).any():
            raise InputError(
                f"{prepared.name}: no clip of {' + '.join(splits)} has labels: set config.dataset.{key} to "
                "splits that have, for figures of them"
            )


def _check_labelled(settings: Settings, prepared: PreparedSet) -> None:
    """Raises InputError where there are training clips of which nothing is known, and nothing to do with
    them.
    """
    splits, known = settings.data.train, prepared.known(settings.data.train)
    if known is None or not (bare := int((~known.any(axis=1)).sum())):
        return
    told = f"{prepared.name}: {bare} of {len(known)} clips of {' + '.join(splits)} have no labels"
    if not (settings.objective.teacher or settings.objective.consistency):
        raise InputError(
            f"{told}, and without a teacher there is nothing to learn from them: set config.teacher (or "
            "config.consistency), or leave their split out of config.dataset.train"
        )
    if settings.run.sampling != "shuffle":
        raise InputError(
            f"{told}, and config.sampling={settings.run.sampling} draws clips by their labels: set "
            "config.sampling=shuffle"
        )


def labelled(settings: Settings, prepared: PreparedSet) -> PreparedSet:
    """The set with the training labels that the recipe names a table of: all that is counted, sampled and
    learned is of these.

    Raises InputError for clips of which nothing is known, where no teacher knows anything either.
    """
    if settings.data.labels:
        prepared, counts = relabelled(prepared, settings.data.labels, settings.data.train)
        told = ", ".join(f"{count} {what.replace('_', ' ')}" for what, count in counts.items())
        print(f"labels of {settings.data.labels}: {told}", file=sys.stderr)
    _check_labelled(settings, prepared)
    return prepared


def train_stream(settings: Settings, prepared: PreparedSet) -> TrainStream:
    """The sampled stream of the training splits."""
    splits, run = settings.data.train, settings.run
    return TrainStream(
        prepared.source(splits),
        _draws(settings, prepared),
        batch_size=run.batch_size,
        epochs=run.epochs,
        mixup=Mixup(run.mixup, run.mixup_alpha, sampled=run.mixup_of == "features"),
        views=settings.objective.teacher_views,
    )


def epoch_steps(settings: Settings, prepared: PreparedSet) -> int:
    """Steps of an epoch: as many as the recipe says, else as hold each clip once, else the least it says."""
    run, clips = settings.run, prepared.num_examples(settings.data.train)
    return run.epoch_steps or max(steps_per_epoch(clips, run.batch_size), run.least_steps)


def _draws(settings: Settings, prepared: PreparedSet) -> Draws:
    run, splits = settings.run, settings.data.train
    steps = epoch_steps(settings, prepared)
    whole = steps == steps_per_epoch(prepared.num_examples(splits), run.batch_size) and not run.epoch_steps
    same: dict[str, Any] = {"seed": run.seed, "size": 0 if whole else steps * run.batch_size}
    if run.sampling == "balanced":
        weights = balanced_weights(prepared.label_sets(splits), prepared.class_counts(splits))
        return WeightedDraws(weights, **same)
    if run.sampling == "round_robin":
        return RoundRobinDraws(prepared.label_sets(splits), len(prepared.label_names), **same)
    return Draws(prepared.num_examples(splits), **same)


def frame_grid(settings: Settings, objective: Objective, model: Any) -> FrameGrid | None:
    """Where the model's steps lie, if the objective asks what is heard in each. Raises InputError."""
    if not objective.row.frames:
        return None
    if not judges_steps(model):
        raise InputError(
            f"loss {settings.objective.loss} is of steps of time, which this model does not judge: set "
            "config.model.head=frames"
        )
    mixed_after = settings.run.mixup > 0 and settings.run.mixup_of == "features"
    if mixed_after and (settings.augment.roll or settings.augment.time_shift):
        raise InputError(
            "config.roll and config.time_shift move each of two sounds by itself where features are mixed, "
            "and events do not follow: set both to 0, or config.mixup_of=sounds"
        )
    return FrameGrid.of(model.front_end, model.time_steps)


def clip_shape(settings: Settings, prepared: PreparedSet, grid: FrameGrid | None = None) -> dict[str, Any]:
    """What `fit` and `batches` bring every clip to."""
    return {
        "grid": grid,
        "kind": prepared.kind,
        "num_frames": settings.run.num_frames,
        "num_classes": len(prepared.label_names),
        "front_end": prepared.front_end,
        "partly": prepared.known(settings.data.train) is not None,
    }
