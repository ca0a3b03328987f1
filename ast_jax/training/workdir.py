"""What a run leaves in its work directory beside metrics and checkpoints: its identity, examples, results,
plots, report.
"""

import contextlib
import functools
import importlib.metadata
import json
import platform
import sys
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import jax
import numpy as np

from ast_jax.datasets.pipeline import TrainStream, fit
from ast_jax.datasets.prepared import PreparedSet
from ast_jax.errors import InputError
from ast_jax.evaluation import metrics
from ast_jax.evaluation.predictions import Predictions
from ast_jax.settings import Settings, defaults, flat
from ast_jax.terminal import write_json, write_whole
from ast_jax.training import hosts
from ast_jax.training.step import Step, inputs
from ast_jax.weights.model_card import CARD

# What may differ between a run and its continuation: none of these changes what was already computed.
FREE_TO_CHANGE = (
    "epochs",
    "keep_last",
    "save_every",
    "log_every",
    "eval_batch_size",
    "profile_steps",
    "num_threads",
    "parallel",
    "fsdp",
    "dataset.source_dir",
    "dataset.data_dir",
)


def open_workdir(workdir: Path, settings: Settings, card: Mapping[str, Any], prepared: PreparedSet) -> None:
    """Writes what a run is, once for all hosts: config.json, labels.txt, model_card.json.

    Raises InputError, before a byte is written, if the directory holds a run with other settings or on other
    data.
    """
    tree = settings.tree()
    config, own = workdir / "config.json", {**card, "data": identity(prepared)}
    known: dict[str, Any] = {}
    if config.exists():
        _compare_settings(workdir, _stored(config), tree)
        if known := _card(workdir):
            _compare_data(workdir, known, own)
    if not hosts.writes():
        return
    goes_on = config.exists()
    if goes_on and not known:
        line = f"{workdir / CARD} is gone or damaged: it is made again, and what the run was trained on"
        print(f"{line} is taken to be these data", file=sys.stderr)
    workdir.mkdir(parents=True, exist_ok=True)
    write_json(config, tree)
    if not known:  # that of a run that goes on knows its thresholds
        write_json(workdir / CARD, own)
        if goes_on and not lost(workdir, ["scores.npz"]):
            write_card(workdir, own, Predictions.read(workdir / "scores.npz"))
    write_whole(workdir / "labels.txt", "".join(f"{name}\n" for name in card["label_names"]))


def begun(workdir: Path, settings: Settings) -> Settings:
    """The settings with the arithmetic that a run in this directory began with, where they leave it open:
    it may go on on another device.
    """
    config = workdir / "config.json"
    if settings.model.dtype != "auto" or not config.exists():
        return settings
    return settings.with_dtype(flat(_stored(config)).get("model.dtype", "float32"))


@contextlib.contextmanager
def held(workdir: Path) -> Iterator[None]:
    """While this process trains in `workdir`, no other does.

    Raises InputError where one does already: two would mix their epochs in one journal.
    """
    if not hosts.writes():
        yield
        return
    from ast_jax.datasets.locking import locked

    with (workdir / ".lock").open("w") as file:
        if not locked(file):
            raise InputError(
                f"another process is training in {workdir}: wait for it, or give another --workdir"
            )
        yield


def _card(workdir: Path) -> dict[str, Any]:
    """A run's card; nothing where it is gone or damaged."""
    try:
        found = _stored(workdir / CARD)
    except InputError:
        return {}
    return found if {"label_names", "model"} <= found.keys() else {}


def _stored(config: Path) -> dict[str, Any]:
    """What a run's file says. Raises InputError where it is damaged."""
    try:
        found = json.loads(config.read_text())
    except (OSError, ValueError) as error:
        raise InputError(
            f"{config} cannot be read ({error}): give another --workdir, or restore it"
        ) from error
    if not isinstance(found, dict):
        raise InputError(f"{config} is damaged: give another --workdir, or restore it")
    return found


def identity(prepared: PreparedSet) -> dict[str, Any]:
    """What tells a prepared set from another: its name, the fingerprint in its directory's, its splits'
    sizes.
    """
    sizes = {split: prepared.num_examples(split) for split in prepared.splits}
    return {"name": prepared.name, "set": prepared.directory.parent.name, "examples": sizes}


def _compare_settings(workdir: Path, stored: dict[str, Any], tree: Mapping[str, Any]) -> None:
    old, new = flat(defaults()) | flat(stored), flat(tree)  # settings that came later had their default
    # as JSON has them
    old, new = json.loads(json.dumps(old)), json.loads(json.dumps(new))
    differs = [key for key in sorted({*old, *new} - set(FREE_TO_CHANGE)) if old.get(key) != new.get(key)]
    if differs:
        listed = ", ".join(f"{key} {old.get(key)!r} -> {new.get(key)!r}" for key in differs)
        raise InputError(
            f"{workdir} holds a run with other settings ({listed}): give another --workdir, or the same "
            "settings"
        )


def _compare_data(workdir: Path, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    wrong = []
    if list(old["label_names"]) != list(new["label_names"]):
        gone, come = (set(a["label_names"]) - set(b["label_names"]) for a, b in ((old, new), (new, old)))
        changes = [f"without {', '.join(sorted(gone))}"] * bool(gone) + [
            f"with {', '.join(sorted(come))}"
        ] * bool(come)
        wrong.append(f"classes {' and '.join(changes) or 'in another order'}")
    before, now = old.get("data") or new["data"], new["data"]  # older runs did not say
    for split in sorted({*before["examples"], *now["examples"]}):
        counts = [sizes["examples"].get(split, 0) for sizes in (before, now)]
        if counts[0] != counts[1]:
            wrong.append(f"{counts[1]} clips in {split} where there were {counts[0]}")
    if not wrong and before["set"] != now["set"]:
        wrong.append(f"shards {now['set']} where it had {before['set']}")
    if wrong:
        raise InputError(
            f"{workdir} holds a run on other data ({'; '.join(wrong)}): give another --workdir, or the "
            "same data"
        )


def write_card(workdir: Path, card: Mapping[str, Any], predictions: Predictions) -> None:
    """The card again, with each class's threshold: from which score on it is found, best by F1 on the
    evaluation clips.
    """
    known = _card(workdir) or dict(card)
    known.pop("frame_thresholds", None)  # of other weights
    thresholds = metrics.Scored(predictions.scores, predictions.targets).thresholds
    write_json(workdir / CARD, {**known, "thresholds": metrics.for_json([float(t) for t in thresholds])})


def write_frame_thresholds(workdir: Path, thresholds: np.ndarray) -> None:
    """The card again, with each class's threshold [C] of steps of time; NaN where there is none."""
    chosen = metrics.for_json([float(threshold) for threshold in thresholds])
    if hosts.writes():
        write_json(workdir / CARD, {**_stored(workdir / CARD), "frame_thresholds": chosen})


def write_events(workdir: Path, thresholds: np.ndarray, figures: Mapping[str, Any]) -> None:
    """Card, results.json and report of a finished run again, with the thresholds [C] of steps and how well
    events are found at them.
    """
    from ast_jax.evaluation.report import write_report

    write_frame_thresholds(workdir, thresholds)
    results = _stored(workdir / "results.json")
    epoch = results.get("best", {}).get("epoch")
    write_json(workdir / "results.json", {**results, "events": {"epoch": epoch, **figures}})
    write_report(workdir)


def lost(workdir: Path, names: Sequence[str]) -> list[str]:
    """Those of a run's .npz files that are gone or damaged."""

    def whole(path: Path) -> bool:
        try:
            with path.open("rb") as file, np.load(file) as stored:
                return all(stored[name] is not None for name in stored.files)
        except (OSError, ValueError, EOFError, BadZipFile, zlib.error):
            return False

    return [name for name in names if not whole(workdir / name)]


def write_examples(workdir: Path, stream: TrainStream, step: Step, **clip_shape) -> None:
    """examples.npz: up to 8 clips of the first batch as the model sees them: augmented, padded,
    normalised.
    """
    clips = [stream[position] for position in range(min(8, stream.batch_size))]
    clips = [clip for clip in clips if "id" in clip]
    rows = [fit(clip, **clip_shape) for clip in clips]
    few = {key: np.stack([row[key] for row in rows]) for key in rows[0]}
    fbank = jax.jit(functools.partial(inputs, step=step))(few, np.int32(0))
    ids, labels = [clip["id"] for clip in clips], few["labels"]
    labels = np.where(few["known"] > 0, labels, np.nan) if "known" in few else labels
    np.savez_compressed(workdir / "examples.npz", fbank=np.asarray(fbank), ids=ids, labels=labels)


def keep(workdir: Path, name: str, predictions: Predictions) -> dict[str, Any]:
    """Saves an evaluation that is made once, and returns its figures."""
    if hosts.writes():
        predictions.save(workdir / f"predictions_{name}.npz")
    return predictions.summary()


def write_results(
    workdir: Path, label_names: Sequence[str], found: dict[str, Any], *, metric: str
) -> dict[str, Any]:
    """results.json from the last evaluation and what else was found; then the plots and the report.

    `interval` is the 95 % bootstrap interval of `metric`, over clips.
    """
    from ast_jax.evaluation.report import write_report

    last = Predictions.read(workdir / "predictions.npz")
    low, high = metrics.interval_of(last.scores, last.targets, metric)
    final = found["last"]
    results = {
        "metrics": {key: final[key] for key in (*metrics.METRICS, metric) if key in final},
        "epoch": final["epoch"],
        "step": final["step"],
        **{key: final[key] for key in ("num_examples", "expected_examples", "coverage") if key in final},
        "interval": {"metric": metric, "low": low, "high": high, "level": 0.95},
        **found,
        "per_class": metrics.per_class(last.scores, last.targets, label_names),
        "versions": versions(),
        "devices": [str(device) for device in jax.devices()],
    }
    results = metrics.for_json(results)
    write_json(workdir / "results.json", results)
    write_report(workdir)
    return results


def versions() -> dict[str, str]:
    """Python, the platform and the libraries that decide numbers and speed."""
    names = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "tensorflow-datasets", "numpy")
    found = {name: importlib.metadata.version(name) for name in names}
    return {"python": platform.python_version(), "platform": platform.platform(), **found}
