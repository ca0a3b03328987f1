"""The training loop: data, model, state, evaluators, loop, results; told in that order in one function.

The work directory is all a run leaves and all it needs to go on: the same command resumes where the newest whole
checkpoint stands.
"""

import contextlib
import dataclasses
import functools
import importlib.metadata
import json
import math
import os
import platform
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from ast_jax.checkpoints import Store, load_params
from ast_jax.config import flatten
from ast_jax.datasets.pipeline import Batch, EvalStream, TrainStream, batches, steps_per_epoch
from ast_jax.errors import Diverged, InputError
from ast_jax.evaluation import metrics
from ast_jax.evaluation.evaluate import Predictions, eval_step, predict_all
from ast_jax.models import AST, split
from ast_jax.training import setup, sharding
from ast_jax.training.journal import Clock, Journal, duration, without_nan
from ast_jax.training.optim import adam, rate_stairs, schedule
from ast_jax.training.step import Recipe, init_state, inputs, train_step

# What may differ between a run and its continuation: none of these changes what was already computed.
FREE_TO_CHANGE = ("epochs", "keep_last", "save_every", "log_every", "num_threads", "dataset.source_dir", "dataset.data_dir")
STATUS_TERMINATED = 143


def train(config: ConfigDict, workdir: Path) -> dict[str, Any]:
    """Trains, evaluates after each epoch, and returns what it writes to results.json.

    Raises InputError for settings or data that do not fit, Diverged for a loss that is not finite.
    """
    with contextlib.ExitStack() as at_exit:
        return _train(config, Path(workdir).absolute(), at_exit)


def _train(config: ConfigDict, workdir: Path, at_exit: contextlib.ExitStack) -> dict[str, Any]:
    began = time.monotonic()

    # -- Data
    prepared = setup.open_data(config)
    setup.check(config, prepared)
    mean, std = setup.statistics(config, prepared)
    mesh = sharding.make_mesh(config.batch_size)
    split_rows, everywhere = sharding.split_over_data(mesh), sharding.replicated(mesh)
    shape = {
        "kind": prepared.kind,
        "batch_size": config.batch_size,
        "num_frames": config.num_frames,
        "num_classes": len(prepared.label_names),
        "num_threads": config.num_threads,
    }
    source = prepared.source(config.dataset.train)
    stream = TrainStream(source, batch_size=config.batch_size, epochs=config.epochs, seed=config.seed)
    epoch_steps = steps_per_epoch(len(source), config.batch_size)
    total_steps = epoch_steps * config.epochs

    # -- Model and optimiser
    model_config = setup.model_config(config, len(prepared.label_names))
    graphdef, params = split(initial_model(config, model_config))
    stairs = rate_stairs(
        config.lr,
        steps_per_epoch=epoch_steps,
        warmup_steps=config.lr_warmup_steps,
        warmup_stair=config.lr_warmup_stair,
        decay=config.lr_decay,
        decay_epochs=config.lr_decay_epochs,
    )
    rate = schedule(*stairs)
    optimizer = adam(rate, b1=config.adam_b1, b2=config.adam_b2, eps=config.adam_eps, weight_decay=config.weight_decay)
    recipe = setup.step_recipe(config, mean, std)
    step_fn = jax.jit(
        functools.partial(train_step, graphdef=graphdef, optimizer=optimizer, recipe=recipe),
        in_shardings=(everywhere, split_rows),
        out_shardings=(everywhere, everywhere),
        donate_argnums=0,
    )

    # -- State: this directory's newest checkpoint, or a fresh start
    open_workdir(workdir, config, model_config, prepared.label_names, prepared.multi_label, mean, std)
    state = jax.device_put(init_state(params, optimizer), everywhere)
    store = at_exit.enter_context(contextlib.closing(Store(workdir, keep_last=config.keep_last)))
    restored = store.restore(state)
    meta: dict[str, Any] = {"offset": 0, "seconds": 0.0, "best": None, "last": None}
    if restored is not None:
        state, meta = restored.state, {**meta, **restored.meta}
        state = jax.device_put(state, everywhere)
    first_step = int(state["step"])
    journal = Journal(workdir, offset=meta["offset"], first_step=first_step, total_steps=total_steps)
    at_exit.enter_context(contextlib.closing(journal))
    if first_step:
        journal.say(f"resuming {workdir} at step {first_step} of {total_steps}")

    # -- Evaluator
    score = jax.jit(
        functools.partial(eval_step, graphdef=graphdef, mean=mean, std=std, loss=config.loss),
        in_shardings=(everywhere, split_rows),
        out_shardings=split_rows,
    )

    def evaluate(params: Mapping[str, jax.Array], splits: tuple[str, ...]) -> Predictions:
        eval_stream = EvalStream(prepared.source(splits), batch_size=config.batch_size)
        rows = journal.watch(batches(eval_stream, **shape), what="evaluating", total=len(eval_stream) // config.batch_size)
        return predict_all(lambda batch: score(params, jax.device_put(dict(batch), split_rows)), rows, prepared.ids(splits))

    # -- Loop
    def save(metric: float | None = None) -> None:
        journal.sync()
        record = {**meta, "offset": journal.offset, "seconds": meta["seconds"] + time.monotonic() - began}
        store.save(state, record, metric=metric)

    stop = StopRequest()
    clock = Clock()
    train_batches = sharding.to_device(batches(stream, **shape, start_step=first_step), split_rows)
    loss: Any = None
    if first_step == 0:
        write_examples(workdir, stream, next(batches(stream, **shape)), recipe)
    for step, batch in enumerate(clock.timed(train_batches), start=first_step + 1):
        epoch = (step - 1) // epoch_steps + 1
        state, figures = step_fn(state, batch)
        ends_epoch = step % epoch_steps == 0
        if step == 1 or step % config.log_every == 0 or ends_epoch:
            loss = check_finite(figures, step, batch)
            row = {"kind": "train", "step": step, "epoch": epoch, "loss": loss, "grad_norm": float(figures["grad_norm"])}
            row |= {"lr": float(rate(np.int32(step - 1))), **clock.figures(config.batch_size)}
            journal.write(row)
            journal.show(row, total_steps=total_steps, seconds_left=row["step_s"] * (total_steps - step))
            clock.restart()
        journal.advance(step)
        if ends_epoch:
            predictions = evaluate(state["params"], config.dataset.eval)
            summary = predictions.summary()
            row = {"kind": "eval", "step": step, "epoch": epoch, **summary}
            journal.write(row)
            journal.show(row, total_steps=total_steps)
            meta["last"] = {"epoch": epoch, "step": step, **summary}
            value = summary[config.metric]
            if meta["best"] is None or value > meta["best"]["value"]:
                meta["best"] = {"epoch": epoch, "step": step, "metric": config.metric, "value": value}
            predictions.save(workdir / "predictions.npz")
            save(metric=value)
            clock.restart()
        elif config.save_every and step % config.save_every == 0:
            check_finite(figures, step, batch)
            save()
        if stop.requested and step < total_steps:
            if not ends_epoch:
                save()
            store.wait()
            journal.say(f"stopped by SIGTERM at step {step} of {total_steps}, saved: the same command goes on from there")
            sys.exit(STATUS_TERMINATED)
    store.wait()

    # -- Results
    results = finish(config, workdir, prepared.label_names, meta, evaluate, started=began)
    journal.say(f"done in {duration(results['seconds'])}: {workdir}")
    return results


def initial_model(config: ConfigDict, model_config) -> AST:
    return AST(model_config, rngs=nnx.Rngs(config.seed))


def open_workdir(workdir: Path, config: ConfigDict, model_config, label_names, multi_label, mean, std) -> None:
    """Writes what a run is: config.json, labels.txt, model_card.json. Raises InputError if it was another run's directory."""
    workdir.mkdir(parents=True, exist_ok=True)
    path = workdir / "config.json"
    new = json.loads(config.to_json_best_effort())
    if path.exists():
        old, now = flatten(ConfigDict(json.loads(path.read_text()))), flatten(config)
        differs = [key for key in sorted({*old, *now} - set(FREE_TO_CHANGE)) if old.get(key) != now.get(key)]
        if differs:
            listed = ", ".join(f"{key} {old.get(key)!r} -> {now.get(key)!r}" for key in differs)
            raise InputError(f"{workdir} holds a run with other settings ({listed}): give another --workdir, or the same settings")
    card = {
        "model": dataclasses.asdict(model_config),
        "label_names": list(label_names),
        "mean": mean,
        "std": std,
        "multi_label": multi_label,
        "sample_rate_hz": 16_000,
        "channels": config.dataset.channels,
        "loss": config.loss,
    }
    write_json(path, new)
    write_json(workdir / "model_card.json", card)
    (workdir / "labels.txt").write_text("".join(f"{name}\n" for name in label_names))


def write_examples(workdir: Path, stream: TrainStream, batch: Batch, recipe: Recipe) -> None:
    """examples.npz: up to 8 clips of the first batch as the model sees them: padded, masked, normalised."""
    few = {key: value[batch["mask"] > 0][:8] for key, value in batch.items()}
    fbank = jax.jit(functools.partial(inputs, recipe=recipe))(few, np.int32(0))
    ids = [stream[int(position)]["id"] for position in few["index"]]
    np.savez_compressed(workdir / "examples.npz", fbank=np.asarray(fbank), ids=ids, labels=few["labels"])


def check_finite(figures: Mapping[str, jax.Array], step: int, batch: Mapping[str, jax.Array]) -> float:
    """The loss as a float. Raises Diverged, with the step and the positions of its clips, if it is not a number."""
    loss = float(figures["loss"])
    if not math.isfinite(loss):
        raise Diverged(
            f"the loss is {loss} at step {step} (stream positions {np.asarray(batch['index']).tolist()}): "
            "lower config.lr, or look at those clips; the last checkpoint is from before and is kept"
        )
    return loss


def finish(config: ConfigDict, workdir: Path, label_names, meta: dict, evaluate, *, started: float) -> dict[str, Any]:
    """Evaluates the best weights on the test splits, if any; writes results.json, plots and report."""
    from ast_jax.evaluation.plots import write_plots
    from ast_jax.evaluation.report import write_report

    with np.load(workdir / "predictions.npz") as last:
        per_class = metrics.per_class(last["scores"], last["targets"], label_names)
    final = meta["last"]
    results = {
        "metrics": {key: final[key] for key in ("accuracy", "mAP", "auc", "d_prime")},
        "epoch": final["epoch"],
        "step": final["step"],
        "num_examples": final["num_examples"],
        "last": final,
        "best": meta["best"],
        "per_class": per_class,
        "seconds": meta["seconds"] + time.monotonic() - started,
        "versions": versions(),
        "devices": [str(device) for device in jax.devices()],
    }
    if config.dataset.test:
        predictions = evaluate(load_params(workdir, "best"), config.dataset.test)
        predictions.save(workdir / "predictions_test.npz")
        results["test"] = {"epoch": meta["best"]["epoch"], **predictions.summary()}
    write_json(workdir / "results.json", without_nan(results))
    write_plots(workdir)
    write_report(workdir)
    return results


def versions() -> dict[str, str]:
    """Python, the platform and the libraries that decide numbers and speed."""
    names = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "tensorflow-datasets", "numpy", "ast_jax")
    found = {"python": platform.python_version(), "platform": platform.platform()}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed as a package"
    return found


def write_json(path: Path, value: Any) -> None:
    """Writes all of it or nothing."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n")
    os.replace(temporary, path)


class StopRequest:
    """Whether SIGTERM has come since this was made: machines that are taken away say so first."""

    def __init__(self):
        self.requested = False
        signal.signal(signal.SIGTERM, self._note)

    def _note(self, *_):
        self.requested = True
