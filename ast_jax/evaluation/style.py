"""How plots look: one quiet style on light or dark paper, in colours that colour-blind people tell apart.

A plot is 5 inches wide and its text 10 points, so that it stays readable on a screen 390 pixels wide.
"""

import io
import struct
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure

WIDTH, HEIGHT = 5.0, 3.0  # inches
_DPI, _WIDE_DPI = 200, 140  # dots an inch; wide plots are shown smaller than they are

# rcParams of both themes.
_STYLE: dict[Any, Any] = {
    "font.size": 10,
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "grid.linewidth": 0.8,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "lines.linewidth": 2,
    "lines.markersize": 4,
    "lines.solid_capstyle": "round",
    "text.parse_math": False,  # a label may hold a $
}


@dataclass(frozen=True)
class Theme:
    """Colours of a plot. `measured` and `published` are Okabe and Ito's; `deep` ends a scale of shares."""

    paper: str
    ink: str
    faint: str
    grid: str
    measured: str
    published: str
    deep: str

    @property
    def rc(self) -> dict[Any, Any]:
        """The theme as rcParams, for `matplotlib.rc_context`."""
        return _STYLE | {
            "figure.facecolor": self.paper,
            "axes.facecolor": self.paper,
            "savefig.facecolor": self.paper,
            "text.color": self.ink,
            "axes.labelcolor": self.faint,
            "axes.edgecolor": self.grid,
            "xtick.color": self.faint,
            "ytick.color": self.faint,
            "grid.color": self.grid,
        }


LIGHT = Theme("#ffffff", "#1c2128", "#636c76", "#e3e6ea", "#0072b2", "#d55e00", "#08306b")
DARK = Theme("#1a1e24", "#e6e8eb", "#9aa4af", "#343b44", "#56b4e9", "#e69f00", "#bfe3fa")


@dataclass(frozen=True)
class Picture:
    """A finished plot: its file name without suffix, what it shows in words, and the PNG."""

    name: str
    alt: str
    png: bytes
    wide: bool = False

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels, from the PNG's first chunk."""
        width, height = struct.unpack(">II", self.png[16:24])
        return width, height


class Png(bytes):
    """A picture's bytes, which a notebook shows where they end a cell."""

    def _repr_png_(self) -> bytes:
        return bytes(self)

    def __repr__(self) -> str:
        return f"Png({len(self):,} bytes)"


@contextmanager
def sheet(
    theme: Theme, width: float = WIDTH, height: float = HEIGHT
) -> "Iterator[tuple[Figure, Callable[[], Png]]]":
    """Yields an empty figure, `width` by `height` inches, and the function that turns it into PNG bytes.

    No window and no global list of figures: it works in any thread.
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context(theme.rc):
        figure = Figure(figsize=(width, height), dpi=_DPI if width <= 8 else _WIDE_DPI, layout="constrained")
        canvas = FigureCanvasAgg(figure)

        def png() -> Png:
            out = io.BytesIO()
            with warnings.catch_warnings():
                # Matplotlib's own font lacks some scripts: such a label is drawn as boxes.
                # The report's table has it in full.
                warnings.filterwarnings("ignore", message=r"Glyph .* missing from")
                canvas.print_png(out, metadata={"Software": None})
            return Png(out.getvalue())

        yield figure, png


def count_axis(axes: "Axes", name: str) -> None:
    """An x axis of whole numbers, thousands set apart, few enough never to touch."""
    from matplotlib.ticker import MaxNLocator, StrMethodFormatter

    axes.set_xlabel(name)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True, min_n_ticks=1))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))


def legend_above(axes: "Axes") -> None:
    """The legend on the title's line, where it covers no data."""
    axes.legend(
        loc="lower right",
        bbox_to_anchor=(1.0, 0.98),
        ncols=3,
        handlelength=1.4,
        columnspacing=1.0,
        borderaxespad=0.2,
    )


def paper_to_accent(theme: Theme) -> "Colormap":
    """A colour map from the paper (0) to the theme's accent (1), for shares."""
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("share", [theme.paper, theme.measured, theme.deep])


def shortened(label: str, limit: int = 26) -> str:
    """A label that fits beside an axis, on one line."""
    line = " ".join(label.split())
    return line if len(line) <= limit else line[: limit - 1].rstrip() + "…"
