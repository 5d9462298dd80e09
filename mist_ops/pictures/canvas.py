"""Colors, sizes and PNG export shared by all figures."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from mist_ops.files import atomic

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

Style = Literal["solid"] | tuple[float, tuple[float, float]]

COLORS = ("#E69F00", "#56B4E9", "#CC79A7", "#F0E442", "#009E73", "#D55E00", "#0072B2")
"""Okabe and Ito's palette without black, most visible on gray first; repeated from the eighth label on."""

LINES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7A7A00")
"""The same palette for lines on white."""

BACKGROUND, TEXT, MUTED = "#111417", "#F2F2F2", "#9AA4AD"

DPI = 120
"""Pixels per inch; figure sizes are in inches."""

THUMBNAIL_HEIGHT = 128
THUMBNAIL_BYTES = 10_000

PLOT_HEIGHT = 300
PLOT_BYTES = 30_000
"""Limits for plots, of which a study has few."""


def new_figure(width: float, height: float, background: str) -> Figure:
    """Create an empty figure; sizes in inches."""
    # pyplot keeps every figure and is not thread-safe.
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=DPI, facecolor=background)


def png(figure: Figure) -> bytes:
    """Render a figure as a PNG; the same figure gives the same bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", facecolor=figure.get_facecolor(), metadata={"Software": None})
    return buffer.getvalue()


def write_png(figure: Figure, path: Path) -> bytes:
    """Write a figure as a PNG and return the PNG."""
    image = png(figure)
    with atomic(path) as temporary:
        temporary.write_bytes(image)
    return image


def small_png(image: bytes, height: int = THUMBNAIL_HEIGHT, most: int = THUMBNAIL_BYTES) -> bytes:
    """Scale a PNG to a height in pixels, then reduce colors, then height, until it has at most ``most`` bytes."""
    from PIL import Image

    large = Image.open(io.BytesIO(image)).convert("RGB")
    while True:
        width = max(1, round(large.width * height / large.height))
        small = large.resize((width, height), Image.Resampling.LANCZOS, reducing_gap=2.0)
        for colors in (128, 16):
            buffer = io.BytesIO()
            # Median cut would give most colors to the grays, and none to thin outlines.
            small.quantize(colors, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(buffer, "PNG")
            if buffer.tell() <= most:
                return buffer.getvalue()
        # The size is nearly proportional to the area; each try costs as much as drawing a small figure.
        height = int(height * min(0.9, math.sqrt(most / buffer.tell())))


def tidy(axes: Axes) -> None:
    """Add a light grid and remove the top and right spines."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25, lw=0.6)


def line(color: str, style: Style, name: str) -> Line2D:
    """Create a line for a legend."""
    from matplotlib.lines import Line2D

    return Line2D([], [], color=color, linestyle=style, linewidth=1.8, label=name)
