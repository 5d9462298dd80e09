"""Learning curves: the losses of a fold over its epochs."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from mist_ops.pictures.canvas import LINES, PLOT_BYTES, line, new_figure, small_png, tidy, write_png

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D


@runtime_checkable
class Epoch(Protocol):
    """The numbers of an epoch that are drawn."""

    @property
    def index(self) -> int:
        """Number of the epoch, from 0."""

    @property
    def training_loss(self) -> float:
        """Mean over its steps."""

    @property
    def validation_loss(self) -> float | None:
        """Mean over the validation volumes; None after an epoch without validation."""

    @property
    def learning_rate(self) -> float:
        """Learning rate of its steps."""


_SMALL_HEIGHT = 400
"""Height in pixels of the reduced figure, whose texts are still legible."""


def learning_curves(path: Path, histories: Mapping[int, Sequence[Epoch]]) -> bytes:
    """Write a PNG of training and validation losses, a color per fold, with the best epoch marked.

    Args:
        path: Output file.
        histories: The epochs of each fold.

    Returns:
        The figure as a PNG of 640 by 400 pixels and at most 30 KB.
    """
    figure = new_figure(8.0, 5.0, "white")
    losses, rates = figure.subplots(
        2, 1, sharex=True, height_ratios=(4, 1), gridspec_kw={"hspace": 0.08, "left": 0.09, "right": 0.98, "top": 0.95}
    )
    for (fold, history), color in zip(sorted(histories.items()), itertools.cycle(LINES), strict=False):
        _draw_losses(losses, history, color, f"fold {fold}")
        rates.plot(
            [epoch.index + 1 for epoch in history], [epoch.learning_rate for epoch in history], color=color, lw=1.4
        )
    losses.set_ylabel("loss")
    rates.set_ylabel("learning rate")
    rates.set_xlabel("epoch")
    rates.set_ylim(bottom=0)
    rates.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    for axes in (losses, rates):
        tidy(axes)
    handles, _ = losses.get_legend_handles_labels()
    styles = [line("#555555", "solid", "validation"), line("#BBBBBB", "solid", "training"), _best_marker()]
    losses.legend(handles=[*handles, *styles], frameon=False, fontsize=9, ncols=2, loc="upper right")
    return small_png(write_png(figure, path), _SMALL_HEIGHT, PLOT_BYTES)


def _draw_losses(axes: Axes, history: Sequence[Epoch], color: str, name: str) -> None:
    training = [epoch.training_loss for epoch in history]
    axes.plot([epoch.index + 1 for epoch in history], training, color=color, lw=1.2, alpha=0.35)
    points = [(epoch.index + 1, epoch.validation_loss) for epoch in history if epoch.validation_loss is not None]
    axes.plot([epoch for epoch, _ in points], [loss for _, loss in points], color=color, lw=1.6, label=name)
    if points:
        best, smallest = min(points, key=lambda point: point[1])
        axes.plot(best, smallest, "o", color=color, ms=5, mec="white")


def _best_marker() -> Line2D:
    from matplotlib.lines import Line2D

    return Line2D([], [], color="#555555", marker="o", linestyle="none", mec="white", label="best epoch")
