"""Plot of the distribution of scores, with the ids of the worst patients."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from mist_ops.files import atomic
from mist_ops.pictures.canvas import LINES, PLOT_BYTES, PLOT_HEIGHT, small_png
from mist_ops.pictures.drawing import Canvas

_COLUMNS, _WORST, _MOST_TICKS = 3, 3, 8

# Pixels.
_CLASS_WIDTH, _LEAST_WIDTH, _MOST_WIDTH, _HEIGHT = 324, 552, 2880, 432
"""Width per class, least and greatest width of a panel (the latter also of all panels in a row), and its height."""
_LEFT, _RIGHT, _TOP, _BOTTOM, _HEADER = 84, 18, 42, 60, 48
_TITLE, _TEXT, _ID = 20, 16, 12
_DOT, _LINE = 3.4, 1.6

_SMALL_ROWS = 2
"""Of panels, whose height all share in the thumbnail: more would be reduced to fit the bytes anyway."""

_LABELED_WIDTH = 144
"""Width per class from which the worst patients are labeled."""

_INK, _GRID, _FRAME, _LEADER = "#333333", "#E6E6E6", "#262626", "#AAAAAA"

_GOLDEN = (math.sqrt(5) - 1) / 2
"""Multiples of this number modulo 1 are evenly spread: a deterministic jitter of the dots."""


@dataclass(frozen=True)
class MetricScores:
    """The scores of one metric.

    Attributes:
        name: As in the table of results.
        unit: Such as "mm"; may be empty.
        higher_is_better: Whether the lowest scores are the worst.
        classes: Scores by patient id for each class; NaN if missing.
    """

    name: str
    unit: str
    higher_is_better: bool
    classes: Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class _Panel:
    """Where the scores of a metric are drawn: pixels of the frame, and the values at its lower and upper end."""

    left: float | int
    right: float | int
    top: float | int
    bottom: float | int
    classes: int
    low: float = 0.0
    high: float = 1.0

    def across(self, place: float | int) -> float:
        """Column of a place; classes are one apart, from 0."""
        return self.left + (self.right - self.left) * (place + 0.6) / (self.classes + 0.4)

    def up(self, score: float) -> float:
        """Row of a score."""
        return self.bottom - (self.bottom - self.top) * (score - self.low) / (self.high - self.low)


def score_plot(path: Path, metrics: Sequence[MetricScores], title: str) -> bytes:
    """Write a PNG with a panel for each metric; return a thumbnail of at most 30 KB.

    Boxes show quartiles and median, whiskers the scores within 1.5 interquartile ranges, dots the patients; the three
    worst of each class are labeled with their ids if there is room. The number of patients without a score is below the
    class name.
    """
    most = max([1, *(len(metric.classes) for metric in metrics)])
    width = min(max(_LEAST_WIDTH, _CLASS_WIDTH * most), _MOST_WIDTH)
    columns = max(1, min(_COLUMNS, len(metrics), _MOST_WIDTH // width))
    rows = math.ceil(len(metrics) / columns) or 1
    room = (width - _LEFT - _RIGHT) / (most + 0.4)
    names = [_tick(*item) for metric in metrics for item in metric.classes.items()]
    upright = _widest(itertools.chain.from_iterable(names)) < room
    bottom = _BOTTOM if upright else math.ceil(_widest(map(" ".join, names))) + _TEXT
    height = _HEIGHT - _BOTTOM + bottom
    canvas = Canvas(width * columns, height * rows + _HEADER, "white")
    canvas.text((12, 12), title, _FRAME, _TITLE, "lt", bold=True)
    for index, metric in enumerate(metrics):
        row, column = divmod(index, columns)
        left, top = width * column, _HEADER + height * row
        frame = left + _LEFT, left + width - _RIGHT, top + _TOP, top + height - bottom
        _draw(canvas, _Panel(*frame, max(1, len(metric.classes))), metric, upright=upright, room=room)
    image = canvas.png()
    with atomic(path) as temporary:
        temporary.write_bytes(image)
    return small_png(image, PLOT_HEIGHT * min(rows, _SMALL_ROWS), PLOT_BYTES)


def _widest(texts: Iterable[str]) -> float:
    measure = Canvas(1, 1, "white")
    return max((measure.length(text, _TEXT) for text in set(texts)), default=0.0)


def _tick(name: str, scores: Mapping[str, float]) -> list[str]:
    """The lines below a class."""
    missing = sum(not math.isfinite(score) for score in scores.values())
    return [name, f"({missing} missing)"] if missing else [name]


def _draw(canvas: Canvas, frame: _Panel, metric: MetricScores, *, upright: bool, room: float) -> None:
    classes = [
        {case_id: score for case_id, score in scores.items() if math.isfinite(score)}
        for scores in metric.classes.values()
    ]
    known = [score for scores in classes for score in scores.values()]
    low, high = (min(known), max(known)) if known else (0.0, 1.0)
    margin = 0.05 * (high - low) or 0.05 * abs(high) or 0.05
    panel = replace(frame, low=low - margin, high=high + margin)
    _draw_frame(canvas, panel, metric)
    for place, (name, scores) in enumerate(metric.classes.items()):
        _draw_name(canvas, panel, place, _tick(name, scores), upright=upright)
    for place, scores in enumerate(classes):
        if scores:
            _draw_class(canvas, panel, place, np.array(list(scores.values())))
            if room >= _LABELED_WIDTH:
                worst_first = sorted(scores.items(), key=lambda item: item[1], reverse=not metric.higher_is_better)
                _label(canvas, panel, place, worst_first[:_WORST])


def _draw_frame(canvas: Canvas, panel: _Panel, metric: MetricScores) -> None:
    better = "higher is better" if metric.higher_is_better else "lower is better"
    name = f"{metric.name}{f' ({metric.unit})' if metric.unit else ''}, {better}"
    canvas.text(((panel.left + panel.right) / 2, panel.top - 14), name, _FRAME, _TEXT, "ms")
    for tick in _ticks(panel.low, panel.high):
        row = panel.up(tick)
        canvas.line(np.array([[panel.left, row], [panel.right, row]]), _GRID, 1.0)
        canvas.text((panel.left - 8, row), f"{tick:g}", _FRAME, _TEXT, "rm")
    corner = [(panel.left, panel.top), (panel.left, panel.bottom), (panel.right, panel.bottom)]
    canvas.line(np.array(corner, dtype=np.float64), _FRAME, 1.0)


def _ticks(low: float, high: float) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten."""
    least = (high - low) / _MOST_TICKS
    power = 10.0 ** math.floor(math.log10(least))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= least)
    return [round(step * index, 12) for index in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _draw_name(canvas: Canvas, panel: _Panel, place: int, lines: Sequence[str], *, upright: bool) -> None:
    column = panel.across(place)
    if not upright:
        canvas.vertical_text((column, panel.bottom + 8), " ".join(lines), _FRAME, _TEXT)
        return
    for row, text in enumerate(lines):
        canvas.text((column, panel.bottom + 8 + 1.25 * _TEXT * row), text, _FRAME, _TEXT, "mt")


def _draw_class(canvas: Canvas, panel: _Panel, place: int, scores: np.ndarray) -> None:
    """Draw the dots and the box of a class."""
    offsets = 0.36 * (np.arange(len(scores)) * _GOLDEN % 1.0) - 0.18
    centers = np.array(
        [(panel.across(place + offset), panel.up(score)) for offset, score in zip(offsets, scores, strict=True)]
    )
    canvas.dots(centers, LINES[place % len(LINES)], _DOT, 0.6)
    first, median, third = np.percentile(scores, (25, 50, 75))
    reach = 1.5 * (third - first)
    lowest, highest = scores[scores >= first - reach].min(), scores[scores <= third + reach].max()
    left, right = panel.across(place - 0.25), panel.across(place + 0.25)
    canvas.box((left, panel.up(first)), (right, panel.up(third)), _INK, _LINE)
    for score, half in ((median, 0.25), (lowest, 0.125), (highest, 0.125)):
        row = panel.up(score)
        canvas.line(np.array([[panel.across(place - half), row], [panel.across(place + half), row]]), _INK, _LINE)
    for start, stop in ((first, lowest), (third, highest)):
        column = panel.across(place)
        canvas.line(np.array([[column, panel.up(start)], [column, panel.up(stop)]]), _INK, _LINE)


def _label(canvas: Canvas, panel: _Panel, place: int, worst: Sequence[tuple[str, float]]) -> None:
    """Label patients, the worst first, beside their box; labels of similar scores follow each other inwards."""
    inwards = 1 if worst[-1][1] < worst[0][1] else -1  # down from the highest scores, up from the lowest
    taken = -math.inf
    for case_id, score in worst:
        row = panel.up(score)
        taken = max(inwards * row, taken + 1.5 * _ID)
        leader = np.array([[panel.across(place + 0.2), row], [panel.across(place + 0.29), inwards * taken]])
        canvas.line(leader, _LEADER, 0.8)
        canvas.text((panel.across(place + 0.3), inwards * taken), case_id, _FRAME, _ID, "lm")
