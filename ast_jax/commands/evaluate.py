"""`evaluate`: metrics of finished models without training, one by one and as an ensemble."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from ml_collections import ConfigDict

from ast_jax.commands.cli import Flag
from ast_jax.commands.models import AS_IT_IS, Stated, tell
from ast_jax.config import flatten, of_run
from ast_jax.datasets.prepared import PreparedSet
from ast_jax.errors import InputError
from ast_jax.recipes import Recipe
from ast_jax.settings import Settings


def evaluate(
    sources: Annotated[list[Path], Flag("runs, checkpoints, files of saved scores", metavar="RUN")],
    *,
    recipe: Recipe | None = None,
    stated: Stated = AS_IT_IS,
    splits: Annotated[tuple[str, ...] | None, Flag("instead of the recipe's eval splits, by commas")] = None,
    again: Annotated[bool, Flag("compute scores, even where a run has them saved")] = False,
    out: Annotated[Path | None, Flag("save the scores here, for ensembles later", output=True)] = None,
) -> None:
    """Metrics without training.

      python -m ast_jax evaluate RUN [RUN ...] [--config=FILE]

    RUN is anything `load_model` takes, or a file of saved scores (scores.npz, predictions.npz); several are
    an ensemble (the mean of their scores). Data and splits are the recipe's; without --config, those the
    first run was trained with. A finished run of ours has its scores saved: unless --config names other
    data, or --splits, --again or another word on the checkpoint is given, they are taken as they are.

    Of a model that judges steps of time, on data with events, also how well these are found. With --again
    alone that and the thresholds of steps, chosen on the recipe's eval splits, are kept in the run.
    """
    from ast_jax.evaluation import events
    from ast_jax.evaluation.predictions import Predictions
    from ast_jax.training import workdir

    which = stated.which
    as_trained = not (splits or again) and stated == Stated(which=which)
    config = recipe.config() if recipe else None
    found: list[Predictions] = []
    names: Sequence[str] = ()  # of the classes, in the order of the first member that says
    prepared: PreparedSet | None = None
    chosen: tuple[str, ...] = ()
    for source in sources:
        own: Sequence[str] = ()
        figures: dict[str, Any] | None = None
        if source.suffix == ".npz" and (saved := Predictions.load(source)):
            member = saved
        elif as_trained and (path := saved_scores(source, which, config)):
            member, own = Predictions.read(path), (source / "labels.txt").read_text().splitlines()
            config = config or config_of_run(source)
            print(f"{source}: scores saved in {path.name}", file=sys.stderr)
            if which == "best":
                figures = json.loads((source / "results.json").read_text()).get("events")
        else:
            config = config or config_of_run(source)
            if prepared is None:
                prepared, chosen = open_for_evaluation(config, splits)
            member, steps, thresholds = scores_of(source, prepared, chosen, config, stated)
            own = prepared.label_names
            if steps is not None:
                # what decided the run's best epoch, and nothing that its model was trained on
                as_run = (
                    (recipe is None and splits is None and stated == AS_IT_IS)
                    and saved_scores(source, which, config) is not None
                    and not config.dataset.inside
                )
                figures = steps.figures(None if as_run else thresholds)
                if as_run:
                    workdir.write_events(source, steps.thresholds, figures)
                    print(f"{source}: events and thresholds of steps are kept in it", file=sys.stderr)
        if own and names and list(own) != list(names):
            member = member.with_classes(label_columns(source, own, names))
        names = names or own
        found.append(member)
        expected = config.dataset.expected if config is not None else 0
        report(str(source), member, expected, prepared, chosen, interval=len(sources) == 1)
        if figures:
            print(f"  {events.told(figures)}")
            if len(sources) > 1:
                print(f"{source}: events are told of each model by itself", file=sys.stderr)
    ensemble = Predictions.mean(found)
    if len(found) > 1:
        report(f"ensemble of {len(found)}", ensemble, expected, prepared, chosen)
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        ensemble.save(out)
        print(f"scores in {out}", file=sys.stderr)


def saved_scores(run: Path, which: str, config: ConfigDict | None) -> Path | None:
    """Where a finished run has the scores of these weights, if `config` names the splits they are of."""
    files = {"best": "scores.npz", "last": "predictions.npz", "average": "predictions_average.npz"}
    file = files[which]
    if not (run / file).is_file() or not (run / "results.json").is_file():
        return None
    own = flatten(config_of_run(run))
    same = ("dataset.name", "dataset.kind", "dataset.channels", "dataset.eval")
    asked = own if config is None else flatten(config)
    options = [{k: v for k, v in c.items() if k.startswith("dataset.options.")} for c in (own, asked)]
    return run / file if options[0] == options[1] and all(own[k] == asked[k] for k in same) else None


def config_of_run(run: Path) -> ConfigDict:
    """The recipe a run was trained with. Raises InputError if it is no run."""
    path = run / "config.json"
    if not (run / "model_card.json").is_file() or not path.is_file():
        raise InputError(
            f"{run} is not a run of ours: say with --config=configs/NAME.py what to evaluate it on"
        )
    return of_run(json.loads(path.read_text()))


def open_for_evaluation(
    config: ConfigDict, splits: tuple[str, ...] | None
) -> tuple[PreparedSet, tuple[str, ...]]:
    """The recipe's data, and the splits to evaluate. Raises InputError for a split that is not there."""
    from ast_jax.training.data import opened

    chosen = splits or tuple(config.dataset.eval)
    prepared = opened(Settings.of(config))
    prepared.num_examples(chosen)  # raises for a split that is not there
    return prepared, chosen


def scores_of(
    source: Path, prepared: PreparedSet, splits: tuple[str, ...], config: ConfigDict, stated: Stated
) -> tuple[Any, Any, np.ndarray | None]:
    """The scores of one model over the prepared set, in the set's own label order; those of steps of time and
    the model's thresholds [C] of these, where it has them.
    """
    from ast_jax.evaluation import events
    from ast_jax.evaluation.scoring import Scorer
    from ast_jax.objectives import plain_loss
    from ast_jax.sharding import make_layout
    from ast_jax.weights import load_model

    loaded = load_model(source, **stated.options())
    whose = "the checkpoint's own" if stated.mean is None and stated.std is None else "given"
    front_end = loaded.front_end
    print(f"{source}: mean {front_end.mean:.5g}, std {front_end.std:.5g} ({whose})", file=sys.stderr)
    tell(source, loaded.assumed)
    columns = label_columns(source, loaded.label_names, prepared.label_names)
    graphdef, arrays = loaded.parts
    score = Scorer(
        graphdef,
        make_layout(parallel=config.parallel, fsdp=config.fsdp),
        front_end=front_end,
        activation=loaded.activation,
        loss=plain_loss(loaded.activation),
        columns=columns.tolist(),
        num_frames=loaded.model.config.num_frames,
        batch_size=config.eval_batch_size or config.batch_size,
    )
    prepared = prepared.with_front_end(front_end)
    member, steps = score(arrays, prepared, splits), None
    if events.judged(loaded.model, prepared, splits):
        frames = score.frame_scores(arrays, prepared, splits)
        steps = events.StepScores.of(loaded.model, prepared, splits, frames)
    known = loaded.frame_thresholds
    return member, steps, None if known is None else np.array(known, float)[columns]


def label_columns(source: Path, model: Sequence[str], data: Sequence[str]) -> np.ndarray:
    """Where each class of the data set stands among the model's. Raises InputError unless all do."""
    if sorted(model) != sorted(data):
        only = sorted(set(data) ^ set(model))
        raise InputError(
            f"{source} knows {len(model)} classes, the data set has {len(data)}; not in both: "
            f"{', '.join(only[:5])}{' ...' if len(only) > 5 else ''}: "
            "evaluate on the data it was made for, or fine-tune it"
        )
    places = {name: i for i, name in enumerate(model)}
    return np.array([places[name] for name in data])


def report(
    name: str,
    predictions: Any,
    expected: int,
    prepared: PreparedSet | None,
    splits: Sequence[str],
    *,
    interval: bool = True,
) -> None:
    """One line of metrics, with a 95 % interval of mAP if wanted, and how much of the set was there."""
    from ast_jax.evaluation import metrics

    summary = predictions.summary()
    figures = "  ".join(f"{key} {summary[key]:.4f}" for key in metrics.HEADLINES)
    extent = f"{summary['num_examples']} clips"
    if expected:
        extent += (
            f", {summary['num_examples'] / expected:.1%} of the {expected} that the published figures are of"
        )
    if interval:
        low, high = metrics.interval_of(predictions.scores, predictions.targets, "mAP")
        extent = f"mAP 95 % interval {low:.4f} to {high:.4f}; {extent}"
    print(f"{name}: {figures}  ({extent})")
    coverage = prepared.metadata["notes"].get("coverage", {}) if prepared else {}
    for split in splits:
        if split in coverage:
            part = coverage[split]
            found = f"{part['found']} of {part['listed']} listed clips"
            print(f"  {split}: {found} were there ({part['share']:.1%})")
