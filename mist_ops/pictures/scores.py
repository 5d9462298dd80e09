"""Plot of the distribution of scores, with the ids of the worst patients."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mist_ops.files import atomic
from mist_ops.pictures.canvas import LINES, PLOT_BYTES, PLOT_HEIGHT, new_figure, png, small_png, tidy

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLUMNS = 3
_WORST = 3
_WIDTH, _LEAST_WIDTH, _HEIGHT = 2.7, 4.6, 3.6
"""Width per class, and minimum width and height of a panel, in inches."""

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

    Boxes show quartiles and median, dots the patients; the three worst of each class are labeled with their ids. The
    number of patients without a score is below the class name.
    """
    columns = min(_COLUMNS, len(metrics)) or 1
    rows = math.ceil(len(metrics) / columns) or 1
    most = max((len(metric.classes) for metric in metrics), default=1)
    figure = new_figure(max(_LEAST_WIDTH, _WIDTH * most) * columns, _HEIGHT * rows + 0.4, "white")
    figure.suptitle(title, x=0.01, ha="left", fontsize=12, weight="bold")
    for index, metric in enumerate(metrics, start=1):
        _draw(figure.add_subplot(rows, columns, index), metric)
    figure.tight_layout()
    with atomic(path) as temporary:
        temporary.write_bytes(png(figure))
    return small_png(figure, PLOT_HEIGHT * rows, PLOT_BYTES)


def _draw(axes: Axes, metric: MetricScores) -> None:
    ticks = []
    for position, (name, scores) in enumerate(metric.classes.items()):
        known = {case_id: score for case_id, score in scores.items() if math.isfinite(score)}
        _draw_class(axes, position, known, metric.higher_is_better)
        missing = len(scores) - len(known)
        ticks.append(name + (f"\n({missing} without a score)" if missing else ""))
    axes.set_xticks(range(len(ticks)), ticks)
    axes.set_xlim(-0.6, len(ticks) - 0.2)
    better = "higher is better" if metric.higher_is_better else "lower is better"
    axes.set_title(f"{metric.name}{f' ({metric.unit})' if metric.unit else ''}, {better}", fontsize=10)
    tidy(axes)
    axes.grid(visible=False, axis="x")


def _draw_class(axes: Axes, position: int, scores: Mapping[str, float], higher_is_better: bool) -> None:
    if not scores:
        return
    color = LINES[position % len(LINES)]
    ink = {"color": "#333333", "linewidth": 1.2}
    axes.boxplot(
        list(scores.values()),
        positions=[position],
        widths=0.5,
        showfliers=False,
        manage_ticks=False,
        medianprops=ink,
        boxprops=ink,
        whiskerprops=ink,
        capprops=ink,
    )
    offsets = [0.36 * (index * _GOLDEN % 1.0) - 0.18 for index in range(len(scores))]
    axes.scatter([position + offset for offset in offsets], list(scores.values()), s=12, color=color, alpha=0.6, lw=0)
    ordered = sorted(scores.items(), key=lambda item: item[1], reverse=not higher_is_better)
    _label_worst(axes, position, ordered[:_WORST])


def _label_worst(axes: Axes, position: int, worst: Sequence[tuple[str, float]]) -> None:
    """Label the worst patients beside the box, without overlap of similar scores."""
    low, high = axes.get_ylim()
    step, taken = (high - low) * 0.055, -math.inf
    for case_id, score in sorted(worst, key=lambda item: item[1]):
        height = max(score, taken + step)
        taken = height
        axes.annotate(
            case_id,
            xy=(position + 0.2, score),
            xytext=(position + 0.3, height),
            fontsize=7,
            va="center",
            arrowprops={"arrowstyle": "-", "color": "#AAAAAA", "lw": 0.6},
        )
