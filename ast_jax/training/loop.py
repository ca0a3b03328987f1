"""Training: from wherever the work directory stands to its results, one function told from top to bottom.

The work directory is all a run leaves and all it needs to go on: the same command resumes where the newest
whole checkpoint stands. On several hosts every process runs all of this, and the first one writes.
"""

import contextlib
import dataclasses
import math
import signal
import sys
import time
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Array

from ast_jax.checkpoints import Store, load_variables, saved_steps
from ast_jax.datasets.pipeline import HostRows, batches
from ast_jax.datasets.registry import sounds_dir
from ast_jax.errors import Diverged
from ast_jax.evaluation import easy, events, metrics
from ast_jax.evaluation.events import StepScores
from ast_jax.evaluation.predictions import Predictions
from ast_jax.evaluation.report_sounds import write_sounds
from ast_jax.evaluation.scoring import Scorer
from ast_jax.models import build, settled
from ast_jax.objectives import objective
from ast_jax.recipes import recipe
from ast_jax.settings import Settings
from ast_jax.sharding import to_device
from ast_jax.terminal import Bar, duration
from ast_jax.training import data, epochs, hosts, workdir
from ast_jax.training.journal import Clock, open_journal
from ast_jax.training.profile import PeakShare, Profiler
from ast_jax.training.program import Program, placed_shapes, train_program
from ast_jax.training.stalled import chance, stalled
from ast_jax.training.step import State, evaluated, variables
from ast_jax.training.teacher import teacher_of
from ast_jax.weights.model_card import model_card

STATUS_TERMINATED = 128 + signal.SIGTERM
# Steps begun and not done: enough that the device never waits, few enough that a stop is heard soon.
IN_FLIGHT = 2
# What a checkpoint says beside its arrays, before the first step; `rose`: when the figure was last bettered.
NOTHING_YET = {"offset": 0, "seconds": 0.0, "best": None, "last": None, "init": None, "rose": 0}


@dataclasses.dataclass
class Standing:
    """Where a run stands: all that a checkpoint holds.

    `state` is what the step changes, `averages` what epochs change, and `record` what a checkpoint says
    beside these arrays: the length of metrics.jsonl, seconds so far, the last and the best evaluation, where
    the weights came from.
    """

    state: dict[str, Any]
    averages: dict[str, Any]
    record: dict[str, Any]


# What a run asks for, its program's step of a state and a batch; and what it is given, the state after it and
# {loss, grad_norm}.
Request = tuple[Program, State, Mapping[str, Array]]
Answer = tuple[State, Mapping[str, Array]]


def train(config: Any, where: str | Path) -> dict[str, Any]:
    """Trains in the work directory `where`, evaluates after each epoch, and returns what it writes to
    results.json (nothing on a host that does not write).

    `config` is a recipe's ConfigDict, or a recipe's name as the command line takes it: `train("esc50:fold=1",
    "runs/a")`.

    Raises InputError for settings or data that do not fit, Diverged for a loss that is not finite. SIGTERM
    saves and ends the process with status 143.
    """
    with contextlib.closing(training(config, where)) as run:
        answer = None
        while True:
            try:
                program, state, batch = run.send(answer)
            except StopIteration as done:
                return done.value
            answer = program.step(state, batch)


def training(
    config: Any, where: str | Path, *, name: str = "", bar: Bar | None = None
) -> Generator[Request, Any, dict[str, Any]]:
    """The same, but for the steps, which whoever drives it takes: `train` one by one, `together` those of
    several runs at once. These have a `name` before their lines and one `bar`.
    """
    began, root = time.monotonic(), Path(where).absolute()
    with contextlib.ExitStack() as at_exit:
        # ---- Settings, all of them, before anything is prepared, which may take hours
        config = recipe(config) if isinstance(config, str) else config
        settings = config if isinstance(config, Settings) else Settings.of(config)
        settings = settled(workdir.begun(root, settings), jax.devices()[0])
        run, splits = settings.run, settings.data
        metric = metrics.metric_called(run.metric)
        outline = train_program(settings, num_classes=2)

        # ---- Data
        prepared = data.open_data(splits, outline.model.front_end)
        asked, (settings, prepared) = settings, data.held_inside(settings, prepared)
        splits = settings.data
        data.check(settings, outline.what.objective, prepared)
        if hosts.writes():
            print(*data.overview(splits, prepared), sep="\n", file=sys.stderr)
        prepared = data.labelled(settings, prepared)
        stream = data.train_stream(settings, prepared)
        num_classes = len(prepared.label_names)
        epoch_steps = data.epoch_steps(settings, prepared)
        total_steps = epoch_steps * run.epochs

        # ---- Program
        known, counts = prepared.known_counts(splits.train), prepared.class_counts(splits.train)
        loss = objective(settings.objective, counts, known)
        front_end = data.statistics(splits, prepared, outline.model)
        program = train_program(
            settings,
            num_classes,
            front_end=front_end,
            loss=loss,
            epoch_steps=epoch_steps,
            partly=prepared.known(splits.train) is not None,
        )
        layout = program.layout
        teach = teacher_of(settings, program.what, layout, prepared, root)
        score = Scorer(
            program.graphdef,
            layout,
            front_end=front_end,
            activation=loss.activation,
            loss=loss.per_clip,
            num_frames=run.num_frames,
            batch_size=run.eval_batch_size or run.batch_size,
            num_threads=run.num_threads,
        )

        # ---- State: this directory's newest whole checkpoint; else other weights; else from scratch
        resumes = bool(saved_steps(root))
        scores_shape = (prepared.num_examples(splits.eval), num_classes)
        standing = None if resumes else begin(settings, program, scores_shape)
        card = model_card(
            program.model,
            label_names=prepared.label_names,
            front_end=front_end,
            activation=loss.activation,
            multi_label=prepared.multi_label,
            channels=splits.channels,
        )
        workdir.open_workdir(root, asked, card, prepared)
        at_exit.enter_context(workdir.held(root))
        shapes = checkpoint_shapes(settings, program, scores_shape)
        store = at_exit.enter_context(contextlib.closing(Store(root, shapes, keep_last=run.keep_last)))
        standing = standing or restored(store, shapes, program)
        record = standing.record
        step = int(standing.state["step"])

        # ---- Journal
        journal = open_journal(
            root, offset=record["offset"], first_step=step, total_steps=total_steps, name=name, bar=bar
        )
        at_exit.enter_context(contextlib.closing(journal))
        profiler = Profiler(root / "profile", run.profile_steps if hosts.writes() else 0)
        at_exit.enter_context(contextlib.closing(profiler))
        share_of_peak, clock = PeakShare(program), Clock()
        stop = at_exit.enter_context(contextlib.closing(hosts.StopRequest()))
        greet(journal, root, settings, program, record, step, total_steps)
        if not step and hosts.writes():
            found_easy = easy.easy(prepared, splits.train, splits.eval, metric=run.metric)
            record["easy"] = metrics.for_json(found_easy)
            for line in [
                *easy.lengths(found_easy, front_end.seconds(run.num_frames)),
                *easy.leaks(found_easy),
                easy.told(found_easy, run.metric),
            ]:
                journal.say(line)
        unseen: list[tuple[int, Mapping[str, Array]]] = []
        # figures of this epoch's steps
        ran: list[dict[str, float]] = []

        def seen() -> dict[str, float]:
            """{loss, grad_norm} of the newest step. Raises Diverged for the first step since the last look
            that is not finite.
            """
            found: dict[str, float] = {}
            for number, figures in jax.device_get(unseen):
                found = {name: float(value) for name, value in figures.items()}
                ran.append(found)
                if wrong := [f"{name} {value}" for name, value in found.items() if not math.isfinite(value)]:
                    clips = stream.ids((number - 1) * run.batch_size, run.batch_size)
                    raise Diverged(
                        f"{' and '.join(wrong)} at step {number} (clips {', '.join(clips)}): lower "
                        "config.lr, or look at those clips; the last checkpoint is from before and is kept"
                    )
            unseen.clear()
            return found

        def log() -> None:
            """A log point: the newest step's figures, and the speed since the last one."""
            figures, speed = seen(), clock.figures(run.batch_size)
            row = {"kind": "train", "step": step, "epoch": (step - 1) // epoch_steps + 1, **figures}
            row |= {"lr": float(program.rate(np.int32(step - 1))), **speed}
            row["share_of_peak"] = share_of_peak(speed["clips_per_s"])
            journal.write(row)
            left = speed["step_s"] * (total_steps - step)
            journal.show(row, total_steps=total_steps, seconds_left=left)
            clock.restart()

        def save(figure: float | None = None) -> None:
            """Begins a checkpoint of this moment; it vouches for metrics.jsonl as far as it is written."""
            seen()
            journal.sync()
            seconds = record["seconds"] + time.monotonic() - began
            arrays = layout.place(standing.state | standing.averages)
            ranked = figure if figure is None or metric.higher_is_better else -figure
            store.save(arrays, {**record, "offset": journal.offset, "seconds": seconds}, metric=ranked)

        def watch(rows, total):
            for batch in journal.watch(rows, what="evaluating", total=total):
                stop.check()
                yield batch

        def evaluate(arrays: Mapping[str, Any], chosen: Sequence[str]) -> Predictions:
            """Scores of whole splits. Raises Preempted between two batches."""
            return score(arrays, prepared, chosen, watch=watch)

        def evaluate_steps(arrays: Mapping[str, Any], chosen: Sequence[str]) -> StepScores:
            """The same of the steps of time in them."""
            frames = score.frame_scores(arrays, prepared, chosen, watch=watch)
            return StepScores.of(program.model, prepared, chosen, frames)

        # ---- After an epoch: evaluation, averages, the best epoch so far, a checkpoint
        def end_epoch() -> None:
            epoch = step // epoch_steps
            standing.state = layout.place(standing.state)
            predictions = evaluate(evaluated(standing.state), splits.eval)
            count = epochs.num_averaged(settings.averages, epoch)
            standing.averages = epochs.advance(
                standing.averages,
                variables(standing.state),
                predictions.scores,
                count=count,
                takes_part=count > epochs.num_averaged(settings.averages, epoch - 1),
            )
            row = {"epoch": epoch, "step": step}
            row |= epochs.figures(settings, epoch, predictions, standing.averages)
            best = epochs.better(record["best"], row, run.metric)
            if hosts.writes():
                predictions.save(root / "predictions.npz")
                if best["step"] == step:  # what `best` names: for ensembles, and for decisions of predict
                    predictions.save(root / "scores.npz")
                    workdir.write_card(root, card, predictions)
            journal.write({"kind": "eval", **row})
            journal.show({"kind": "eval", **row}, total_steps=total_steps)
            if record["best"] is None or best["value"] != record["best"]["value"]:
                record["rose"] = epoch
            record.update(last=row, best=best, averaged=count)
            if record.get("easy") and (epoch in (math.ceil(run.epochs / 3), run.epochs) or had_enough()):
                better = metric.higher_is_better
                for line in [
                    *easy.doubts(record["easy"], run.metric, row[run.metric], higher_is_better=better),
                    *stalled(ran, chance(loss, prepared, splits.train)),
                ]:
                    journal.say(line)
            ran.clear()
            save(row[run.metric])
            clock.restart()

        def had_enough() -> bool:
            return bool(run.early_stop and step // epoch_steps - record["rose"] >= run.early_stop)

        try:
            # ---- Steps: every one that is left
            if step and step % epoch_steps == 0 and not (record["last"] and record["last"]["step"] == step):
                end_epoch()  # stopped before its evaluation was done
            clip_shape = data.clip_shape(settings, prepared, program.grid)
            if hosts.writes() and (step == 0 or workdir.lost(root, ["examples.npz"])):
                workdir.write_examples(root, stream, program.what, **clip_shape)
            rows, count = program.rows["index"].size, jax.process_count()
            own = HostRows(
                stream, batch_size=run.batch_size, rows=rows, host=jax.process_index(), hosts=count
            )
            read = batches(
                own,
                **clip_shape,
                batch_size=rows // count,
                start_step=step,
                num_threads=run.num_threads,
            )
            at_exit.enter_context(contextlib.closing(read))
            # Beyond a checkpoint that is still being written, at most: what dies there is done again from the
            # one before.
            ahead, saved_at = max(1, (run.save_every or epoch_steps) // 10), -total_steps
            for batch in () if had_enough() else clock.timed(to_device(layout, read)):
                standing.state, figures = yield program, standing.state, teach(batch, step)
                step += 1
                unseen.append((step, figures))
                if len(unseen) > IN_FLIGHT:
                    jax.block_until_ready(unseen[-1 - IN_FLIGHT][1])
                if step == saved_at + ahead:
                    store.wait()
                profiler.after_step(figures)
                ends_epoch = step % epoch_steps == 0
                if step == 1 or step % run.log_every == 0 or ends_epoch:
                    log()
                journal.advance(step)
                if ends_epoch:
                    saved_at = step
                    end_epoch()
                    if had_enough():
                        left = f"{total_steps - step} of {total_steps} steps are left out"
                        journal.say(f"nothing better since epoch {record['rose']}: stops early, {left}")
                        break
                elif run.save_every and step % run.save_every == 0:
                    saved_at = step
                    save()
                stop.check()
            store.wait()

            # ---- What was taken away meanwhile and can be had again (several hosts may see it differently)
            alone = jax.process_count() == 1
            for name in workdir.lost(root, ["predictions.npz", "scores.npz"]) if alone else ():
                journal.say(f"{name} is gone or damaged: it is made again")
                ours = (
                    evaluated(standing.state) if name == "predictions.npz" else load_variables(root, "best")
                )
                predictions = evaluate(ours, splits.eval)
                predictions.save(root / name)
                if name == "scores.npz":
                    workdir.write_card(root, card, predictions)

            # ---- Results: what is evaluated once, then results.json, plots and report
            found: dict[str, Any] = {key: record.get(key) for key in ("last", "best", "init", "easy")}
            if epochs.num_averaged(settings.averages, run.epochs):
                first, last = settings.averages.average_epochs
                predictions = evaluate(standing.averages["average"], splits.eval)
                figures = workdir.keep(root, "average", predictions) | epochs.coverage(splits, predictions)
                if run.epochs >= last:
                    figures |= epochs.published_gap(settings, last, figures, averaged=True)
                found["average"] = {"epochs": [first, min(last, run.epochs)], **figures}
                journal.beside(f"weights averaged over epochs {first} to {last}", figures)
            if splits.test:
                predictions = evaluate(load_variables(root, "best"), splits.test)
                found["test"] = {"epoch": record["best"]["epoch"], **workdir.keep(root, "test", predictions)}
            if events.judged(program.model, prepared, splits.eval):
                best = load_variables(root, "best")
                steps = evaluate_steps(best, splits.eval)
                found["events"] = {"epoch": record["best"]["epoch"], **steps.figures()}
                workdir.write_frame_thresholds(root, steps.thresholds)
                journal.say(f"epoch {record['best']['epoch']}, {events.told(found['events'])}")
                if splits.test and events.judged(program.model, prepared, splits.test):
                    found["test"]["events"] = evaluate_steps(best, splits.test).figures(steps.thresholds)
            found["seconds"] = record["seconds"] + time.monotonic() - began
            if not hosts.writes():
                return {}
            write_sounds(
                root,
                prepared,
                splits.eval,
                source_dir=sounds_dir(splits.name, splits.source_dir, splits.data_dir),
                num_samples=front_end.span(run.num_frames),
            )
            results = workdir.write_results(root, prepared.label_names, found, metric=run.metric)
            journal.say(f"done in {duration(found['seconds'])}: {root}")
            return results

        except hosts.Preempted:
            if step not in store.steps():
                save()
            store.wait()
            journal.say(
                f"stopped at step {step} of {total_steps}, saved: the same command goes on from there"
            )
            sys.exit(STATUS_TERMINATED)


def begin(settings: Settings, program: Program, scores_shape: tuple[int, int]) -> Standing:
    """The state before step 0."""
    run, start = settings.run, settings.start
    model = build(settings.model.family, program.model.config, seed=run.seed)
    record: dict[str, Any] = dict(NOTHING_YET)
    if start.init_from:
        from ast_jax.weights import initialise

        record["init"] = initialise(
            model, start.init_from, rgb=start.init_rgb, positions=start.init_positions
        )
    state = program.initial_state(model)
    averages = epochs.initial_averages(settings.averages, variables(state), scores_shape)
    return Standing(state, program.layout.place(averages), record)


def checkpoint_shapes(settings: Settings, program: Program, scores_shape: tuple[int, int]) -> dict[str, Any]:
    """Shape, type and placement of all a checkpoint holds."""
    averages = jax.eval_shape(
        lambda arrays: epochs.initial_averages(settings.averages, arrays, scores_shape),
        variables(program.state),
    )
    return program.state | placed_shapes(averages, program.layout.shardings(averages))


def restored(store: Store, shapes: dict[str, Any], program: Program) -> Standing:
    """The newest whole checkpoint, in its place."""
    found = store.restore(shapes)
    assert found is not None  # there are checkpoints, and a damaged one raises
    whole = program.layout.place(found.state)
    state = {key: whole[key] for key in program.state}
    record = NOTHING_YET | found.meta
    return Standing(state, {key: whole[key] for key in whole if key not in state}, record)


def greet(
    journal: Any,
    root: Path,
    settings: Settings,
    program: Program,
    record: Mapping[str, Any],
    step: int,
    total_steps: int,
) -> None:
    """What a run says before its first step."""
    if step:
        journal.say(f"resuming {root} at step {step} of {total_steps}")
    elif record["init"]:
        journal.say(f"starting from {record['init']}")
    rows, asked_for, parts = program.rows["index"].size, settings.run.batch_size, settings.run.accumulate
    layout = program.layout
    if rows > asked_for:
        journal.say(
            f"batches of {asked_for} are filled up to {rows} rows on {layout.num_devices} devices "
            f"(config.accumulate={parts}): a multiple of {layout.num_rows(1, parts)} wastes none"
        )
