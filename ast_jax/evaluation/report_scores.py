"""What predictions.npz and results.json say of classes and single clips, as the report shows it.

N clips, T frames, F mel bins, C classes.
"""

from pathlib import Path
from typing import Any

import numpy as np

from ast_jax.evaluation import metrics
from ast_jax.evaluation.plots import confusion, shows_confusion, spectrogram
from ast_jax.evaluation.predictions import Predictions
from ast_jax.evaluation.run_files import RunFiles, entry, is_figure
from ast_jax.events.metrics import ALL, MEAN, rows_of

CLIPS_SHOWN = 6  # most confident wrong ones, and as many right ones
# Bytes; a longer recording would make the page slow to open: it is named, not embedded.
LARGEST_SOUND = 2_000_000

# The table of classes: keys of `metrics.per_class` and their headings.
CLASS_COLUMNS = {"ap": "AP", "auc": "AUC", "d_prime": "d'", "accuracy": "recall", "positives": "clips"}


# --- classes


def classes_of(run: RunFiles) -> list[dict[str, Any]]:
    """[{label, cells}], the best average precision first; from the scores before results.json is there."""
    rows = stored_classes(run)
    if not rows and run.predictions is not None:
        scores, targets = run.predictions.scores, run.predictions.targets
        rows = metrics.per_class(scores, targets, [run.label(c) for c in range(scores.shape[1])])
    rows = sorted(rows, key=lambda row: -row["ap"] if is_figure(row.get("ap")) else 1)
    return [
        {"label": str(row.get("label")), "cells": [_cell(key, row.get(key)) for key in CLASS_COLUMNS]}
        for row in rows
    ]


def stored_classes(run: RunFiles) -> list[dict[str, Any]]:
    """The rows of results.json's `per_class`."""
    stored = run.results.get("per_class")
    return [row for row in stored if isinstance(row, dict)] if isinstance(stored, list) else []


def _cell(key: str, value: Any) -> dict[str, Any]:
    """The figure as text, the value to sort by, and how much of the cell is filled, if any."""
    if not is_figure(value):
        return {"text": "-", "value": "", "share": ""}
    text = f"{value:,}" if key == "positives" else f"{value:.2f}" if key == "d_prime" else f"{value:.3f}"
    return {"text": text, "value": value, "share": f"{value:.3f}" if key == "ap" else ""}


def mixed_up(run: RunFiles, most: int = 6) -> list[tuple[str, str, int]] | None:
    """(true class, class heard, clips) of what is mixed up most; None where there is no confusion matrix."""
    if run.predictions is None or not shows_confusion(run.predictions):
        return None
    counts = confusion(run.predictions)
    np.fill_diagonal(counts, 0)
    places = np.argsort(-counts, axis=None, kind="stable")[:most]
    pairs = [divmod(int(place), len(counts)) for place in places]
    return [(run.label(i), run.label(j), int(counts[i, j])) for i, j in pairs if counts[i, j]]


def events_of(run: RunFiles) -> dict[str, Any] | None:
    """{told, columns, rows}: how well events are found, labels together first; None where no steps are
    judged.
    """
    figures = entry(run.results, "events")
    if not figures:
        return None
    # only here, for it knows models, which take seconds to import
    from ast_jax.evaluation.events import told

    f1, thresholds = entry(figures, "f1"), entry(figures, "thresholds")
    rows = sorted(rows_of(f1), key=lambda row: row[0] not in (ALL, MEAN))
    shown = lambda label: f"{thresholds[label]:.3f}" if is_figure(thresholds.get(label)) else "-"
    return {
        "told": told(figures),
        "columns": [*f1, "threshold"],
        "rows": [[*row, shown(row[0])] for row in rows],
    }


# --- clips


def clips_shown(stored: Predictions) -> tuple[list[int], list[int]]:
    """Places of the most confident wrong clips and of the most confident right ones, the surest first."""
    top, surest = stored.scores.argmax(axis=1), np.argsort(-stored.scores.max(axis=1), kind="stable")
    truth = stored.targets[np.arange(len(top)), top]
    # of others nobody knows
    wrong_ones, right_ones = ([int(i) for i in surest if kind[i]] for kind in (truth <= 0, truth > 0))
    return wrong_ones[:CLIPS_SHOWN], right_ones[:CLIPS_SHOWN]


def clips_of(run: RunFiles) -> tuple[list[dict[str, Any]], list[dict[str, Any]]] | None:
    """Wrong and right clips with all that is shown of them; None where nothing is evaluated yet."""
    if run.predictions is None:
        return None
    stored = run.predictions
    wrong, right = ([_clip(run, stored, i) for i in places] for places in clips_shown(stored))
    return wrong, right


def _clip(run: RunFiles, stored: Predictions, index: int) -> dict[str, Any]:
    scores, name = stored.scores[index], stored.ids[index]
    first, *others = (int(c) for c in np.argsort(-scores, kind="stable")[:3])
    shown = [first, *(c for c in others if scores[c] >= 0.0005)]  # below that three decimals show nothing
    sound = _sound_of(run, name)
    fbank = _features_of(run, name, sound)
    return {
        "id": name,
        "true": run.told_of(stored.targets[index]),
        "heard": "; ".join(f"{run.label(c)} {scores[c]:.3f}" for c in shown),
        "picture": None if fbank is None else spectrogram(run.front_end.picture(fbank)),
        "seconds": 0.0 if fbank is None else run.front_end.seconds(len(fbank)),
        "sound": sound and _embedded(sound),
    }


def _embedded(sound: Path) -> dict[str, Any]:
    size = sound.stat().st_size
    content = sound.read_bytes() if size <= LARGEST_SOUND else None
    return {"kind": f"audio/{sound.suffix[1:]}", "megabytes": size / 1e6, "content": content}


def _features_of(run: RunFiles, name: str, sound: Path | None) -> np.ndarray | None:
    """From the sound itself, else, of a training clip as the model saw it, from examples.npz, else None."""
    from ast_jax.features import AudioError, load_audio

    if sound is not None:
        try:
            return run.front_end.features(load_audio(sound, sample_rate_hz=run.front_end.sample_rate_hz))
        except AudioError:
            pass  # the player beside it says so
    if run.examples is not None and name in run.examples.ids:
        return run.examples.fbank[run.examples.ids.index(name)]
    return None


def _sound_of(run: RunFiles, name: str) -> Path | None:
    paths = [sound_file(run.directory, name, suffix) for suffix in (".flac", ".wav")]
    return next((path for path in paths if path is not None and path.is_file()), None)


def sound_file(directory: Path, name: str, suffix: str) -> Path | None:
    """audio/{name}{suffix} of a work directory; None where the name would lead out of that folder."""
    folder = (directory / "audio").resolve()
    path = (folder / f"{name}{suffix}").resolve()
    return path if path.is_relative_to(folder) else None
