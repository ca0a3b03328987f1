"""Writes report.html: all of a run on one page that opens from disk, from the files in its work directory.

Letters: N clips, T frames, F mel bins, C classes. Names from outside (labels, clip ids, settings) are escaped wherever they appear.
"""

import json
from collections.abc import Iterable, Mapping
from html import escape
from pathlib import Path
from typing import Any

from ast_jax.evaluation import metrics
from ast_jax.evaluation.plots import METRIC_NAMES, pictures
from ast_jax.evaluation.report_classes import classes_section
from ast_jax.evaluation.report_clips import clips_section
from ast_jax.evaluation.report_page import page
from ast_jax.evaluation.report_pieces import duration_text, figure, figure_text, not_yet, plain_table
from ast_jax.evaluation.run_files import RunFiles, is_figure, read_run
from ast_jax.evaluation.style import DARK, LIGHT

_SHOWN_ELSEWHERE = ("metrics", "per_class", "best", "last", "interval", "versions", "seconds")


def write_report(workdir: str | Path) -> Path:
    """Writes `workdir`/report.html and returns its path. What the run has not written yet is named on the page.

    Raises InputError when `workdir` is no directory or one of its files cannot be understood.
    """
    run = read_run(workdir)
    light, dark = pictures(run, LIGHT), pictures(run, DARK)
    images = {one.name: figure(one, other) for one, other in zip(light, dark, strict=True)}
    sections = [
        ("curves", "Curves", _curves(run, images)),
        ("classes", "Classes", classes_section(run, images)),
        ("clips", "Best and worst clips", clips_section(run)),
        ("seen", "What the model sees", _seen(images)),
        ("settings", "Settings", _settings(run)),
        ("speed", "Speed and data", _speed(run, images)),
        ("versions", "Versions and run", _versions(run)),
    ]
    name = run.directory.resolve().name
    footer = "<p>Written by ast_jax from the files of the work directory; this page loads nothing from anywhere else.</p>"
    path = run.directory / "report.html"
    path.write_text(page(f"{name} · ast_jax", _headline(run, name), sections, footer), encoding="utf-8")
    return path


# --- headline


def _headline(run: RunFiles, name: str) -> str:
    figures, source = _headline_figures(run)
    parts = [f"<h1>{escape(name)}</h1>", f'<p class="faint">{escape(_in_a_line(run))}</p>']
    if not figures:
        return "\n".join(
            [*parts, not_yet("No evaluation yet", "metrics.jsonl holds the first one after the first epoch")]
        )
    main = _main_metric(run)
    order = [main, *(metric for metric in METRIC_NAMES if metric != main)]
    cells = [
        f"<div{' class=main' if metric == main else ''}><dt>{METRIC_NAMES[metric]}</dt>"
        f"<dd>{figure_text(metric, figures.get(metric))}{_interval(run, metric, figures.get(metric)) if metric == main else ''}</dd></div>"
        for metric in order
    ]
    return "\n".join(
        [
            *parts,
            f'<dl class="figures">{"".join(cells)}</dl>',
            f"<p>{source}</p>",
            *_standing(run),
            *_gap_line(run),
        ]
    )


def _headline_figures(run: RunFiles) -> tuple[Mapping[str, Any], str]:
    """The final figures; before there are any, those of the last evaluation. And where they come from, as HTML."""
    if run.results.get("metrics"):
        epoch = run.results.get("epoch")
        return run.results[
            "metrics"
        ], f"Figures of epoch {escape(str(epoch))}.{_left_out(run)}{_coverage(run.results)}"
    if run.evals:
        row = run.evals[-1]
        return (
            row,
            f"Figures of the last evaluation so far, epoch {escape(str(row.get('epoch')))}; results.json is not written yet.{_coverage(row)}",
        )
    return {}, ""


def _in_a_line(run: RunFiles) -> str:
    dataset, model = run.config.get("dataset") or {}, run.config.get("model") or {}
    parts = [
        f"data set {dataset['name']}" if dataset.get("name") else "",
        f"AST {model['variant']}" if model.get("variant") else "",
        f"{len(run.labels)} classes" if run.labels else "",
        f"{run.results['num_examples']:,} clips evaluated"
        if is_figure(run.results.get("num_examples"))
        else "",
        f"took {duration_text(run.results['seconds'])}" if is_figure(run.results.get("seconds")) else "",
    ]
    return ", ".join(part for part in parts if part)


def _main_metric(run: RunFiles) -> str:
    best = run.results.get("best") or {}
    wanted = run.config.get("metric") or best.get("metric")
    return wanted if wanted in METRIC_NAMES else "mAP"


def _interval(run: RunFiles, metric: str, value: Any) -> str:
    """The bootstrap interval that results.json has of this figure."""
    known = run.results.get("interval") or {}
    low, high = known.get("low"), known.get("high")
    if known.get("metric") != metric or not (is_figure(value) and is_figure(low) and is_figure(high)):
        return ""
    return f"<small>{figure_text(metric, low)} to {figure_text(metric, high)}<br>(95 % over clips)</small>"


def _left_out(run: RunFiles) -> str:
    left_out = sum(row.get("ap") is None for row in run.results.get("per_class") or [])
    return f" {left_out} classes without a true clip are left out of mAP and AUC." if left_out else ""


def _coverage(figures: Mapping[str, Any]) -> str:
    """For data that disappears from the net, such as AudioSet: how much of the evaluation set was there."""
    there, expected = figures.get("num_examples"), figures.get("expected_examples")
    if not there or not expected:
        return ""
    return f" {there:,} of {expected:,} evaluation clips were there ({100 * there / expected:.1f} %)."


def _standing(run: RunFiles) -> Iterable[str]:
    for word, entry in (("Best", run.results.get("best")), ("Last", run.results.get("last"))):
        if not isinstance(entry, dict) or "epoch" not in entry:
            continue
        metric = entry.get("metric") or _main_metric(run)
        value = entry.get("value", entry.get(metric, (entry.get("metrics") or {}).get(metric)))
        if is_figure(value) and metric in METRIC_NAMES:
            epoch = escape(str(entry["epoch"]))
            yield f"<p>{word} epoch {epoch}: {METRIC_NAMES[metric]} {figure_text(metric, value)}.</p>"


def _gaps(run: RunFiles) -> list[metrics.Gap]:
    published = run.published
    if not published:
        return []
    rows = [row for row in run.evals if is_figure(row.get("epoch"))]
    values = [(int(row["epoch"]), row.get(published.metric)) for row in rows]
    gaps = [
        metrics.published_gap(
            epoch, float("nan") if value is None else value, published.curve, published.band
        )
        for epoch, value in values
    ]
    return [gap for gap in gaps if gap]


def _gap_line(run: RunFiles) -> Iterable[str]:
    gaps = _gaps(run)
    if gaps and run.published:
        gap, metric = gaps[-1], run.published.metric
        word, kind = ("inside", "good") if gap.inside else ("OUTSIDE", "bad")
        yield (
            f'<p class="{kind}"><strong>Epoch {gap.epoch}: {word} the published band.</strong> '
            f"{METRIC_NAMES.get(metric, escape(metric))} {gap.measured:.4f}, published {gap.published:.4f}, "
            f"difference {gap.difference:+.4f}, band ± {gap.band:g}.</p>"
        )


# --- curves


def _curves(run: RunFiles, images: dict[str, str]) -> str:
    shown = "".join(images[name] for name in ("loss", *METRIC_NAMES, "learning_rate") if name in images)
    missing = not_yet("No curves yet", "metrics.jsonl is written while the run goes on")
    return (f'<div class="grid">{shown}</div>' if shown else missing) + _gap_table(run)


def _gap_table(run: RunFiles) -> str:
    gaps = _gaps(run)
    if not gaps or not run.published:
        return ""
    rows = [
        [
            str(gap.epoch),
            f"{gap.measured:.4f}",
            f"{gap.published:.4f}",
            f"{gap.difference:+.4f}",
            "yes" if gap.inside else "NO",
        ]
        for gap in gaps
    ]
    table = plain_table(["epoch", "measured", "published", "difference", "inside the band"], rows)
    name = METRIC_NAMES.get(run.published.metric, run.published.metric)
    return f"<details><summary>{escape(name)} beside the published curve, epoch by epoch</summary>{table}</details>"


# --- examples


def _seen(images: dict[str, str]) -> str:
    if "spectrograms" not in images:
        return not_yet("No examples yet", "examples.npz is written when training starts")
    words = "Training clips after padding, masks and normalisation. Padding and masks lie above silence, as the reference has it."
    return f'<p>{words}</p><div class="narrow">{images["spectrograms"]}</div>'


# --- settings, speed, versions


def _settings(run: RunFiles) -> str:
    if not run.config:
        return not_yet("No settings yet", "config.json is written when the run starts")
    rows = config_difference(run.config)
    if not rows:
        return "<p>Nothing differs from the base settings.</p>"
    cells = [[f"<code>{escape(key)}</code>", escape(old), escape(new)] for key, old, new in rows]
    return f"<p>What differs from the base settings.</p>{plain_table(['setting', 'base', 'this run'], cells, raw=True)}"


def config_difference(config: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """(key, base value, this run's value) of every setting that differs from `ast_jax.config.base()`, as text.

    A key that only one side has stands against a dash: `dataset.options` are the data set's own, and versions differ.
    """
    from ast_jax.config import base, flatten

    ours, theirs = _flat(config), flatten(base())
    rows = []
    for key in [*theirs, *(key for key in ours if key not in theirs)]:
        same = key in ours and key in theirs and ours[key] == theirs[key]
        if not same and not key.startswith("published.curve."):
            rows.append((key, _setting(theirs, key), _setting(ours, key)))
    return rows


def _setting(side: Mapping[str, Any], key: str) -> str:
    return json.dumps(side[key], ensure_ascii=False) if key in side else "-"


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{'a': {'b': 1}} as {'a.b': 1}; empty dictionaries vanish."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def _speed(run: RunFiles, images: dict[str, str]) -> str:
    shown = [images[name] for name in ("data_wait", "clips_per_s") if name in images]
    if not shown:
        return not_yet("No log points yet", "metrics.jsonl is written while the run goes on")
    return f'<div class="grid">{"".join(shown)}</div>'


def _versions(run: RunFiles) -> str:
    if not run.results:
        return not_yet(
            "Not finished yet", "results.json holds versions and seconds, and is written at the end"
        )
    rest = {key: value for key, value in run.results.items() if key not in _SHOWN_ELSEWHERE}
    rows = [[name, str(version)] for name, version in (run.results.get("versions") or {}).items()]
    if is_figure(run.results.get("seconds")):
        rows.append(["time", f"{duration_text(run.results['seconds'])} ({run.results['seconds']:,.1f} s)"])
    rows += [
        [key, value if isinstance(value, str) else json.dumps(value)] for key, value in _flat(rest).items()
    ]
    return plain_table(["what", "value"], rows)
