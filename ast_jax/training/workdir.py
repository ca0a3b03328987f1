"""What a run leaves in its work directory beside metrics and checkpoints: its identity, examples, results, plots, report."""

import functools
import importlib.metadata
import json
import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from ast_jax.config import base, flatten
from ast_jax.datasets.pipeline import TrainStream, fit
from ast_jax.errors import InputError
from ast_jax.evaluation import metrics
from ast_jax.training import hosts
from ast_jax.training.step import Recipe, inputs

# What may differ between a run and its continuation: none of these changes what was already computed.
FREE_TO_CHANGE = (
    "epochs",
    "keep_last",
    "save_every",
    "log_every",
    "profile_steps",
    "num_threads",
    "parallel",
    "fsdp",
    "dataset.source_dir",
    "dataset.data_dir",
)


def open_workdir(workdir: Path, config: ConfigDict, card: dict[str, Any]) -> None:
    """Writes what a run is, once for all hosts: config.json, labels.txt, model_card.json.

    Raises InputError if the directory holds a run with other settings.
    """
    path = workdir / "config.json"
    if path.exists():
        stored = ConfigDict(json.loads(path.read_text()))
        old, new = (
            flatten(base()) | flatten(stored),
            flatten(config),
        )  # settings that came later had their default
        differs = [key for key in sorted({*old, *new} - set(FREE_TO_CHANGE)) if old.get(key) != new.get(key)]
        if differs:
            listed = ", ".join(f"{key} {old.get(key)!r} -> {new.get(key)!r}" for key in differs)
            raise InputError(
                f"{workdir} holds a run with other settings ({listed}): give another --workdir, or the same settings"
            )
    if not hosts.writes():
        return
    workdir.mkdir(parents=True, exist_ok=True)
    write_json(path, json.loads(config.to_json_best_effort()))
    write_json(workdir / "model_card.json", card)
    (workdir / "labels.txt").write_text("".join(f"{name}\n" for name in card["label_names"]))


def write_examples(workdir: Path, stream: TrainStream, recipe: Recipe, **clip_shape) -> None:
    """examples.npz: up to 8 clips of the first batch as the model sees them: augmented, padded, normalised."""
    clips = [stream[position] for position in range(min(8, stream.batch_size))]
    clips = [clip for clip in clips if "id" in clip]
    rows = [fit(clip, **clip_shape) for clip in clips]
    few = {key: np.stack([row[key] for row in rows]) for key in rows[0]}
    fbank = jax.jit(functools.partial(inputs, recipe=recipe))(few, np.int32(0))
    ids = [clip["id"] for clip in clips]
    np.savez_compressed(workdir / "examples.npz", fbank=np.asarray(fbank), ids=ids, labels=few["labels"])


def write_results(
    workdir: Path, label_names: Sequence[str], found: dict[str, Any], *, metric: str
) -> dict[str, Any]:
    """results.json from the last evaluation and what else was found; then the plots and the report.

    `interval` is the 95 % bootstrap interval of `metric`, over clips.
    """
    from ast_jax.evaluation.report import write_report

    with np.load(workdir / "predictions.npz") as last:
        scores, targets = last["scores"], last["targets"]
    low, high = metrics.interval_of(scores, targets, metric)
    final = found["last"]
    results = {
        "metrics": {key: final[key] for key in ("accuracy", "mAP", "auc", "d_prime")},
        "epoch": final["epoch"],
        "step": final["step"],
        **{key: final[key] for key in ("num_examples", "expected_examples", "coverage") if key in final},
        "interval": {"metric": metric, "low": low, "high": high, "level": 0.95},
        **found,
        "per_class": metrics.per_class(scores, targets, label_names),
        "versions": versions(),
        "devices": [str(device) for device in jax.devices()],
    }
    write_json(workdir / "results.json", metrics.for_json(results))
    write_report(workdir)
    return results


def versions() -> dict[str, str]:
    """Python, the platform and the libraries that decide numbers and speed."""
    names = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "tensorflow-datasets", "numpy")
    found = {name: importlib.metadata.version(name) for name in names}
    return {"python": platform.python_version(), "platform": platform.platform(), **found}


def write_json(path: Path, value: Any) -> None:
    """Writes all of it or nothing."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n")
    os.replace(temporary, path)
