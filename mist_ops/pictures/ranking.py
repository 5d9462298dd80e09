"""Plot of mean ranks with confidence intervals, drawn with Pillow: importing matplotlib takes a fifth of a ranking."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mist_ops.errors import counted
from mist_ops.files import atomic
from mist_ops.pictures.canvas import LINES, PLOT_BYTES, PLOT_HEIGHT, small_png
from mist_ops.pictures.drawing import font_of

if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont

_FINE = 2
"""Everything is drawn in this many pixels for one and then reduced, which smooths its edges."""

_WIDTH, _ROW, _TEXT = 840 * _FINE, 46 * _FINE, 16 * _FINE
_PAD = 14 * _FINE
_GRID, _INK, _INTERVAL = "#E6E6E6", "#262626", "#80B9D9"
_MOST_TICKS = 12


@dataclass(frozen=True)
class RankedStrategy:
    """Mean rank of a strategy (1 is always the best) and the bounds of its confidence interval."""

    name: str
    rank: float
    low: float
    high: float


def ranking_plot(path: Path, strategies: Sequence[RankedStrategy], patients: int) -> bytes:
    """Write a PNG with a line for each strategy, in the given order; return a thumbnail of at most 30 KB."""
    from PIL import Image, ImageDraw

    font = font_of(_TEXT)
    names = [_shortened(strategy.name, font) for strategy in strategies]
    left = 2 * _PAD + max(map(font.getlength, names))
    right, top, bottom = _WIDTH - 2 * _PAD, _PAD, _PAD + _ROW * len(strategies)
    first, last = 0.9, len(strategies) + 0.1

    def across(rank: float | int) -> float:
        return left + (right - left) * (rank - first) / (last - first)

    image = Image.new("RGB", (_WIDTH, bottom + 4 * _PAD + 2 * _TEXT), "white")
    draw = ImageDraw.Draw(image)
    for tick in range(1, len(strategies) + 1, math.ceil(len(strategies) / _MOST_TICKS)):
        place = across(float(tick))
        draw.line([(place, top), (place, bottom)], _GRID, _FINE)
        draw.text((place, bottom + _PAD), str(tick), _INK, font, "mt")
    for row, (name, strategy) in enumerate(zip(names, strategies, strict=True)):
        middle = top + _ROW * (row + 0.5)
        draw.line([(left, middle), (right, middle)], _GRID, _FINE)
        draw.text((left - _PAD, middle), name, _INK, font, "rm")
        draw.line([(across(strategy.low), middle), (across(strategy.high), middle)], _INTERVAL, 4 * _FINE)
        draw.circle((across(strategy.rank), middle), 6 * _FINE, LINES[0])
    draw.line([(left, top), (left, bottom), (right, bottom)], _INK, _FINE)
    label = f"mean rank over {counted(patients, 'patient')} with 95% confidence interval; 1 is best"
    draw.text((_WIDTH / 2, bottom + 2 * _PAD + _TEXT), label, _INK, font, "mt")
    buffer = io.BytesIO()
    image.reduce(_FINE).save(buffer, "PNG")
    with atomic(path) as temporary:
        temporary.write_bytes(buffer.getvalue())
    return small_png(buffer.getvalue(), PLOT_HEIGHT, PLOT_BYTES)


def _shortened(name: str, font: FreeTypeFont) -> str:
    """A name that leaves half of the plot to the ranks."""
    shown = name
    while font.getlength(shown) > _WIDTH / 2 and len(shown) > 2:
        shown = f"{shown[:-2]}…"
    return shown
