"""The small pieces of text and HTML that the sections of the report share."""

import base64
import struct
from html import escape
from typing import Any

from ast_jax.evaluation.plots import Picture
from ast_jax.evaluation.run_files import is_figure


def not_yet(what: str, where: str) -> str:
    """A sentence for what the run has not written; plain text that needs no escaping."""
    return f'<p class="faint">{what}: {where}.</p>'


def plain_table(head: list[str], rows: list[list[str]], *, raw: bool = False) -> str:
    """A plain table; cells are text unless `raw`, when they are HTML already escaped by the caller."""
    cells = [[cell if raw else escape(cell) for cell in row] for row in rows]
    top = "".join(f'<th scope="col">{escape(name)}</th>' for name in head)
    body = "".join(
        f'<tr><th scope="row">{row[0]}</th>{"".join(f"<td>{cell}</td>" for cell in row[1:])}</tr>\n'
        for row in cells
    )
    return f'<div class="card"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def figure(light: Picture, dark: Picture) -> str:
    """A picture in both themes, one shown. Its size, from the PNG's first chunk, keeps the page still while it loads."""
    width, height = struct.unpack(">II", light.png[16:24])
    picture = (
        f'<picture><source media="(prefers-color-scheme: dark)" srcset="{data_uri(dark.png, "image/png")}">'
        f'<img src="{data_uri(light.png, "image/png")}" width="{width}" height="{height}" alt="{escape(light.alt)}"></picture>'
    )
    if not light.wide:
        return f'<figure class="card">{picture}</figure>\n'
    region = (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(light.name)}">{picture}</div>'
    )
    return f'<figure class="card wide">{region}</figure>\n'


def data_uri(content: bytes, kind: str) -> str:
    """The content itself as an address, for a page that loads nothing."""
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


def figure_text(metric: str, value: Any) -> str:
    """A metric's value as people write it; a dash for null and NaN."""
    if not is_figure(value):
        return "-"
    if metric == "accuracy":
        return f"{100 * value:.1f} %"
    return f"{value:.2f}" if metric == "d_prime" else f"{value:.3f}"


def duration_text(seconds: float) -> str:
    """1234.5 s as `20 min 34 s`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{seconds:.1f} s"
