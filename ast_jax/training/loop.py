"""The training loop: from wherever the work directory stands to its results.

The work directory is all a run leaves and all it needs to go on: the same command resumes where the newest whole
checkpoint stands. On several hosts every process runs all of this, and the first one writes.
"""

import contextlib
import math
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import jax
import numpy as np
from flax import nnx
from jaxtyping import Array
from ml_collections import ConfigDict

from ast_jax.checkpoints import Store, load_params, saved_steps
from ast_jax.datasets.pipeline import HostRows, batches, steps_per_epoch
from ast_jax.errors import Diverged
from ast_jax.evaluation.evaluate import Predictions
from ast_jax.evaluation.report_sounds import write_sounds
from ast_jax.features.spec import span
from ast_jax.models import AST
from ast_jax.training import epochs, hosts, setup, sharding
from ast_jax.training.journal import Clock, duration, open_journal
from ast_jax.training.profile import PeakShare, Profiler
from ast_jax.training.program import abstract, train_program
from ast_jax.training.score import Scorer
from ast_jax.training.workdir import open_workdir, write_examples, write_results
from ast_jax.weights.source import model_card

STATUS_TERMINATED = 128 + signal.SIGTERM
IN_FLIGHT = (
    2  # steps begun and not done: enough that the device never waits, few enough that a stop is heard soon
)


def train(config: ConfigDict, workdir: Path) -> dict[str, Any]:
    """Trains, evaluates after each epoch, and returns what it writes to results.json.

    Raises InputError for settings or data that do not fit, Diverged for a loss that is not finite.
    """
    with contextlib.ExitStack() as at_exit:
        run = Run(config, Path(workdir).absolute(), at_exit)
        try:
            run.steps()
            return run.results()
        except hosts.Preempted:
            run.save_and_leave()


class Run:
    """A work directory in training: its data, its program, and its state from wherever it stood.

    `state` is what the step changes, `averages` what epochs change, and `record` what a checkpoint says beside these arrays:
    the length of metrics.jsonl, seconds so far, the last and the best evaluation, where the weights came from.
    """

    def __init__(self, config: ConfigDict, workdir: Path, at_exit: contextlib.ExitStack):
        self.config, self.workdir, self.began = config, workdir, time.monotonic()
        self.at_exit = at_exit

        # -- Data
        setup.check(config)  # before anything is prepared, which may take hours
        self.prepared = setup.open_data(config)
        setup.check_data(config, self.prepared)
        self.stream = setup.train_stream(config, self.prepared)
        self.epoch_steps = steps_per_epoch(
            self.prepared.num_examples(config.dataset.train), config.batch_size
        )
        self.total_steps = self.epoch_steps * config.epochs

        # -- Program
        label_names = self.prepared.label_names
        mean, std = setup.statistics(config, self.prepared)
        self.program = train_program(
            config, len(label_names), mean=mean, std=std, epoch_steps=self.epoch_steps
        )
        self.layout = self.program.layout
        self.score = Scorer(
            self.program.graphdef,
            self.layout,
            mean=mean,
            std=std,
            loss=config.loss,
            num_frames=config.num_frames,
            batch_size=config.batch_size,
            num_threads=config.num_threads,
        )

        # -- State: this directory's newest whole checkpoint; else other weights; else from scratch
        self.record: dict[str, Any] = {"offset": 0, "seconds": 0.0, "best": None, "last": None, "init": None}
        resumes = bool(saved_steps(workdir))
        if not resumes:  # before anything is written
            self._begin()
        card = model_card(
            self.program.model_config,
            label_names=label_names,
            mean=mean,
            std=std,
            multi_label=self.prepared.multi_label,
            channels=config.dataset.channels,
        )
        open_workdir(workdir, config, card)
        shapes = self._shapes()
        self.store = at_exit.enter_context(
            contextlib.closing(Store(workdir, shapes, keep_last=config.keep_last))
        )
        if resumes:
            self._restore(shapes)
        self.step = self.first_step = int(self.state["step"])

        # -- Journal
        self.journal = open_journal(
            workdir, offset=self.record["offset"], first_step=self.step, total_steps=self.total_steps
        )
        at_exit.enter_context(contextlib.closing(self.journal))
        self.share_of_peak = PeakShare(self.program.model_config, self.program.recipe, self.layout)
        self.profiler = Profiler(workdir / "profile", config.profile_steps if hosts.writes() else 0)
        at_exit.enter_context(contextlib.closing(self.profiler))
        self.clock, self.unseen = Clock(), list[tuple[int, Mapping[str, Array]]]()
        self.saved_at = -self.total_steps  # no save is under way
        self.stop = at_exit.enter_context(contextlib.closing(hosts.StopRequest()))
        self._greet()

    def _begin(self) -> None:
        """The state before step 0."""
        model = AST(self.program.model_config, rngs=nnx.Rngs(self.config.seed))
        if self.config.init_from:
            self.record["init"] = setup.start_from(model, self.config)
        self.state = self.program.initial_state(model)
        self.averages = self.layout.place(self._initial_averages(self.state["params"]))

    def _initial_averages(self, params: Mapping[str, Array]) -> dict[str, Any]:
        scores = (self.prepared.num_examples(self.config.dataset.eval), len(self.prepared.label_names))
        return epochs.initial_averages(self.config, params, scores)

    def _shapes(self) -> dict[str, Any]:
        """Shape, type and placement of all a checkpoint holds."""
        averages = jax.eval_shape(self._initial_averages, self.program.state["params"])
        return self.program.state | abstract(averages, self.layout.shardings(averages))

    def _restore(self, shapes: dict[str, Any]) -> None:
        restored = self.store.restore(shapes)
        assert restored is not None  # there are checkpoints, and a damaged one raises
        whole = self.layout.place(restored.state)
        self.state = {key: whole[key] for key in self.program.state}
        self.averages = {key: whole[key] for key in whole if key not in self.state}
        self.record |= restored.meta

    def _greet(self) -> None:
        if self.step:
            self.journal.say(f"resuming {self.workdir} at step {self.step} of {self.total_steps}")
        elif self.record["init"]:
            self.journal.say(f"starting from {self.record['init']}")
        rows, asked_for = self.program.rows["index"].size, self.config.batch_size
        if rows > asked_for:
            self.journal.say(
                f"batches of {asked_for} are filled up to {rows} rows on {self.layout.num_devices} devices "
                f"(config.accumulate={self.config.accumulate}): a multiple of "
                f"{self.layout.num_rows(1, self.config.accumulate)} wastes none"
            )

    # ---- Steps

    def steps(self) -> None:
        """Every step that is left, with what follows some of them."""
        every, save_every = self.config.log_every, self.config.save_every
        # Beyond a checkpoint that is still being written, at most: what dies there is done again from the one before.
        ahead = max(1, (save_every or self.epoch_steps) // 10)
        if self.step and self.step % self.epoch_steps == 0 and not self._evaluated():
            self.end_epoch()  # stopped before its evaluation was done
        if self.step == 0 and hosts.writes():
            shape = setup.clip_shape(self.config, self.prepared)
            write_examples(self.workdir, self.stream, self.program.recipe, **shape)
        for batch in self.clock.timed(sharding.to_device(self.layout, self._rows())):
            self.state, figures = self.program.step(self.state, batch)
            self.step += 1
            self.unseen.append((self.step, figures))
            if len(self.unseen) > IN_FLIGHT:
                jax.block_until_ready(self.unseen[-1 - IN_FLIGHT][1])
            if self.step == self.saved_at + ahead:
                self.store.wait()
            self.profiler.after_step(figures)
            ends_epoch = self.step % self.epoch_steps == 0
            if self.step == 1 or self.step % every == 0 or ends_epoch:
                self.log()
            self.journal.advance(self.step)
            if ends_epoch:
                self.end_epoch()
            elif save_every and self.step % save_every == 0:
                self.save()
            self.stop.check()
        self.store.wait()

    def _rows(self):
        """This host's rows of each batch that is left."""
        rows, count = self.program.rows["index"].size, jax.process_count()
        own = HostRows(
            self.stream,
            batch_size=self.config.batch_size,
            rows=rows,
            host=jax.process_index(),
            hosts=count,
        )
        read = batches(
            own,
            **setup.clip_shape(self.config, self.prepared),
            batch_size=rows // count,
            start_step=self.step,
            num_threads=self.config.num_threads,
        )
        return self.at_exit.enter_context(contextlib.closing(read))

    def log(self) -> None:
        """A log point: the newest step's figures, and the speed since the last one."""
        figures = self.check_finite()
        epoch = (self.step - 1) // self.epoch_steps + 1
        speed = self.clock.figures(self.config.batch_size)
        row = {"kind": "train", "step": self.step, "epoch": epoch, **figures}
        row |= {"lr": float(self.program.rate(np.int32(self.step - 1))), **speed}
        row["share_of_peak"] = self.share_of_peak(speed["clips_per_s"])
        left = speed["step_s"] * (self.total_steps - self.step)
        self.journal.write(row)
        self.journal.show(row, total_steps=self.total_steps, seconds_left=left)
        self.clock.restart()

    def check_finite(self) -> dict[str, float]:
        """{loss, grad_norm} of the newest step. Raises Diverged for the first step since the last look that is not finite."""
        found = {}
        for step, figures in jax.device_get(self.unseen):
            found = {name: float(value) for name, value in figures.items()}
            wrong = [f"{name} {value}" for name, value in found.items() if not math.isfinite(value)]
            if wrong:
                clips = self.stream.ids((step - 1) * self.config.batch_size, self.config.batch_size)
                raise Diverged(
                    f"{' and '.join(wrong)} at step {step} (clips {', '.join(clips)}): "
                    "lower config.lr, or look at those clips; the last checkpoint is from before and is kept"
                )
        self.unseen.clear()
        return found

    # ---- After an epoch

    def end_epoch(self) -> None:
        """Evaluation, averages, the best epoch so far, a checkpoint."""
        config, epoch = self.config, self.step // self.epoch_steps
        self.state = self.layout.place(self.state)
        evaluated = self.state["ema" if "ema" in self.state else "params"]
        predictions = self.evaluate(evaluated, config.dataset.eval)
        if hosts.writes():
            predictions.save(self.workdir / "predictions.npz")
        count = epochs.num_averaged(config, epoch)
        self.averages = epochs.advance(
            self.averages,
            self.state["params"],
            predictions.scores,
            count=count,
            takes_part=count > epochs.num_averaged(config, epoch - 1),
        )
        row = {"epoch": epoch, "step": self.step}
        row |= epochs.figures(config, epoch, predictions, self.averages)
        self.journal.write({"kind": "eval", **row})
        self.journal.show({"kind": "eval", **row}, total_steps=self.total_steps)
        best = epochs.better(self.record["best"], row, config.metric)
        if best["step"] == self.step and hosts.writes():
            predictions.save(
                self.workdir / "scores.npz"
            )  # for ensembles: those of the weights that `best` names
        self.record |= {"last": row, "best": best, "averaged": count}
        self.save(metric=row[config.metric])
        self.clock.restart()

    def _evaluated(self) -> bool:
        return self.record["last"] is not None and self.record["last"]["step"] == self.step

    def evaluate(self, params: Mapping[str, Any], splits: Sequence[str]) -> Predictions:
        """Scores of whole splits. Raises Preempted between two batches."""

        def watch(rows, total):
            for batch in self.journal.watch(rows, what="evaluating", total=total):
                self.stop.check()
                yield batch

        return self.score(params, self.prepared, splits, watch=watch)

    # ---- Saving

    def save(self, metric: float | None = None) -> None:
        """Begins a checkpoint of this moment; it vouches for metrics.jsonl as far as it is written."""
        self.check_finite()
        self.saved_at = self.step
        self.journal.sync()
        seconds = self.record["seconds"] + time.monotonic() - self.began
        state = self.layout.place(self.state | self.averages)
        self.store.save(
            state, {**self.record, "offset": self.journal.offset, "seconds": seconds}, metric=metric
        )

    def save_and_leave(self) -> NoReturn:
        """Ends the process with status 143, after saving what is not saved."""
        if self.step not in self.store.steps():
            self.save()
        self.store.wait()
        self.journal.say(
            f"stopped at step {self.step} of {self.total_steps}, saved: the same command goes on from there"
        )
        sys.exit(STATUS_TERMINATED)

    # ---- Results

    def results(self) -> dict[str, Any]:
        """Evaluates what is evaluated once, and writes results.json, plots and report."""
        config = self.config
        found: dict[str, Any] = {key: self.record[key] for key in ("last", "best", "init")}
        if epochs.num_averaged(config, config.epochs):
            summary = self._evaluate_once(self.averages["average"], config.dataset.eval, "average")
            first, last = config.average_epochs
            found["average"] = {"epochs": [first, min(last, config.epochs)], **summary}
        if config.dataset.test:
            summary = self._evaluate_once(load_params(self.workdir, "best"), config.dataset.test, "test")
            found["test"] = {"epoch": self.record["best"]["epoch"], **summary}
        found["seconds"] = self.record["seconds"] + time.monotonic() - self.began
        if not hosts.writes():
            return {}
        write_sounds(
            self.workdir,
            self.prepared,
            config.dataset.eval,
            source_dir=setup.sounds_dir(config),
            num_samples=span(config.num_frames),
        )
        results = write_results(self.workdir, self.prepared.label_names, found, metric=config.metric)
        self.journal.say(f"done in {duration(found['seconds'])}: {self.workdir}")
        return results

    def _evaluate_once(self, params: Mapping[str, Any], splits: Sequence[str], name: str) -> dict[str, Any]:
        predictions = self.evaluate(params, splits)
        if hosts.writes():
            predictions.save(self.workdir / f"predictions_{name}.npz")
        whole = splits == self.config.dataset.eval
        return predictions.summary() | (epochs.coverage(self.config, len(predictions.ids)) if whole else {})
