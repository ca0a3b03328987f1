"""Reads a work directory, as far as a run has come: what is not written yet is empty or None, what is damaged is an error.

Letters: N clips, n examples, T frames, F mel bins, C classes.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Shaped

from ast_jax.errors import InputError


@dataclass(frozen=True)
class StoredScores:
    """The scores of the last evaluation."""

    ids: list[str]
    scores: Float[np.ndarray, "N C"]
    targets: Shaped[np.ndarray, "N C"]

    @property
    def single_label(self) -> bool:
        """Whether every clip has exactly one true class."""
        return bool(((self.targets > 0).sum(axis=1) == 1).all())


@dataclass(frozen=True)
class StoredExamples:
    """A few clips as the model sees them: padded, masked, normalised."""

    ids: list[str]
    fbank: Float[np.ndarray, "n T F"]
    labels: Shaped[np.ndarray, "n C"]


@dataclass(frozen=True)
class Published:
    """The curve of the reference's log, {epoch: value of `metric`}, and how far off counts as reproduced."""

    metric: str
    curve: dict[int, float]
    band: float


@dataclass(frozen=True)
class RunFiles:
    """What a work directory holds. `train` and `evals` are the lines of metrics.jsonl by their kind."""

    directory: Path
    config: dict[str, Any]
    labels: list[str]
    train: list[dict[str, Any]]
    evals: list[dict[str, Any]]
    results: dict[str, Any]
    predictions: StoredScores | None
    examples: StoredExamples | None

    @property
    def published(self) -> Published | None:
        """From config.json's `published`; JSON turned the epochs into strings."""
        entry = self.config.get("published")
        if not entry or not entry.get("curve"):
            return None
        curve = {int(epoch): float(value) for epoch, value in entry["curve"].items()}
        return Published(entry["metric"], dict(sorted(curve.items())), float(entry["band"]))

    def label(self, index: int) -> str:
        """The name of a class; a number where labels.txt is missing."""
        return self.labels[index] if index < len(self.labels) else f"class {index}"

    def labels_of(self, target: Shaped[np.ndarray, " C"]) -> list[str]:
        """The names of the true classes of one clip."""
        return [self.label(int(i)) for i in np.flatnonzero(target > 0)]


def read_run(workdir: str | Path) -> RunFiles:
    """Reads config.json, labels.txt, metrics.jsonl, results.json, predictions.npz and examples.npz of `workdir`.

    Raises InputError when the directory is missing or a file in it cannot be understood.
    """
    directory = Path(workdir)
    if not directory.is_dir():
        raise InputError(f"got {directory}, which is not a directory: give the work directory of a run")
    rows = _rows(directory / "metrics.jsonl")
    names = directory / "labels.txt"
    return RunFiles(
        directory=directory,
        config=_json(directory / "config.json"),
        labels=names.read_text(encoding="utf-8").splitlines() if names.exists() else [],
        train=[row for row in rows if row.get("kind") == "train"],
        evals=[row for row in rows if row.get("kind") == "eval"],
        results=_json(directory / "results.json"),
        predictions=_predictions(directory / "predictions.npz"),
        examples=_examples(directory / "examples.npz"),
    )


def series(rows: list[dict[str, Any]], x: str, y: str) -> tuple[list[float], list[float]]:
    """The pairs (x, y) of those rows that hold both as finite numbers, ready to be drawn."""
    kept = [row for row in rows if is_figure(row.get(x)) and is_figure(row.get(y))]
    return [float(row[x]) for row in kept], [float(row[y]) for row in kept]


def is_figure(value: Any) -> bool:
    """Whether a value read from JSON is a finite number; runs write null for NaN."""
    return isinstance(value, int | float) and not isinstance(value, bool) and bool(np.isfinite(value))


def _predictions(path: Path) -> StoredScores | None:
    stored = _arrays(path, "ids", "scores", "targets")
    return (
        StoredScores([str(name) for name in stored["ids"]], stored["scores"], stored["targets"])
        if stored
        else None
    )


def _examples(path: Path) -> StoredExamples | None:
    stored = _arrays(path, "ids", "fbank", "labels")
    if not stored:
        return None
    return StoredExamples(
        [str(name) for name in stored["ids"]], stored["fbank"].astype(np.float32), stored["labels"]
    )


def _json(path: Path) -> dict[str, Any]:
    return _parse(path.read_text(encoding="utf-8"), path) if path.exists() else {}


def _rows(path: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl; a last line without its newline is still being written, and left out."""
    if not path.exists():
        return []
    complete = path.read_text(encoding="utf-8").rpartition("\n")[0]
    return [_parse(line, path) for line in complete.splitlines() if line.strip()]


def _parse(text: str, path: Path) -> dict[str, Any]:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(
            f"got {path}, which is not JSON ({error}): restore it, or start the run again"
        ) from error


def _arrays(path: Path, *names: str) -> dict[str, np.ndarray] | None:
    if not path.exists():
        return None
    try:
        with np.load(path, allow_pickle=False) as stored:
            return {name: stored[name] for name in names}
    except (KeyError, ValueError, OSError, EOFError) as error:
        raise InputError(
            f"got {path}, which does not hold {', '.join(names)} ({error}): evaluate the run again"
        ) from error
