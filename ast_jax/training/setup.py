"""From a recipe to the plain arguments that the rooms below take: the last place, going down, that knows ConfigDict keys."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import optax
from ml_collections import ConfigDict

from ast_jax.datasets.pipeline import TrainStream, balanced_weights
from ast_jax.datasets.prepare import BeamRun, find, prepare
from ast_jax.datasets.prepared import PreparedSet
from ast_jax.datasets.relabel import relabelled
from ast_jax.errors import InputError
from ast_jax.models import AST, ASTConfig
from ast_jax.training.optim import adam, rate_ramp, rate_stairs, schedule, taken
from ast_jax.training.step import Recipe


def open_data(config: ConfigDict, beam: BeamRun | None = None) -> PreparedSet:
    """The prepared set a recipe names, preparing it first (on `beam`) where its sounds are at hand.

    Raises InputError if there are neither shards nor sounds, and if there are no shards yet where several processes would
    make them at once.
    """
    data = config.dataset
    if not data.name:
        raise InputError("the recipe names no data set: set config.dataset.name")
    where = {
        "data_dir": data.data_dir,
        "kind": data.kind,
        "channels": data.channels,
        "options": dict(data.options),
    }
    source_dir = sounds_dir(config)
    alone = jax.process_count() == 1
    if data.name == "synthetic":
        from ast_jax.datasets import synthetic

        synthetic.ensure_sounds(str(source_dir), **where["options"])
    found = find(data.name, source_dir=source_dir, **where)
    if found is not None:
        return found
    if not alone:
        raise InputError(
            f"no prepared {data.kind} shards of {data.name!r} in {data.data_dir!r}: before several processes train, run "
            "`python -m ast_jax prepare` once with the same --config flags"
        )
    if source_dir is None:
        raise InputError(
            f"no prepared {data.kind} shards of {data.name!r} in {data.data_dir!r} and no sounds to make them from: "
            "set --config.dataset.source_dir to the directory of sounds"
        )
    return prepare(data.name, source_dir=source_dir, max_skipped=data.max_skipped, beam=beam, **where)


def sounds_dir(config: ConfigDict) -> str | None:
    """Where the sound files are, if the recipe says so; the built-in ones have a place of their own."""
    data = config.dataset
    own = str(Path(data.data_dir, "synthetic", "sounds")) if data.name == "synthetic" else None
    return data.source_dir or own


def model_config(config: ConfigDict, num_classes: int) -> ASTConfig:
    """The model's shape: the variant's, where the recipe does not say another width, depth or number of heads."""
    own = {key: config.model[key] for key in ("width", "depth", "num_heads") if config.model[key] is not None}
    same = {key: config.model[key] for key in ("patch_shape", "strides", "distilled", "dtype", "remat")}
    model = ASTConfig.variant(
        config.model.variant, num_classes=num_classes, num_frames=config.num_frames, **{**same, **own}
    )
    (rows, columns), out = model.grid, config.patchout
    left = (rows - out.freq) * (columns - out.time) - out.patches
    if min(out.freq, out.time, out.patches, rows - out.freq - 1, columns - out.time - 1, left - 1) < 0:
        raise InputError(
            f"config.patchout takes {out.freq} rows, {out.time} columns and {out.patches} patches of {rows} x {columns}: "
            "leave at least one, and take none below 0"
        )
    return model


def statistics(config: ConfigDict, prepared: PreparedSet) -> tuple[float, float]:
    """The recipe's mean and standard deviation, or those measured on the clean training clips."""
    mean, std = config.dataset.mean, config.dataset.std
    if mean is None or std is None:
        measured = prepared.statistics(config.dataset.train)
        mean, std = measured[0] if mean is None else mean, measured[1] if std is None else std
    return mean, std


def step_recipe(config: ConfigDict, mean: float, std: float, frozen: frozenset[str] = frozenset()) -> Recipe:
    """What the training step does besides model and optimiser."""
    same = (
        "loss",
        "seed",
        "freq_mask",
        "time_mask",
        "noise",
        "roll",
        "time_shift",
        "gain_db",
        "label_smoothing",
        "accumulate",
        "ema",
    )
    patchout = tuple(config.patchout[key] for key in ("freq", "time", "patches"))
    return Recipe(mean=mean, std=std, frozen=frozen, patchout=patchout, **{key: config[key] for key in same})


def train_stream(config: ConfigDict, prepared: PreparedSet) -> TrainStream:
    """The sampled stream of the training splits."""
    splits, weights = config.dataset.train, None
    if config.dataset.labels:
        prepared, counts = relabelled(prepared, config.dataset.labels, splits)
        told = ", ".join(f"{count} {what.replace('_', ' ')}" for what, count in counts.items())
        print(f"labels of {config.dataset.labels}: {told}", file=sys.stderr)
    if config.sampling == "balanced":
        weights = balanced_weights(prepared.label_sets(splits), prepared.class_counts(splits))
    return TrainStream(
        prepared.source(splits),
        batch_size=config.batch_size,
        epochs=config.epochs,
        seed=config.seed,
        mixup=config.mixup,
        weights=weights,
    )


def clip_shape(config: ConfigDict, prepared: PreparedSet) -> dict[str, Any]:
    """What `fit` and `batches` bring every clip to."""
    return {
        "kind": prepared.kind,
        "num_frames": config.num_frames,
        "num_classes": len(prepared.label_names),
    }


def learning_rate(config: ConfigDict, epoch_steps: int) -> Callable:
    """Step -> rate."""
    same: dict[str, Any] = {
        "steps_per_epoch": epoch_steps,
        "warmup_steps": config.lr_warmup_steps,
        "decay": config.lr_decay,
        "decay_epochs": taken(config.lr_decay_epochs, config.lr_decay_end),
    }
    if config.lr_warmup == "linear":
        return schedule(*rate_ramp(config.lr, **same))
    return schedule(*rate_stairs(config.lr, warmup_stair=config.lr_warmup_stair, **same))


def optimizer(config: ConfigDict, rate: Callable, factors: dict[str, float]) -> optax.GradientTransformation:
    return adam(
        rate,
        b1=config.adam_b1,
        b2=config.adam_b2,
        eps=config.adam_eps,
        weight_decay=config.weight_decay,
        clip_norm=config.clip_norm,
        factors=None if set(factors.values()) == {1.0} else factors,
    )


def start_from(model: AST, config: ConfigDict) -> str:
    """Gives the model the weights of `config.init_from`; returns one line on what was taken, cut, resized, left new."""
    from ast_jax.weights import initialise

    return initialise(model, config.init_from, rgb=config.init_rgb, positions=config.init_positions)


def check(config: ConfigDict) -> None:
    """Raises InputError for settings that are out of range or contradict each other."""
    choices: dict[str, dict[str, str | None]] = {
        "loss": {"bce": "several labels a clip", "ce": "one"},
        "metric": dict.fromkeys(("accuracy", "mAP", "auc", "d_prime")),
        "sampling": dict.fromkeys(("shuffle", "balanced")),
        "lr_warmup": {"repo": "in stairs, as published", "linear": None},
    }
    for key, known in choices.items():
        if config[key] not in known:
            listed = [name + (f" ({meaning})" if meaning else "") for name, meaning in known.items()]
            raise InputError(
                f"config.{key} is {config[key]!r}: choose {', '.join(listed[:-1])} or {listed[-1]}"
            )
    least = dict.fromkeys(("epochs", "batch_size", "log_every", "num_threads", "accumulate", "keep_last"), 1)
    zero = dict.fromkeys(("seed", "save_every", "profile_steps", "roll", "time_shift"), 0)
    for key, smallest in (least | zero).items():
        if config[key] < smallest:
            raise InputError(f"config.{key} is {config[key]}: it must be at least {smallest}")
    for key in ("mixup", "label_smoothing", "ema"):
        if not 0 <= config[key] <= 1:
            raise InputError(f"config.{key} is {config[key]}: it must be from 0 to 1")
    if config.average_epochs:
        span = tuple(config.average_epochs)
        if len(span) != 2 or not 1 <= span[0] <= span[1]:
            raise InputError(f"config.average_epochs is {span}: it is (first, last), counted from 1, or ()")
    if any(epoch < 2 for epoch in config.lr_decay_epochs):
        raise InputError(
            f"config.lr_decay_epochs is {tuple(config.lr_decay_epochs)}: epoch 1 begins at config.lr, so the first decay is "
            "at epoch 2; for a smaller first rate lower config.lr"
        )


def check_data(config: ConfigDict, prepared: PreparedSet) -> None:
    """Raises InputError for settings that do not fit the data."""
    if config.loss == "ce" and prepared.multi_label:
        raise InputError(
            f"{prepared.name} has clips with several labels, and loss ce wants one: set config.loss=bce"
        )
    for splits in (config.dataset.train, config.dataset.eval, config.dataset.test):
        if splits:
            prepared.num_examples(splits)  # raises for a split that is not there
