"""Plot of the distribution of scores, with the ids of the worst patients."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mist_ops.pictures.canvas import LINES, PLOT_BYTES, PLOT_HEIGHT, new_figure, small_png, tidy, write_png

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLUMNS = 3
_WORST = 3
_WIDTH, _LEAST_WIDTH, _MOST_WIDTH, _HEIGHT = 2.7, 4.6, 24.0, 3.6
"""In inches: width per class, least and greatest width of a panel (the latter also of all columns), and its height."""

_LABELED_WIDTH, _UPRIGHT_WIDTH = 1.2, 0.9
"""Widths per class from which the worst patients are labeled, and class names are upright."""

_LEFT, _RIGHT, _TOP, _BOTTOM, _HEADER = 0.6, 0.15, 0.35, 0.5, 0.4
"""Margins of a panel and height of the header, in inches. Measuring the texts would take longer than drawing them."""

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


def score_plot(path: Path, metrics: Sequence[MetricScores], title: str) -> bytes:
    """Write a PNG with a panel for each metric; return a thumbnail of at most 30 KB.

    Boxes show quartiles and median, dots the patients; the three worst of each class are labeled with their ids if
    there is room. The number of patients without a score is below the class name.
    """
    most = max([1, *(len(metric.classes) for metric in metrics)])
    width = min(max(_LEAST_WIDTH, _WIDTH * most), _MOST_WIDTH)
    columns = max(1, min(_COLUMNS, len(metrics), int(_MOST_WIDTH // width)))
    rows = math.ceil(len(metrics) / columns) or 1
    upright = (width - _LEFT - _RIGHT) / most >= _UPRIGHT_WIDTH
    longest = max((len(name) for metric in metrics for name in metric.classes), default=0)
    bottom = _BOTTOM if upright else 0.2 + 0.085 * longest
    height = _HEIGHT - _BOTTOM + bottom
    whole = width * columns, height * rows + _HEADER
    figure = new_figure(*whole, "white")
    figure.suptitle(title, x=0.01, y=1 - 0.1 / whole[1], ha="left", va="top", fontsize=12, weight="bold")
    for index, metric in enumerate(metrics):
        row, column = divmod(index, columns)
        left, low = width * column + _LEFT, height * (rows - 1 - row) + bottom
        across, up = width - _LEFT - _RIGHT, height - bottom - _TOP
        axes = figure.add_axes((left / whole[0], low / whole[1], across / whole[0], up / whole[1]))
        _draw(axes, metric, upright=upright, labeled=across / most >= _LABELED_WIDTH)
    return small_png(write_png(figure, path), PLOT_HEIGHT * rows, PLOT_BYTES)


def _draw(axes: Axes, metric: MetricScores, *, upright: bool, labeled: bool) -> None:
    classes = [
        {case_id: score for case_id, score in scores.items() if math.isfinite(score)}
        for scores in metric.classes.values()
    ]
    _draw_classes(axes, {place: list(scores.values()) for place, scores in enumerate(classes) if scores})
    ticks = []
    for (name, scores), known in zip(metric.classes.items(), classes, strict=True):
        missing = len(scores) - len(known)
        note = f"({missing} without a score)" if upright else f"({missing} missing)"
        ticks.append(name + (f"\n{note}" if missing else ""))
    axes.set_xticks(range(len(ticks)), ticks, rotation=0 if upright else 90)
    axes.set_xlim(-0.6, len(ticks) - 0.2)
    if labeled:
        worst_last = not metric.higher_is_better
        ordered = [sorted(scores.items(), key=lambda item: item[1], reverse=worst_last) for scores in classes]
        _label_worst(axes, [patients[:_WORST] for patients in ordered])
    better = "higher is better" if metric.higher_is_better else "lower is better"
    axes.set_title(f"{metric.name}{f' ({metric.unit})' if metric.unit else ''}, {better}", fontsize=10)
    tidy(axes)
    axes.grid(visible=False, axis="x")


def _draw_classes(axes: Axes, scores: Mapping[int, Sequence[float]]) -> None:
    """Draw a box and the dots of each class, by its place from left to right."""
    if not scores:
        return
    ink = {"color": "#333333", "linewidth": 1.2}
    axes.boxplot(
        list(scores.values()),
        positions=list(scores),
        widths=0.5,
        showfliers=False,
        manage_ticks=False,
        medianprops=ink,
        boxprops=ink,
        whiskerprops=ink,
        capprops=ink,
    )
    for place, values in scores.items():
        offsets = [0.36 * (index * _GOLDEN % 1.0) - 0.18 for index in range(len(values))]
        color = LINES[place % len(LINES)]
        axes.scatter([place + offset for offset in offsets], values, s=12, color=color, alpha=0.6, lw=0)


def _label_worst(axes: Axes, worst: Sequence[Sequence[tuple[str, float]]]) -> None:
    """Label the worst patients beside each box, without overlap of similar scores."""
    from matplotlib.collections import LineCollection

    low, high = axes.get_ylim()
    step, lines = (high - low) * 0.055, []
    for position, patients in enumerate(worst):
        taken = -math.inf
        for case_id, score in sorted(patients, key=lambda item: item[1]):
            taken = max(score, taken + step)
            lines.append([(position + 0.2, score), (position + 0.29, taken)])
            axes.text(position + 0.3, taken, case_id, fontsize=7, va="center")
    axes.add_collection(LineCollection(lines, colors="#AAAAAA", linewidths=0.6), autolim=False)
