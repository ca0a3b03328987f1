"""Writes report.html: all of a run on one page that opens from disk, from the files in its work directory.

Letters: N clips, T frames, F mel bins, C classes. Names from outside (labels, clip ids, settings) are escaped wherever they appear.
"""

import base64
import json
import struct
from collections.abc import Iterable, Mapping
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from ast_jax.evaluation import metrics
from ast_jax.evaluation.plots import METRIC_NAMES, Picture, confusion, pictures, shows_confusion, spectrogram
from ast_jax.evaluation.report_page import page
from ast_jax.evaluation.run_files import RunFiles, StoredScores, is_figure, read_run
from ast_jax.evaluation.style import DARK, LIGHT
from ast_jax.features.spec import FRAME_SHIFT, SAMPLE_RATE

CLIPS_SHOWN = 6  # most confident right ones, and as many wrong ones
LARGEST_SOUND = (
    2_000_000  # bytes; a longer recording would make the page slow to open, so it is named, not embedded
)
BOOTSTRAP_CELLS = 500_000  # clips x classes up to which 200 resamplings take a moment
_SHOWN_ELSEWHERE = ("metrics", "per_class", "best", "last", "versions", "seconds")


def write_report(workdir: str | Path) -> Path:
    """Writes `workdir`/report.html and returns its path. What the run has not written yet is named on the page.

    Raises InputError when `workdir` is no directory or one of its files cannot be understood.
    """
    run = read_run(workdir)
    light, dark = pictures(run, LIGHT), pictures(run, DARK)
    images = {one.name: _image(one, other) for one, other in zip(light, dark, strict=True)}
    sections = [
        ("curves", "Curves", _curves(run, images)),
        ("classes", "Classes", _classes(run, images)),
        ("clips", "Best and worst clips", _clips(run)),
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
            [*parts, _missing("No evaluation yet", "metrics.jsonl holds the first one after the first epoch")]
        )
    main = _main_metric(run)
    order = [main, *(metric for metric in METRIC_NAMES if metric != main)]
    cells = [
        f"<div{' class=main' if metric == main else ''}><dt>{METRIC_NAMES[metric]}</dt>"
        f"<dd>{_shown(metric, figures.get(metric))}{_interval(run, metric, figures.get(metric)) if metric == main else ''}</dd></div>"
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
        ], f"Figures of epoch {escape(str(epoch))}.{_left_out(run)}{_coverage(run)}"
    if run.evals:
        row = run.evals[-1]
        return (
            row,
            f"Figures of the last evaluation so far, epoch {escape(str(row.get('epoch')))}; results.json is not written yet.",
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
        f"took {_duration(run.results['seconds'])}" if is_figure(run.results.get("seconds")) else "",
    ]
    return ", ".join(part for part in parts if part)


def _main_metric(run: RunFiles) -> str:
    best = run.results.get("best") or {}
    wanted = run.config.get("metric") or best.get("metric")
    return wanted if wanted in METRIC_NAMES else "mAP"


def _interval(run: RunFiles, metric: str, value: Any) -> str:
    """A bootstrap interval, when the stored scores are those of the figure and few enough to resample at once."""
    stored = run.predictions
    functions = {"accuracy": metrics.accuracy, "mAP": metrics.mean_average_precision}
    if (
        metric not in functions
        or stored is None
        or stored.scores.size > BOOTSTRAP_CELLS
        or not is_figure(value)
    ):
        return ""
    if not len(stored.scores) or abs(functions[metric](stored.scores, stored.targets) - value) > 1e-6:
        return ""
    low, high = metrics.bootstrap_interval(stored.scores, stored.targets, functions[metric], repeats=200)
    return f"<small>{_shown(metric, low)} to {_shown(metric, high)}<br>(95 % over clips)</small>"


def _left_out(run: RunFiles) -> str:
    left_out = sum(row.get("ap") is None for row in run.results.get("per_class") or [])
    return f" {left_out} classes without a true clip are left out of mAP and AUC." if left_out else ""


def _coverage(run: RunFiles) -> str:
    """For data that disappears from the net, such as AudioSet: how much of the evaluation set was there."""
    there, expected = run.results.get("num_examples"), run.results.get("expected_examples")
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
            yield f"<p>{word} epoch {epoch}: {METRIC_NAMES[metric]} {_shown(metric, value)}.</p>"


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


# --- curves and classes


def _curves(run: RunFiles, images: dict[str, str]) -> str:
    shown = "".join(images[name] for name in ("loss", *METRIC_NAMES, "learning_rate") if name in images)
    missing = _missing("No curves yet", "metrics.jsonl is written while the run goes on")
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
    table = _table(["epoch", "measured", "published", "difference", "inside the band"], rows)
    name = METRIC_NAMES.get(run.published.metric, run.published.metric)
    return f"<details><summary>{escape(name)} beside the published curve, epoch by epoch</summary>{table}</details>"


def _classes(run: RunFiles, images: dict[str, str]) -> str:
    rows = run.results.get("per_class") or []
    stored = run.predictions
    if not rows and stored is not None:
        rows = metrics.per_class(
            stored.scores, stored.targets, [run.label(c) for c in range(stored.scores.shape[1])]
        )
    plots = "".join(images[name] for name in ("confusion", "per_class_ap") if name in images)
    if not rows and not plots:
        return _missing(
            "No figures by class yet", "predictions.npz and results.json come with the evaluation"
        )
    mixed_up = (
        _mixed_up(run, stored)
        if stored is not None and len(stored.scores) and shows_confusion(stored)
        else ""
    )
    return f'<div class="grid">{plots}{_class_table(rows)}</div>{mixed_up}'


def _class_table(rows: list[dict[str, Any]]) -> str:
    """Sortable by every column; at first by average precision, best first."""
    columns = [
        ("ap", "AP"),
        ("auc", "AUC"),
        ("d_prime", METRIC_NAMES["d_prime"]),
        ("accuracy", "recall"),
        ("positives", "clips"),
    ]
    head = '<th scope="col"><button type="button">class</button></th>' + "".join(
        f'<th scope="col" class="number"{" aria-sort=descending" if key == "ap" else ""}><button type="button">{name}</button></th>'
        for key, name in columns
    )
    ordered = sorted(rows, key=lambda row: -row["ap"] if is_figure(row.get("ap")) else 1)
    body = "".join(
        f'<tr><th scope="row" data-v="{escape(str(row.get("label")))}">{escape(str(row.get("label")))}</th>'
        + "".join(_class_cell(key, row.get(key)) for key, _ in columns)
        + "</tr>\n"
        for row in ordered
    )
    caption = "Recall: the share of a class's clips on which it scores highest. Press a heading to sort."
    return (
        f'<div class="card classes"><p class="faint">{caption}</p>'
        f'<div class="scroll" tabindex="0" role="region" aria-label="Figures by class"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div></div>"
    )


def _class_cell(key: str, value: Any) -> str:
    if not is_figure(value):
        return '<td class="number" data-v="">-</td>'
    text = f"{value:,}" if key == "positives" else f"{value:.2f}" if key == "d_prime" else f"{value:.3f}"
    share = f' share" style="--v:{value:.3f}' if key == "ap" else ""
    return f'<td class="number{share}" data-v="{value}">{text}</td>'


def _mixed_up(run: RunFiles, stored: StoredScores, most: int = 6) -> str:
    counts = confusion(stored)
    np.fill_diagonal(counts, 0)
    pairs = [
        divmod(int(place), len(counts)) for place in np.argsort(-counts, axis=None, kind="stable")[:most]
    ]
    lines = [
        f"<li>{escape(run.label(true))} heard as {escape(run.label(heard))}: {counts[true, heard]}</li>"
        for true, heard in pairs
        if counts[true, heard]
    ]
    return (
        f"<h3>Most often mixed up</h3><ul>{''.join(lines)}</ul>"
        if lines
        else "<p>No clip was mistaken for another class.</p>"
    )


# --- clips


def _clips(run: RunFiles) -> str:
    if run.predictions is None or not len(run.predictions.scores):
        return _missing("No clips yet", "predictions.npz comes with the evaluation")
    stored = run.predictions
    best = stored.scores.max(axis=1)
    top = stored.scores.argmax(axis=1)
    right = stored.targets[np.arange(len(top)), top] > 0
    surest = np.argsort(-best, kind="stable")
    kinds = [
        (
            "Most confident and wrong",
            [int(i) for i in surest if not right[i]],
            "The highest-scored class was true on every clip.",
        ),
        (
            "Most confident and right",
            [int(i) for i in surest if right[i]],
            "The highest-scored class was true on no clip.",
        ),
    ]
    parts = []
    for heading, clips, none in kinds:
        cards = "".join(_clip(run, stored, i) for i in clips[:CLIPS_SHOWN])
        parts.append(
            f"<h3>{heading}</h3>" + (f'<div class="grid">{cards}</div>' if cards else f"<p>{none}</p>")
        )
    if not (run.directory / "audio").is_dir():
        parts.append(
            '<p class="faint">With the sounds in the work directory (audio/ID.wav) this page plays them.</p>'
        )
    return "\n".join(parts)


def _clip(run: RunFiles, stored: StoredScores, index: int) -> str:
    scores = stored.scores[index]
    first, *others = (int(c) for c in np.argsort(-scores, kind="stable")[:3])
    # Semicolons, since AudioSet's names hold commas.
    shown = [first, *(c for c in others if scores[c] >= 0.0005)]  # below that three decimals show nothing
    heard = "; ".join(f"{run.label(c)} {scores[c]:.3f}" for c in shown)
    true = "; ".join(run.labels_of(stored.targets[index])) or "no label"
    name = stored.ids[index]
    return (
        f'<article class="card clip"><h4>{escape(true)}</h4><p>heard: {escape(heard)}</p>'
        f"<p><code>{escape(name)}</code></p>{_picture_of_clip(run, name)}{_player(run, name)}</article>\n"
    )


def _picture_of_clip(run: RunFiles, name: str) -> str:
    fbank = _fbank_of(run, name)
    if fbank is None:
        return ""
    seconds = len(fbank) * FRAME_SHIFT / SAMPLE_RATE
    return (
        f'<img src="{_data_uri(spectrogram(fbank), "image/png")}" alt="Spectrogram of {escape(name)}">'
        f'<div class="seconds"><span>0 s</span><span>{seconds / 2:.1f} s</span><span>{seconds:.1f} s</span></div>'
    )


def _fbank_of(run: RunFiles, name: str) -> np.ndarray | None:
    """From examples.npz, else from the sound itself, else None."""
    if run.examples is not None and name in run.examples.ids:
        return run.examples.fbank[run.examples.ids.index(name)]
    sound = _sound_of(run, name)
    if sound is None:
        return None
    from ast_jax.features import load_audio, log_mel

    return log_mel(load_audio(sound))


def _player(run: RunFiles, name: str) -> str:
    sound = _sound_of(run, name)
    if sound is None:
        return ""
    if sound.stat().st_size > LARGEST_SOUND:
        return f'<p class="faint">{sound.stat().st_size / 1e6:.0f} MB of sound: too long to embed.</p>'
    uri = _data_uri(sound.read_bytes(), "audio/wav")
    return f'<audio controls preload="none" src="{uri}" aria-label="{escape(name)}"></audio>'


def _sound_of(run: RunFiles, name: str) -> Path | None:
    """audio/{name}.wav, never a file outside that folder, whatever the name says."""
    folder = (run.directory / "audio").resolve()
    path = (folder / f"{name}.wav").resolve()
    return path if path.is_relative_to(folder) and path.is_file() else None


def _seen(images: dict[str, str]) -> str:
    if "spectrograms" not in images:
        return _missing("No examples yet", "examples.npz is written when training starts")
    words = "Training clips after padding, masks and normalisation. Padding and masks lie above silence, as the reference has it."
    return f'<p>{words}</p><div class="narrow">{images["spectrograms"]}</div>'


# --- settings, speed, versions


def _settings(run: RunFiles) -> str:
    if not run.config:
        return _missing("No settings yet", "config.json is written when the run starts")
    rows = config_difference(run.config)
    if not rows:
        return "<p>Nothing differs from the base settings.</p>"
    cells = [[f"<code>{escape(key)}</code>", escape(old), escape(new)] for key, old, new in rows]
    return f"<p>What differs from the base settings.</p>{_table(['setting', 'base', 'this run'], cells, raw=True)}"


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
        return _missing("No log points yet", "metrics.jsonl is written while the run goes on")
    return f'<div class="grid">{"".join(shown)}</div>'


def _versions(run: RunFiles) -> str:
    if not run.results:
        return _missing(
            "Not finished yet", "results.json holds versions and seconds, and is written at the end"
        )
    rest = {key: value for key, value in run.results.items() if key not in _SHOWN_ELSEWHERE}
    rows = [[name, str(version)] for name, version in (run.results.get("versions") or {}).items()]
    if is_figure(run.results.get("seconds")):
        rows.append(["time", f"{_duration(run.results['seconds'])} ({run.results['seconds']:,.1f} s)"])
    rows += [
        [key, value if isinstance(value, str) else json.dumps(value)] for key, value in _flat(rest).items()
    ]
    return _table(["what", "value"], rows)


# --- small pieces


def _missing(what: str, where: str) -> str:
    return f'<p class="faint">{what}: {where}.</p>'


def _table(head: list[str], rows: list[list[str]], *, raw: bool = False) -> str:
    """A plain table; cells are text unless `raw`, when they are HTML already escaped by the caller."""
    cells = [[cell if raw else escape(cell) for cell in row] for row in rows]
    top = "".join(f'<th scope="col">{escape(name)}</th>' for name in head)
    body = "".join(
        f'<tr><th scope="row">{row[0]}</th>{"".join(f"<td>{cell}</td>" for cell in row[1:])}</tr>\n'
        for row in cells
    )
    return f'<div class="card"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def _image(light: Picture, dark: Picture) -> str:
    width, height = struct.unpack(
        ">II", light.png[16:24]
    )  # of the PNG's first chunk; keeps the page still while loading
    picture = (
        f'<picture><source media="(prefers-color-scheme: dark)" srcset="{_data_uri(dark.png, "image/png")}">'
        f'<img src="{_data_uri(light.png, "image/png")}" width="{width}" height="{height}" alt="{escape(light.alt)}"></picture>'
    )
    if not light.wide:
        return f'<figure class="card">{picture}</figure>\n'
    return f'<figure class="card wide"><div class="scroll" tabindex="0" role="region" aria-label="{escape(light.name)}">{picture}</div></figure>\n'


def _data_uri(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


def _shown(metric: str, value: Any) -> str:
    if not is_figure(value):
        return "-"
    return (
        f"{100 * value:.1f} %"
        if metric == "accuracy"
        else f"{value:.2f}"
        if metric == "d_prime"
        else f"{value:.3f}"
    )


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return (
        f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{seconds:.1f} s"
    )
