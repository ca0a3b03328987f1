"""What was heard in a sound, and how it is told: text for people, JSON and CSV for programs.

W windows, C classes.
"""

import csv
import html
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from ast_jax.errors import printable
from ast_jax.inference.windows import Heard


@dataclass(frozen=True, repr=False)
class Tags:
    """What a model heard: a score for each window and class, and where the windows lie.

    A notebook shows the best labels with their scores.
    """

    times_s: Float[np.ndarray, " W"]  # where each window begins
    ends_s: Float[np.ndarray, " W"]  # and ends: at the sound's end, where the window is longer
    window_s: float
    scores: Float[np.ndarray, "W C"]
    label_names: Sequence[str] = ()

    def best(self, count: int = 5) -> list[tuple[str, float]]:
        """The labels with the highest scores over the whole sound, and these."""
        order = np.argsort(-self.overall, kind="stable")[:count]
        return [(self.label_names[i], float(self.overall[i])) for i in order]

    def rows(self) -> list[dict[str, float]]:
        """A row a window: start_s, end_s, and the score of every label. `pandas.DataFrame(tags.rows())`"""
        return [
            {"start_s": float(start), "end_s": float(end)}
            | dict(zip(self.label_names, scores.tolist(), strict=True))
            for start, end, scores in zip(self.times_s, self.ends_s, self.scores, strict=True)
        ]

    def __repr__(self) -> str:
        best = "".join(f"\n  {score:.4f}  {label}" for label, score in self.best())
        return f"Tags of {self.duration_s:.1f} s in {len(self.scores)} windows{best}"

    def _repr_html_(self) -> str:
        bar = "<td><div style='width:{}px;height:0.8em;background:#0072b2'></div></td>"
        lines = "".join(
            f"<tr><td>{html.escape(label)}</td><td>{score:.4f}</td>{bar.format(round(200 * score))}</tr>"
            for label, score in self.best()
        )
        return f"<table><caption>{self.duration_s:.1f} s, {len(self.scores)} windows</caption>{lines}</table>"

    @property
    def overall(self) -> Float[np.ndarray, " C"]:
        """The mean over windows."""
        return self.scores.mean(axis=0)

    @classmethod
    def of(cls, heard: Heard, window_s: float, label_names: Sequence[str] = ()) -> "Tags":
        """The tags of a sound whose windows of `window_s` were answered by scores."""
        times = np.array(heard.starts_s), np.array(heard.ends_s)
        return cls(*times, window_s, np.stack(heard.answers), label_names)

    @property
    def duration_s(self) -> float:
        """Seconds from the sound's beginning to the end of its last window."""
        return float(self.ends_s[-1])


# (file, tags, which channel of it they are of, if it is one)
Writer = Callable[..., None]


def writer(
    form: str,
    label_names: Sequence[str],
    top: int,
    thresholds: Sequence[float],
    *,
    by_channel: bool = False,
) -> Writer:
    """A function that prints a file's tags as 'text', 'json' (an object a line) or 'csv' (a row a window);
    with `by_channel` those of one channel of a file, which each row then names.
    """
    if form == "csv":
        return _csv_writer(label_names, by_channel)
    tell = json_line if form == "json" else text

    def write(name: str, tags: Tags, channel: int | None = None) -> None:
        print(tell(_whose(name, channel) | describe(tags, label_names, top, thresholds)), flush=True)

    return write


def _whose(name: str, channel: int | None) -> dict[str, Any]:
    return {"file": printable(name)} | ({} if channel is None else {"channel": channel})


def json_line(row: dict[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False)


def describe(tags: Tags, label_names: Sequence[str], top: int, thresholds: Sequence[float]) -> dict[str, Any]:
    """A sound's answer for programs, whoever asks: `predict --json` and the server tell this.

    The `top` labels by their mean score, each with the `spans` of windows in which it scores its
    threshold or more and its score in every window (`timeline`); the best labels of each window; and the same
    scores as one `timeline` of windows and labels.
    """

    def named(scores: np.ndarray, best: Sequence[int]) -> list[dict[str, Any]]:
        return [{"label": label_names[i], "score": _rounded(scores[i])} for i in best]

    best = _best(tags.overall, top)
    series = {i: [_rounded(score) for score in tags.scores[:, i]] for i in best}
    starts, ends = [_seconds(t) for t in tags.times_s], [_seconds(t) for t in tags.ends_s]
    return {
        "start_s": starts[0],
        "end_s": ends[-1],
        "duration_s": _seconds(tags.ends_s[-1] - tags.times_s[0]),
        "tags": [
            tag | {"spans": spans(tags, i, thresholds[i]), "timeline": series[i]}
            for tag, i in zip(named(tags.overall, best), best, strict=True)
        ],
        "windows": [
            {"start_s": start, "end_s": end, "tags": named(scores, _best(scores, top))}
            for start, end, scores in zip(starts, ends, tags.scores, strict=True)
        ],
        "timeline": {
            "starts_s": starts,
            "ends_s": ends,
            "labels": [{"label": label_names[i], "scores": series[i]} for i in best],
        },
    }


def _best(scores: Float[np.ndarray, " C"], top: int) -> list[int]:
    return np.argsort(-scores, kind="stable")[:top].tolist()


def spans(tags: Tags, label: int, threshold: float) -> list[list[float]]:
    """[start, end] in seconds of every run of windows in which the label scores `threshold` or more."""
    found: list[list[float]] = []
    heard = tags.scores[:, label] >= threshold
    for i in np.flatnonzero(heard).tolist():
        start, end = _seconds(tags.times_s[i]), _seconds(tags.ends_s[i])
        if i and heard[i - 1]:
            found[-1][1] = end
        else:
            found.append([start, end])
    return found


def text(row: dict[str, Any]) -> str:
    """A file's tags as lines, with when each was heard where there are several windows."""
    name = row["file"] + (f"  channel {row['channel']}" if "channel" in row else "")
    lines = [name if not row["start_s"] else f"{name}  {row['start_s']:g} to {row['end_s']:g} s"]
    width = max(len(tag["label"]) for tag in row["tags"])
    several = len(row["windows"]) > 1
    for tag in row["tags"]:
        when = _when(tag["spans"]) if several else ""
        lines.append(f"  {tag['score']:7.4f}  {tag['label']:<{width}}  {when}".rstrip())
    return "\n".join(lines)


def _when(found: Sequence[Sequence[float]], limit: int = 4) -> str:
    told = ", ".join(f"{start:.1f}-{end:.1f}" for start, end in found[:limit])
    more = f" and {len(found) - limit} more" if len(found) > limit else ""
    return f"{told} s{more}" if told else ""


def _csv_writer(label_names: Sequence[str], by_channel: bool) -> Writer:
    """Rows `file, start_s, end_s, <a score for every label>`: each label's timeline is a column. With
    `by_channel` there is `channel` after the file.
    """
    out = csv.writer(sys.stdout, lineterminator="\n")
    whose = ["file", "channel"] if by_channel else ["file"]
    out.writerow([*whose, "start_s", "end_s", *label_names])

    def write(name: str, tags: Tags, channel: int | None = None) -> None:
        own = _whose(name, channel).values()
        for start, end, scores in zip(tags.times_s, tags.ends_s, tags.scores, strict=True):
            out.writerow([*own, _seconds(start), _seconds(end), *(f"{score:.4f}" for score in scores)])
        sys.stdout.flush()

    return write


def plot_paths(plot: Path | None, files: Sequence[Path]) -> dict[str, Path]:
    """Where each file's picture goes: `plot` itself for one file, else numbered, with the file's name."""
    if plot is None:
        return {}
    if len(files) == 1:
        return {str(files[0]): plot}
    digits, suffix = len(str(len(files))), plot.suffix or ".png"
    # with a whole one, a name may be longer than the disk allows
    stems = [printable(file.stem)[:100] for file in files]
    return {
        str(file): plot.with_name(f"{plot.stem}-{number:0{digits}d}-{stem}{suffix}")
        for number, (file, stem) in enumerate(zip(files, stems, strict=True), 1)
    }


def _rounded(score: np.floating) -> float:
    return round(float(score), 4)


def _seconds(value: Float[np.ndarray, ""] | float) -> float:
    return round(float(value), 3)
