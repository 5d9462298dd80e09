"""Learning curves: the losses of a fold over its epochs."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mist_ops.files import atomic
from mist_ops.pictures.canvas import DPI, LINES, THUMBNAIL_HEIGHT, line, new_figure, png, small_png, tidy
from mist_ops.types import Json

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D


def learning_curves(path: Path, histories: Mapping[int, Sequence[Json]]) -> None:
    """Write a PNG of the losses over the epochs, a color per fold: validation strong, training faint, the best marked.

    Args:
        path: Where to.
        histories: By fold, a dictionary per epoch with ``index``, ``training_loss``, ``validation_loss`` and
            ``learning_rate``.
    """
    figure = new_figure(8.0, 5.0, "white")
    losses, rates = figure.subplots(
        2, 1, sharex=True, height_ratios=(4, 1), gridspec_kw={"hspace": 0.08, "left": 0.09, "right": 0.98, "top": 0.95}
    )
    for (fold, history), color in zip(sorted(histories.items()), itertools.cycle(LINES), strict=False):
        _draw_losses(losses, history, color, f"fold {fold}")
        rates.plot(_column(history, "index"), _column(history, "learning_rate"), color=color, lw=1.4)
    losses.set_ylabel("loss")
    rates.set_ylabel("learning rate")
    rates.set_xlabel("epoch")
    rates.set_ylim(bottom=0)
    for axes in (losses, rates):
        tidy(axes)
    handles, _ = losses.get_legend_handles_labels()
    styles = [line("#555555", "solid", "validation"), line("#BBBBBB", "solid", "training"), _best_marker()]
    losses.legend(handles=[*handles, *styles], frameon=False, fontsize=9, ncols=2, loc="upper right")
    with atomic(path) as temporary:
        temporary.write_bytes(png(figure))


def curve_thumbnail(history: Sequence[Json]) -> bytes:
    """A PNG of at most 10 KB, 128 pixels high, of one fold's losses. See ``learning_curves``."""
    figure = new_figure(3 * 200 / DPI, 3 * THUMBNAIL_HEIGHT / DPI, "white")
    axes = figure.add_axes((0.03, 0.05, 0.94, 0.9))
    _draw_losses(axes, history, LINES[0], "", scale=2.2)
    tidy(axes)
    axes.tick_params(length=0, labelbottom=False, labelleft=False)
    return small_png(figure)


def _draw_losses(axes: Axes, history: Sequence[Json], color: str, name: str, scale: float = 1.0) -> None:
    epochs, validation = _column(history, "index"), _column(history, "validation_loss")
    axes.plot(epochs, _column(history, "training_loss"), color=color, lw=1.2 * scale, alpha=0.35)
    axes.plot(epochs, validation, color=color, lw=1.6 * scale, label=name)
    if validation:
        best = int(np.argmin(validation))
        axes.plot(epochs[best], validation[best], "o", color=color, ms=5 * scale, mec="white")


def _column(history: Sequence[Json], name: str) -> list[float]:
    return [float(epoch[name]) for epoch in history]


def _best_marker() -> Line2D:
    from matplotlib.lines import Line2D

    return Line2D([], [], color="#555555", marker="o", linestyle="none", mec="white", label="best epoch")
