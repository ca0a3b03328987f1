"""The commands that only bring rooms together: prepare, evaluate, convert."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from ast_jax.config import flatten
from ast_jax.datasets.records import PreparedSet
from ast_jax.errors import InputError
from ast_jax.recipe import parse


def prepare(argv: Sequence[str]) -> None:
    """Sound files to shards of features: python -m ast_jax prepare --config=FILE --config.dataset.source_dir=DIR

    On all cores of this machine, or with --beam_runner on a cluster's; flags not listed here are then Beam's own, as
    --flink_master=HOST:8081, or --project=P --region=R --temp_location=gs://...
    """
    config, _, rest = parse(argv)
    parser = argparse.ArgumentParser(
        "python -m ast_jax prepare", description=prepare.__doc__, allow_abbrev=False
    )
    parser.add_argument("--beam_runner", help="DirectRunner, FlinkRunner, SparkRunner, DataflowRunner ...")
    parser.add_argument(
        "--beam_place", action="append", default=[], metavar="HERE=THERE",
        help="a directory's name here and on Beam's workers, /mnt/sounds=gs://bucket/sounds; may be repeated",
    )  # fmt: skip
    args, flags = parser.parse_known_args(rest)
    if not args.beam_runner and (flags or args.beam_place):
        raise InputError(f"{(flags or ['--beam_place'])[0]} is for Apache Beam: give --beam_runner too")
    if wrong := [place for place in args.beam_place if "=" not in place]:
        raise InputError(f"--beam_place={wrong[0]}: write it as HERE=THERE")

    from ast_jax.datasets.prepare import BeamRun
    from ast_jax.training.setup import open_data

    places = dict(place.split("=", 1) for place in args.beam_place)
    beam = BeamRun(args.beam_runner, flags, places) if args.beam_runner else None
    print(open_data(config, beam).directory)


def convert(argv: Sequence[str]) -> None:
    """Weights of any known kind to another: python -m ast_jax convert SRC DST --to=huggingface"""
    from ast_jax.weights.convert import FORMATS
    from ast_jax.weights.convert import convert as write

    parser = argparse.ArgumentParser("python -m ast_jax convert", description=convert.__doc__)
    parser.add_argument("src", help="a run, a checkpoint file or directory, or a catalogue name")
    parser.add_argument("dst", help="the file or directory to write; must not exist")
    parser.add_argument("--to", required=True, choices=FORMATS)
    parser.add_argument("--which", default="best", help="of a run: best, last or average weights")
    parser.add_argument("--mean", type=float, help="normalisation, where the source does not say")
    parser.add_argument("--std", type=float)
    parser.add_argument("--num_frames", type=int, help="another length, 10 ms a frame: positions are adapted")
    args = parser.parse_args(argv)
    options = {
        key: getattr(args, key) for key in ("mean", "std", "num_frames") if getattr(args, key) is not None
    }
    for line in write(args.src, args.dst, to=args.to, which=args.which, **options):
        print(line)


def evaluate(argv: Sequence[str]) -> None:
    """Metrics without training: python -m ast_jax evaluate RUN [RUN ...] [--config=FILE]

    RUN is anything `load_model` takes, or a file of saved scores (scores.npz, predictions.npz); several are an ensemble
    (the mean of their scores). Data and splits are the recipe's; without --config, those the first run was trained with.
    A finished run of ours has its scores saved: unless --config names other data, or --splits, --mean, --std or --again are given,
    they are taken as they are.
    """
    recipe, rest = split_recipe(argv)
    parser = argparse.ArgumentParser("python -m ast_jax evaluate", description=evaluate.__doc__)
    parser.add_argument("sources", nargs="+", type=Path, metavar="RUN")
    parser.add_argument("--which", default="best", help="of a run: best, last or average weights")
    parser.add_argument("--splits", help="instead of the recipe's eval splits, by commas")
    parser.add_argument("--mean", type=float, help="instead of the checkpoint's own")
    parser.add_argument("--std", type=float)
    parser.add_argument(
        "--again", action="store_true", help="compute scores, even where a run has them saved"
    )
    parser.add_argument("--out", type=Path, help="save the scores here, for ensembles later")
    args = parser.parse_args(rest)

    from ast_jax.evaluation.evaluate import Predictions

    as_trained = not (args.splits or args.again) and args.mean is None and args.std is None
    config = parse(recipe)[0] if recipe else None
    found: list[Predictions] = []
    names: Sequence[str] = ()  # of the classes, in the order of the first member that says
    prepared: PreparedSet | None = None
    splits: tuple[str, ...] = ()
    for source in args.sources:
        own: Sequence[str] = ()
        if source.suffix == ".npz" and (saved := Predictions.load(source)):
            member = saved
        elif as_trained and (path := saved_scores(source, args.which, config)):
            member, own = Predictions.read(path), (source / "labels.txt").read_text().splitlines()
            config = config or config_of_run(source)
            print(f"{source}: scores saved in {path.name}", file=sys.stderr)
        else:
            if prepared is None:
                config = config or config_of_run(source)
                prepared, splits = open_for_evaluation(config, args.splits)
            member = scores_of(
                source, prepared, splits, config, which=args.which, mean=args.mean, std=args.std
            )
            own = prepared.label_names
        if own and names and list(own) != list(names):
            member = member.with_classes(label_columns(source, own, names))
        names = names or own
        found.append(member)
        expected = config.dataset.expected if config is not None else 0
        report(str(source), member, expected, prepared, splits, interval=len(args.sources) == 1)
    ensemble = Predictions.mean(found)
    if len(found) > 1:
        report(f"ensemble of {len(found)}", ensemble, expected, prepared, splits)
    if args.out:
        ensemble.save(args.out)
        print(f"scores in {args.out}", file=sys.stderr)


def split_recipe(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """The flags of a recipe, `--config FILE`, `--config=FILE` and `--config.KEY VALUE` or `=VALUE`, and everything else."""
    recipe: list[str] = []
    rest: list[str] = []
    waiting = False  # for the value of the flag before
    for argument in argv:
        is_recipe = waiting or argument.partition("=")[0].split(".")[0] == "--config"
        waiting = is_recipe and not waiting and "=" not in argument
        (recipe if is_recipe else rest).append(argument)
    return recipe, rest


def saved_scores(run: Path, which: str, config: ConfigDict | None) -> Path | None:
    """Where a finished run of ours has the scores of these weights over its evaluation splits, if `config` names the same ones."""
    file = {"best": "scores.npz", "last": "predictions.npz", "average": "predictions_average.npz"}.get(which)
    if not file or not (run / file).is_file() or not (run / "results.json").is_file():
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
    from ast_jax.config import base

    config = base()
    stored = json.loads(path.read_text())
    if isinstance(stored["model"]["remat"], bool):  # runs from before there were policies
        stored["model"]["remat"] = "blocks" if stored["model"]["remat"] else "none"
    with config.unlocked():
        config.update(ConfigDict(stored))
    return config


def open_for_evaluation(config: ConfigDict, splits: str | None) -> tuple[PreparedSet, tuple[str, ...]]:
    from ast_jax.training.setup import open_data

    chosen = tuple(splits.split(",")) if splits else tuple(config.dataset.eval)
    prepared = open_data(config)
    prepared.num_examples(chosen)  # raises for a split that is not there
    return prepared, chosen


def scores_of(
    source: Path, prepared: PreparedSet, splits: tuple[str, ...], config: ConfigDict, *, which: str, mean, std
):
    """The scores of one model over the prepared set, in the set's own label order."""
    from ast_jax.models import split
    from ast_jax.training.score import Scorer
    from ast_jax.training.sharding import make_layout
    from ast_jax.weights import load_model

    loaded = load_model(source, which=which, mean=mean, std=std)
    whose = "given" if mean is not None or std is not None else "the checkpoint's own"
    print(f"{source}: mean {loaded.mean:.5g}, std {loaded.std:.5g} ({whose})", file=sys.stderr)
    columns = label_columns(source, loaded.label_names, prepared.label_names)
    graphdef, params = split(loaded.model)
    # the head's columns in the set's order: from there on there is one order of classes
    params |= {key: params[key][..., columns] for key in ("head/kernel", "head/bias")}
    score = Scorer(
        graphdef,
        make_layout(parallel=config.parallel, fsdp=config.fsdp),
        mean=loaded.mean,
        std=loaded.std,
        loss="bce" if loaded.multi_label else "ce",
        num_frames=loaded.model.config.num_frames,
        batch_size=config.batch_size,
    )
    return score(params, prepared, splits)


def label_columns(source: Path, model: Sequence[str], data: Sequence[str]) -> np.ndarray:
    """Where each class of the data set stands among the model's. Raises InputError unless they are the same classes."""
    if sorted(model) != sorted(data):
        only = sorted(set(data) ^ set(model))
        raise InputError(
            f"{source} knows {len(model)} classes, the data set has {len(data)}; not in both: {', '.join(only[:5])}"
            f"{' ...' if len(only) > 5 else ''}: evaluate on the data it was made for, or fine-tune it"
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
    figures = "  ".join(f"{key} {summary[key]:.4f}" for key in ("accuracy", "mAP", "auc", "d_prime"))
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
            print(
                f"  {split}: {part['found']} of {part['listed']} listed clips were there ({part['share']:.1%})"
            )
