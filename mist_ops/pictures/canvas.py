"""What all pictures share: paper, colors, lines, and how a figure becomes a PNG. What is drawn belongs elsewhere."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

Style = Literal["solid"] | tuple[float, tuple[float, float]]

COLORS = ("#E69F00", "#56B4E9", "#CC79A7", "#F0E442", "#009E73", "#D55E00", "#0072B2")
"""Okabe and Ito's palette without black, those first that stand out from gray; from the eighth label on used again."""

LINES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7A7A00")
"""The same for lines on white."""


PAPER, INK, FAINT = "#111417", "#F2F2F2", "#9AA4AD"

DPI = 120
"""Pixels of an inch; sizes of figures are in inches."""

THUMBNAIL_HEIGHT = 128
THUMBNAIL_BYTES = 10_000

PLOT_HEIGHT = 300
PLOT_BYTES = 30_000
"""The same of plots, of which a study has few."""


def new_figure(width: float, height: float, paper: str) -> Figure:
    """An empty figure, in inches."""
    # Without pyplot, which keeps every figure and is not safe in threads.
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=DPI, facecolor=paper)


def png(figure: Figure) -> bytes:
    """The figure as a PNG, the same bytes for the same picture."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", facecolor=figure.get_facecolor(), metadata={"Software": None})
    return buffer.getvalue()


def small_png(figure: Figure, height: int = THUMBNAIL_HEIGHT, most: int = THUMBNAIL_BYTES) -> bytes:
    """The figure so many pixels high, with as many colors as keep it within so many bytes; smaller, if eight do not."""
    from PIL import Image

    large = Image.open(io.BytesIO(png(figure))).convert("RGB")
    width = max(1, round(large.width * height / large.height))
    small = large.resize((width, height), Image.Resampling.LANCZOS)
    for colors in (256, 128, 64, 32, 16, 8):
        buffer = io.BytesIO()
        small.quantize(colors, dither=Image.Dither.NONE).save(buffer, "PNG", optimize=True)
        if buffer.tell() <= most:
            return buffer.getvalue()
    return small_png(figure, height * 3 // 4, most)


def tidy(axes: Axes) -> None:
    """A faint grid, and no frame at the top and on the right."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25, lw=0.6)


def line(color: str, style: Style, name: str) -> Line2D:
    """A line for a legend."""
    from matplotlib.lines import Line2D

    return Line2D([], [], color=color, linestyle=style, linewidth=1.8, label=name)
