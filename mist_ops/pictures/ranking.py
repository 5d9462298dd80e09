"""Plot of mean ranks with confidence intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mist_ops.errors import counted
from mist_ops.pictures.canvas import LINES, PLOT_BYTES, PLOT_HEIGHT, new_figure, small_png, tidy, write_png


@dataclass(frozen=True)
class RankedStrategy:
    """Mean rank of a strategy (1 is always the best) and the bounds of its confidence interval."""

    name: str
    rank: float
    low: float
    high: float


def ranking_plot(path: Path, strategies: Sequence[RankedStrategy], patients: int) -> bytes:
    """Write a PNG with a line for each strategy, in the given order; return a thumbnail of at most 30 KB."""
    figure = new_figure(7.0, 1.3 + 0.38 * len(strategies), "white")
    axes = figure.add_subplot()
    for row, strategy in enumerate(strategies):
        axes.plot([strategy.low, strategy.high], [row, row], color=LINES[0], lw=2.2, alpha=0.5, solid_capstyle="butt")
        axes.plot(strategy.rank, row, "o", color=LINES[0], ms=7)
    axes.set_yticks(range(len(strategies)), [strategy.name for strategy in strategies])
    axes.invert_yaxis()
    axes.set_ylim(len(strategies) - 0.5, -0.5)
    axes.set_xlim(0.9, len(strategies) + 0.1)
    axes.set_xlabel(f"mean rank over {counted(patients, 'patient')} with 95% confidence interval; 1 is best")
    tidy(axes)
    figure.tight_layout()
    return small_png(write_png(figure, path), PLOT_HEIGHT, PLOT_BYTES)
