"""The report's section on classes: the plot, a table to sort, and what is mixed up most."""

from html import escape
from typing import Any

import numpy as np

from ast_jax.evaluation import metrics
from ast_jax.evaluation.plots import METRIC_NAMES, confusion, shows_confusion
from ast_jax.evaluation.report_pieces import not_yet
from ast_jax.evaluation.run_files import RunFiles, StoredScores, is_figure


def classes_section(run: RunFiles, images: dict[str, str]) -> str:
    """HTML of the section: confusion matrix or AP plot, the sortable table, and what is mixed up most."""
    rows = run.results.get("per_class") or []
    stored = run.predictions
    if not rows and stored is not None:
        rows = metrics.per_class(
            stored.scores, stored.targets, [run.label(c) for c in range(stored.scores.shape[1])]
        )
    plots = "".join(images[name] for name in ("confusion", "per_class_ap") if name in images)
    if not rows and not plots:
        return not_yet("No figures by class yet", "predictions.npz and results.json come with the evaluation")
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
