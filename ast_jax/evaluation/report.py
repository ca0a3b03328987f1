"""Writes report.html: all of a run on one page that opens from disk, from the files in its work directory.

What the page shows is gathered here and in `report_scores` as plain data; templates/report.html.j2 turns it
into HTML and escapes every name from outside (labels, clip ids, settings).
"""

import base64
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ast_jax.evaluation import easy, metrics
from ast_jax.evaluation.plots import metric_names, pictures
from ast_jax.evaluation.report_scores import (
    CLASS_COLUMNS,
    classes_of,
    clips_of,
    events_of,
    mixed_up,
    stored_classes,
)
from ast_jax.evaluation.run_files import RunFiles, entry, is_figure, read_run
from ast_jax.evaluation.style import DARK, LIGHT, Picture

_SHOWN_ELSEWHERE = ("metrics", "per_class", "best", "last", "interval", "versions", "seconds", "events")


def write_report(workdir: str | Path) -> Path:
    """Writes plots/*.png and report.html into `workdir` as far as the run's files reach; returns the page.

    What the run has not written yet, or what is damaged, is named on the page.
    Raises InputError when `workdir` is no directory.
    """
    run = read_run(workdir)
    light, dark = pictures(run, LIGHT), pictures(run, DARK)
    plots = run.directory / "plots"
    plots.mkdir(exist_ok=True)
    for picture in light:
        (plots / f"{picture.name}.png").write_bytes(picture.png)
    path = run.directory / "report.html"
    path.write_text(page(run, list(zip(light, dark, strict=True))), encoding="utf-8")
    return path


def page(run: RunFiles, drawn: Sequence[tuple[Picture, Picture]] = ()) -> str:
    """The whole document; `drawn` holds each picture in light and in dark."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).with_name("templates")),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["data_uri"] = data_uri
    images = {light.name: (light, dark) for light, dark in drawn}
    return environment.get_template("report.html.j2").render(contents(run), images=images).lstrip()


def data_uri(content: bytes, kind: str) -> str:
    """The content itself as an address, for a page that loads nothing."""
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


def contents(run: RunFiles) -> dict[str, Any]:
    """Everything the page shows but the plots."""
    published = run.published.metric if run.published else ""
    return {
        "name": run.directory.resolve().name,
        "facts": facts(run),
        "problems": run.problems,
        "headline": headline(run),
        "standing": standing(run),
        "published_name": name_of(published),
        "gaps": gaps(run),
        "curves": ["loss", *metric_names(run), "learning_rate"],
        "class_columns": CLASS_COLUMNS,
        "classes": classes_of(run),
        "mixed_up": mixed_up(run),
        "events": events_of(run),
        "clips": clips_of(run),
        "has_sounds": (run.directory / "audio").is_dir(),
        "has_settings": bool(run.config),
        "settings": config_difference(run.config),
        "versions": versions(run),
    }


# --- headline


def facts(run: RunFiles) -> list[str]:
    """What was trained on what, for the line under the page's title."""
    dataset = entry(run.config, "dataset").get("name")
    clips, seconds = run.results.get("num_examples"), run.results.get("seconds")
    beaten, metric = entry(run.results, "easy"), str(run.config.get("metric", ""))
    known = [
        f"data set {dataset}" if dataset else "",
        model_name(run.config, run.card),
        f"{len(run.labels)} classes" if run.labels else "",
        f"{clips:,} clips evaluated" if is_figure(clips) else "",
        f"took {duration_text(seconds)}" if is_figure(seconds) else "",
        easy.told(beaten, metric) if easy.answers(beaten, metric) else "",
    ]
    return [fact for fact in known if fact]


def model_name(config: Mapping[str, Any], card: Mapping[str, Any]) -> str:
    """'AST base', or 'AST, 3 blocks of width 128' where no variant has that shape; '' where nothing is known.

    The model card says what was built; config.json is asked where there is none. Another family is called by
    its name.
    """
    from ast_jax.models.ast import VARIANTS

    settings, built = entry(config, "model"), entry(card, "model")
    family = card.get("family") or settings.get("family") or "ast"
    if family != "ast":
        return str(family)
    variant = VARIANTS.get(str(settings.get("variant")), {})
    keys = ("width", "depth", "num_heads")
    shape = {key: built.get(key) or settings.get(key) or variant.get(key) for key in keys}
    if None in shape.values():
        return ""
    named = [name for name, own in VARIANTS.items() if own == shape]
    blocks = "1 block" if shape["depth"] == 1 else f"{shape['depth']} blocks"
    return f"AST {named[0]}" if named else f"AST, {blocks} of width {shape['width']}"


def headline(run: RunFiles) -> dict[str, Any] | None:
    """The final figures; before there are any, those of the last evaluation; None before the first one."""
    final = entry(run.results, "metrics")
    figures = final or (run.evals[-1] if run.evals else {})
    if not figures:
        return None
    source = run.results if final else figures
    main = main_metric(run)
    shown = [main, *(metric for metric in metric_names(run) if metric in figures and metric != main)]
    there, expected = source.get("num_examples"), source.get("expected_examples")
    return {
        "cells": [
            {
                "name": name_of(metric),
                "text": figure_text(metric, figures.get(metric)),
                "is_main": metric == main,
                "interval": interval(run, metric) if metric == main else None,
            }
            for metric in shown
        ],
        "epoch": source.get("epoch"),
        "is_final": bool(final),
        "left_out": sum(row.get("ap") is None for row in stored_classes(run)) if final else 0,
        # For data that disappears from the net, such as AudioSet: how much of the evaluation set was there.
        "coverage": (there, expected) if is_figure(there) and is_figure(expected) and expected else None,
    }


def name_of(metric: str) -> str:
    """What people call a metric; one of the user's own by its address."""
    return metrics.METRICS[metric].label if metric in metrics.METRICS else metric


def figure_text(metric: str, value: Any) -> str:
    """A metric's value as people write it; a dash for null and NaN."""
    if metric in metrics.METRICS:
        return metrics.METRICS[metric].text(value)
    return f"{value:.3f}" if is_figure(value) else "-"


def main_metric(run: RunFiles) -> str:
    """The metric that decided the best epoch."""
    wanted = run.config.get("metric") or entry(run.results, "best").get("metric")
    return wanted if isinstance(wanted, str) else "mAP"


def interval(run: RunFiles, metric: str) -> dict[str, Any] | None:
    """The bootstrap interval that results.json has of this metric."""
    known = entry(run.results, "interval")
    low, high, level = known.get("low"), known.get("high"), known.get("level", 0.95)
    if known.get("metric") != metric or not all(map(is_figure, (low, high, level))):
        return None
    return {"low": figure_text(metric, low), "high": figure_text(metric, high), "percent": f"{100 * level:g}"}


def standing(run: RunFiles) -> list[dict[str, Any]]:
    """The best and the last epoch, with the metric that decides."""
    found = []
    for word in ("best", "last"):
        row = entry(run.results, word)
        metric = row.get("metric") or main_metric(run)
        value = row.get("value", row.get(metric))
        if "epoch" in row and is_figure(value):
            text = figure_text(metric, value)
            found.append({"word": word, "epoch": row["epoch"], "name": name_of(metric), "text": text})
    return found


def gaps(run: RunFiles) -> list[metrics.Gap]:
    """Measured beside published, for each epoch evaluated so far that the published curve has."""
    known = run.published
    if known is None:
        return []
    found = []
    for row in run.evals:
        if is_figure(row.get("epoch")) and known.metric in row:
            value = row[known.metric] if is_figure(row[known.metric]) else float("nan")
            found.append(metrics.published_gap(int(row["epoch"]), value, known.curve, known.band))
    return [gap for gap in found if gap]


# --- settings, versions


def config_difference(config: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """(key, base value, this run's value) of each setting that differs from `ast_jax.config.base()`, as text.

    A key that only one side has stands against a dash: `dataset.options` are the data set's own, and versions
    differ. Nothing for an empty config.
    """
    from ast_jax.config import base, flatten

    ours, theirs = _flat(config), flatten(base())
    rows = []
    for key in [*theirs, *(key for key in ours if key not in theirs)] if config else []:
        same = key in ours and key in theirs and ours[key] == theirs[key]
        if not same and not key.startswith("published.curve."):
            rows.append((key, _setting(theirs, key), _setting(ours, key)))
    return rows


def versions(run: RunFiles) -> list[tuple[str, str]]:
    """(what, value) of the versions, the time it took and whatever else results.json holds."""
    rows = [(name, str(version)) for name, version in entry(run.results, "versions").items()]
    seconds = run.results.get("seconds")
    if is_figure(seconds):
        rows.append(("time", f"{duration_text(seconds)} ({seconds:,.1f} s)"))
    rest = _flat({key: value for key, value in run.results.items() if key not in _SHOWN_ELSEWHERE})
    text = lambda value: value if isinstance(value, str) else json.dumps(value)
    return rows + [(key, text(value)) for key, value in rest.items()]


def duration_text(seconds: float) -> str:
    """1234.5 s as `20 min 34 s`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{seconds:.1f} s"


def _setting(side: Mapping[str, Any], key: str) -> str:
    return json.dumps(side[key], ensure_ascii=False) if key in side else "-"


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{'a': {'b': 1}} as {'a.b': 1}; empty dictionaries vanish."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat
