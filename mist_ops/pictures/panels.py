"""Square panels in which both axes have the same unit, with the line of equality, drawn with Pillow."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mist_ops.files import atomic
from mist_ops.pictures.canvas import PLOT_BYTES, PLOT_HEIGHT, small_png
from mist_ops.pictures.drawing import Canvas

_SIZE, _LEFT, _TOP, _RIGHT, _BOTTOM = 300, 64, 58, 20, 52
"""Pixels of a panel's square, and around it."""

_LEGEND, _TEXT, _SMALL = 30, 13, 12
_PER_ROW, _MOST_TICKS = 3, 6
_INK, _GRID, _EQUAL = "#262626", "#E6E6E6", "#9A9A9A"


@dataclass(frozen=True)
class Points:
    """Points of a panel in a color.

    Attributes:
        name: In the legend.
        color: Of points, lines and bars.
        places: Each point, horizontal and vertical.
        bars: Lower and upper end of a vertical bar at each point; none if empty.
        joined: Whether a line joins the points.
    """

    name: str
    color: str
    places: Sequence[tuple[float, float]]
    bars: Sequence[tuple[float, float]] = ()
    joined: bool = False


@dataclass(frozen=True)
class Panel:
    """A panel; its axes reach from ``low`` to ``high``."""

    title: str
    across: str
    up: str
    low: float
    high: float
    points: Sequence[Points]


def draw_panels(path: Path, panels: Sequence[Panel]) -> bytes:
    """Write a PNG with rows of up to three panels and one legend; return a thumbnail of at most 30 KB."""
    rows = [panels[first : first + _PER_ROW] for first in range(0, len(panels), _PER_ROW)]
    width, height = _LEFT + _SIZE + _RIGHT, _TOP + _SIZE + _BOTTOM
    canvas = Canvas(width * max(map(len, rows)), height * len(rows) + _LEGEND, "white")
    for row, members in enumerate(rows):
        for column, panel in enumerate(members):
            _draw(canvas, panel, column * width + _LEFT, row * height + _TOP)
    at = float(_LEFT)
    for name, color in {points.name: points.color for panel in panels for points in panel.points}.items():
        canvas.dots(np.array([(at, canvas.height - _LEGEND / 2)]), color, 4.0, 1.0)
        canvas.text((at + 10, canvas.height - _LEGEND / 2), name, _INK, _TEXT, "lm")
        at += 34 + canvas.length(name, _TEXT)
    image = canvas.png()
    with atomic(path) as temporary:
        temporary.write_bytes(image)
    return small_png(image, PLOT_HEIGHT * len(rows), PLOT_BYTES)


def _draw(canvas: Canvas, panel: Panel, left: int, top: int) -> None:
    def place(across: float, up: float) -> tuple[float, float]:
        x, y = ((value - panel.low) / (panel.high - panel.low) for value in (across, up))
        return left + _SIZE * min(1.0, max(0.0, x)), top + _SIZE * (1 - min(1.0, max(0.0, y)))

    def line(start: tuple[float, float], stop: tuple[float, float], color: str, width: float) -> None:
        canvas.line(np.array([place(*start), place(*stop)]), color, width)

    for tick in _ticks(panel.low, panel.high):
        line((tick, panel.low), (tick, panel.high), _GRID, 1.0)
        line((panel.low, tick), (panel.high, tick), _GRID, 1.0)
        x, y = place(tick, tick)
        canvas.text((x, top + _SIZE + 6), f"{tick:g}", _INK, _SMALL, "mt")
        canvas.text((left - 6, y), f"{tick:g}", _INK, _SMALL, "rm")
    corners = [place(panel.low, panel.low), place(panel.high, panel.high)]
    canvas.line(np.array(corners), _EQUAL, 1.0, dashes=(5.0, 4.0))
    for points in panel.points:
        for (across, _), (low, high) in zip(points.places, points.bars, strict=False):
            line((across, low), (across, high), points.color, 1.5)
        if points.joined and len(points.places) > 1:
            canvas.line(np.array([place(*point) for point in points.places]), points.color, 1.5)
        if points.places:
            canvas.dots(np.array([place(*point) for point in points.places]), points.color, 3.0, 1.0)
    canvas.text((left + _SIZE / 2, top - 44), panel.title, _INK, _TEXT, "mt", bold=True)
    canvas.text((left + _SIZE / 2, top + _SIZE + 26), panel.across, _INK, _TEXT, "mt")
    canvas.text((left, top - 6), panel.up, _INK, _SMALL, "lb")


def _ticks(low: float, high: float) -> Iterator[float]:
    """Round values between two others, at most ``_MOST_TICKS`` and one."""
    rough = (high - low) / _MOST_TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * (1 - 1e-9))
    for number in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1):
        yield round(number * step, 10)
