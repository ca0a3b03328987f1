"""The training loop: data, model, state, evaluator, loop, results; told in that order in one function.

The work directory is all a run leaves and all it needs to go on: the same command resumes where the newest whole
checkpoint stands.
"""

import contextlib
import functools
import math
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from ast_jax.checkpoints import Store, load_params
from ast_jax.datasets.pipeline import EvalStream, batches, steps_per_epoch
from ast_jax.errors import Diverged
from ast_jax.evaluation import metrics
from ast_jax.evaluation.evaluate import Predictions, eval_step, predict_all
from ast_jax.models import AST, split
from ast_jax.training import setup, sharding
from ast_jax.training.journal import Clock, Journal, duration
from ast_jax.training.optim import layer_factors
from ast_jax.training.step import init_state, train_step
from ast_jax.training.workdir import model_card, open_workdir, write_examples, write_results

STATUS_TERMINATED = 128 + signal.SIGTERM
PER_EPOCH = ("average", "cumulative")  # what of the state changes with epochs, not with steps


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
    stream = setup.train_stream(config, prepared)
    epoch_steps = steps_per_epoch(prepared.num_examples(config.dataset.train), config.batch_size)
    total_steps = epoch_steps * config.epochs

    # -- Model and optimiser
    model_config = setup.model_config(config, len(prepared.label_names))
    model = AST(model_config, rngs=nnx.Rngs(config.seed))
    graphdef, params = split(model)
    factors = layer_factors(params, depth=model_config.depth, decay=config.layer_decay, freeze=config.freeze)
    rate = setup.learning_rate(config, epoch_steps)
    optimizer = setup.optimizer(config, rate, factors)
    recipe = setup.step_recipe(
        config, mean, std, frozenset(path for path, factor in factors.items() if factor == 0)
    )
    step_fn = jax.jit(
        functools.partial(train_step, graphdef=graphdef, optimizer=optimizer, recipe=recipe),
        in_shardings=(everywhere, split_rows),
        out_shardings=(everywhere, everywhere),
        donate_argnums=0,
    )

    # -- State: this directory's newest checkpoint; else other weights; else from scratch
    fresh = not any(Path(workdir, "checkpoints").glob("[0-9]*"))
    init = (
        setup.start_from(model, config) if fresh and config.init_from else None
    )  # before anything is written
    card = model_card(
        model_config,
        label_names=prepared.label_names,
        mean=mean,
        std=std,
        multi_label=prepared.multi_label,
        channels=config.dataset.channels,
    )
    open_workdir(workdir, config, card)
    state = init_state(params, optimizer, ema=config.ema > 0)
    if config.average_epochs:
        state["average"] = jax.tree.map(jnp.zeros_like, dict(params))
    if config.cumulative:
        state["cumulative"] = jnp.zeros(
            (prepared.num_examples(config.dataset.eval), len(prepared.label_names))
        )
    state = jax.device_put(state, everywhere)
    store = at_exit.enter_context(contextlib.closing(Store(workdir, state, keep_last=config.keep_last)))
    restored = store.restore(state)
    meta: dict[str, Any] = {"offset": 0, "seconds": 0.0, "best": None, "last": None, "init": None}
    if restored is not None:
        state, meta = jax.device_put(restored.state, everywhere), {**meta, **restored.meta}
    elif config.init_from:
        meta["init"] = init or setup.start_from(model, config)
        state |= jax.device_put(init_state(split(model)[1], optimizer, ema=config.ema > 0), everywhere)
    first_step = int(state["step"])
    journal = Journal(workdir, offset=meta["offset"], first_step=first_step, total_steps=total_steps)
    at_exit.enter_context(contextlib.closing(journal))
    if first_step:
        journal.say(f"resuming {workdir} at step {first_step} of {total_steps}")
    elif meta["init"]:
        journal.say(f"starting from {meta['init']}")

    # -- Evaluator
    score = jax.jit(
        functools.partial(eval_step, graphdef=graphdef, mean=mean, std=std, loss=config.loss),
        in_shardings=(everywhere, split_rows),
        out_shardings=split_rows,
    )

    def evaluate(params: Mapping[str, Any], splits: tuple[str, ...]) -> Predictions:
        eval_stream = EvalStream(prepared.source(splits), batch_size=config.batch_size)
        rows = journal.watch(
            batches(eval_stream, **shape), what="evaluating", total=len(eval_stream) // config.batch_size
        )
        return predict_all(
            lambda batch: score(params, jax.device_put(dict(batch), split_rows)), rows, prepared.ids(splits)
        )

    def save(metric: float | None = None) -> None:
        journal.sync()
        record = {**meta, "offset": journal.offset, "seconds": meta["seconds"] + time.monotonic() - began}
        store.save(state, record, metric=metric)

    # -- Loop
    stop, clock = at_exit.enter_context(contextlib.closing(StopRequest())), Clock()
    if first_step == 0:
        with contextlib.closing(batches(stream, **shape)) as rows:
            write_examples(workdir, stream, next(rows), recipe)
    rows = at_exit.enter_context(contextlib.closing(batches(stream, **shape, start_step=first_step)))
    for step, batch in enumerate(clock.timed(sharding.to_device(rows, split_rows)), start=first_step + 1):
        epoch = (step - 1) // epoch_steps + 1
        stepped, figures = step_fn({key: state[key] for key in state if key not in PER_EPOCH}, batch)
        state |= stepped
        ends_epoch = step % epoch_steps == 0
        if step == 1 or step % config.log_every == 0 or ends_epoch:
            row = {"kind": "train", "step": step, "epoch": epoch, "loss": check_finite(figures, step, batch)}
            row |= {"grad_norm": float(figures["grad_norm"]), "lr": float(rate(np.int32(step - 1)))}
            row |= clock.figures(config.batch_size)
            journal.write(row)
            journal.show(row, total_steps=total_steps, seconds_left=row["step_s"] * (total_steps - step))
            clock.restart()
        journal.advance(step)
        if ends_epoch:
            predictions = evaluate(state.get("ema", state["params"]), config.dataset.eval)
            predictions.save(workdir / "predictions.npz")
            summary = predictions.summary()
            if config.cumulative:
                state["cumulative"] += predictions.scores
                ensemble = metrics.summary(np.asarray(state["cumulative"]) / epoch, predictions.targets)
                summary[f"ensemble_{config.metric}"] = ensemble[config.metric]
            if config.average_epochs and config.average_epochs[0] <= epoch <= config.average_epochs[1]:
                state["average"] = running_mean(
                    state["average"], state["params"], epoch - config.average_epochs[0] + 1
                )
            gap = setup.published_gap(config, epoch, summary)
            row = {"kind": "eval", "step": step, "epoch": epoch, **summary, **gap}
            journal.write(row)
            journal.show(row, total_steps=total_steps)
            meta["last"] = {"epoch": epoch, "step": step, **summary, **gap}
            if meta["best"] is None or summary[config.metric] >= meta["best"]["value"]:
                meta["best"] = {
                    "epoch": epoch,
                    "step": step,
                    "metric": config.metric,
                    "value": summary[config.metric],
                }
            save(metric=summary[config.metric])
            clock.restart()
        elif config.save_every and step % config.save_every == 0:
            check_finite(figures, step, batch)
            save()
        if stop.requested and step < total_steps:
            if not ends_epoch:
                save()
            store.wait()
            journal.say(
                f"stopped at step {step} of {total_steps}, saved: the same command goes on from there"
            )
            sys.exit(STATUS_TERMINATED)
    store.wait()

    # -- Results
    found: dict[str, Any] = {key: meta[key] for key in ("last", "best", "init")}
    if config.average_epochs and config.average_epochs[0] <= config.epochs:
        averaged = evaluate(state["average"], config.dataset.eval)
        averaged.save(workdir / "predictions_average.npz")
        first, last = config.average_epochs
        found["average"] = {"epochs": [first, min(last, config.epochs)], **averaged.summary()}
    if config.dataset.test:
        tested = evaluate(load_params(workdir, "best"), config.dataset.test)
        tested.save(workdir / "predictions_test.npz")
        found["test"] = {"epoch": meta["best"]["epoch"], **tested.summary()}
    found["seconds"] = meta["seconds"] + time.monotonic() - began
    results = write_results(workdir, prepared.label_names, found)
    journal.say(f"done in {duration(found['seconds'])}: {workdir}")
    return results


@jax.jit
def running_mean(mean, value, count):
    """The mean of `count` values from the mean of all but the last, and the last."""
    return jax.tree.map(lambda m, v: m + (v - m) / count, mean, value)


def check_finite(figures: Mapping[str, jax.Array], step: int, batch: Mapping[str, jax.Array]) -> float:
    """The loss as a float. Raises Diverged, with the step and the positions of its clips, if it is not a number."""
    loss = float(figures["loss"])
    if not math.isfinite(loss):
        raise Diverged(
            f"the loss is {loss} at step {step} (stream positions {np.asarray(batch['index']).tolist()}): "
            "lower config.lr, or look at those clips; the last checkpoint is from before and is kept"
        )
    return loss


class StopRequest:
    """Whether SIGTERM has come: machines that are taken away send it first. The loop then saves after the step at hand."""

    def __init__(self):
        self.requested = False
        self._before = signal.signal(signal.SIGTERM, self._note)

    def _note(self, *_) -> None:
        self.requested = True

    def close(self) -> None:
        signal.signal(signal.SIGTERM, self._before)
