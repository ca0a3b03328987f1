"""Reads a work directory, as far as a run has come, for its report.

What is not written yet is empty or None; what is damaged is that too, and said in `problems`.
Letters: N clips, n examples, T frames, F mel bins, C classes.
"""

import json
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard, TypeVar
from zipfile import BadZipFile

import numpy as np
from jaxtyping import Float, Shaped

from ast_jax.errors import InputError
from ast_jax.evaluation.predictions import Predictions
from ast_jax.features.front_end import FrontEnd, from_card

_DAMAGE = (InputError, OSError, ValueError, KeyError, EOFError, BadZipFile, zlib.error)
_T = TypeVar("_T")


@dataclass(frozen=True)
class StoredExamples:
    """A few clips as the model sees them: padded, augmented, normalised."""

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
    card: dict[str, Any]
    labels: list[str]
    train: list[dict[str, Any]]
    evals: list[dict[str, Any]]
    results: dict[str, Any]
    predictions: Predictions | None
    examples: StoredExamples | None
    published: Published | None
    problems: list[str]  # a sentence for each file, or part of one, that cannot be understood

    @property
    def front_end(self) -> FrontEnd:
        """What the run's features are; the reference's where its card does not say."""
        return from_card(self.card.get("front_end"))

    def label(self, index: int) -> str:
        """The name of a class; a number where labels.txt is missing."""
        return self.labels[index] if index < len(self.labels) else f"class {index}"

    def labels_of(self, target: Shaped[np.ndarray, " C"]) -> list[str]:
        """The names of the true classes of one clip."""
        return [self.label(int(i)) for i in np.flatnonzero(target > 0)]

    def told_of(self, target: Shaped[np.ndarray, " C"]) -> str:
        """The same in words. They are joined by semicolons, since AudioSet's names hold commas."""
        nothing = "not known" if np.isnan(target).all() else "no label"
        return "; ".join(self.labels_of(target)) or nothing


def read_run(workdir: str | Path) -> RunFiles:
    """Reads the files of `workdir` that a report shows. Raises InputError when there is no such directory."""
    directory, problems = Path(workdir), []
    if not directory.is_dir():
        raise InputError(f"got {directory}, which is not a directory: give the work directory of a run")

    def known(name: str, read: Callable[[Path], _T]) -> _T | None:
        """What `read` makes of a file; None where there is none, or where it is damaged."""
        path = directory / name
        try:
            return read(path) if path.exists() else None
        except _DAMAGE as error:
            reason = str(error.__cause__ or error).replace(f"{directory}/", "")
            problems.append(f"{name} cannot be read ({reason}): this page goes without it")
            return None

    config = known("config.json", _object) or {}
    rows, damaged = known("metrics.jsonl", _lines) or ([], 0)
    if damaged:
        problems.append(f"metrics.jsonl holds lines that are no JSON objects: {damaged} left out")
    return RunFiles(
        directory=directory,
        config=config,
        card=known("model_card.json", _object) or {},
        labels=known("labels.txt", lambda path: path.read_text(encoding="utf-8").splitlines()) or [],
        train=[row for row in rows if row.get("kind") == "train"],
        evals=[row for row in rows if row.get("kind") == "eval"],
        results=known("results.json", _object) or {},
        predictions=known("predictions.npz", _predictions),
        examples=known("examples.npz", _examples),
        published=_published(config),
        problems=problems,
    )


def series(rows: list[dict[str, Any]], x: str, y: str) -> tuple[list[float], list[float]]:
    """The pairs (x, y) of those rows that hold both as finite numbers, ready to be drawn."""
    kept = [row for row in rows if is_figure(row.get(x)) and is_figure(row.get(y))]
    return [float(row[x]) for row in kept], [float(row[y]) for row in kept]


def is_figure(value: Any) -> TypeGuard[float]:
    """Whether a value read from JSON is a finite number; runs write null for NaN."""
    return isinstance(value, int | float) and not isinstance(value, bool) and bool(np.isfinite(value))


def entry(tree: Mapping[str, Any], key: str) -> dict[str, Any]:
    """The object under a key, empty where the run has none: older runs lack newer keys."""
    value = tree.get(key)
    return value if isinstance(value, dict) else {}


def _object(path: Path) -> dict[str, Any]:
    value = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(value, dict):
        raise ValueError("no JSON object")
    return value


def _lines(path: Path) -> tuple[list[dict[str, Any]], int]:
    """The lines of metrics.jsonl and how many are damaged; a last one without newline is being written."""
    rows: list[dict[str, Any]] = []
    complete = path.read_text(encoding="utf-8").rpartition("\n")[0]
    lines = [line for line in complete.splitlines() if line.strip()]
    for line in lines:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict):
            rows.append(row)
    return rows, len(lines) - len(rows)


def _published(config: dict[str, Any]) -> Published | None:
    """From config.json's `published`, where that is complete; JSON turned the epochs into strings."""
    known = entry(config, "published")
    points = entry(known, "curve").items()
    curve = {int(epoch): value for epoch, value in points if epoch.isdecimal() and is_figure(value)}
    if not curve or not is_figure(known.get("band")):
        return None
    return Published(str(known.get("metric")), dict(sorted(curve.items())), known["band"])


def _predictions(path: Path) -> Predictions | None:
    """None where no clip was evaluated."""
    saved = Predictions.read(path)
    if not np.isfinite(saved.scores).all():
        raise ValueError("scores that are NaN or infinite")
    return saved if saved.scores.size else None


def _examples(path: Path) -> StoredExamples | None:
    with path.open("rb") as file, np.load(file) as stored:
        ids = [str(name) for name in stored["ids"]]
        fbank, labels = stored["fbank"].astype(np.float32), stored["labels"]
    if (fbank.ndim, labels.ndim) != (3, 2) or not len(ids) == len(fbank) == len(labels):
        raise ValueError(f"{len(ids)} ids, features {fbank.shape}, labels {labels.shape}")
    return StoredExamples(ids, fbank, labels) if ids else None
