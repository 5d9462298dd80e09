"""Pictures for people: cases with the outlines of their labels, and learning curves. Nothing is computed from them.

Volumes come in LPS voxel order. Pictures follow the radiological convention: the patient's right is on the left of
axial and coronal pictures, anterior is on top of axial and on the left of sagittal ones. The truth is outlined solid,
the prediction dashed, in a color per label that people with any color vision can tell apart.
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from jaxtyping import Num

from mist_ops.files import atomic
from mist_ops.types import Json, LabelMap, Size, Spacing, Volume

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

Slice = Num[np.ndarray, "row column"]
Style = Literal["solid"] | tuple[float, tuple[float, float]]

COLORS = ("#E69F00", "#56B4E9", "#CC79A7", "#F0E442", "#009E73", "#D55E00", "#0072B2")
"""Okabe and Ito's palette without black, those first that stand out from gray; from the eighth label on used again."""

_LINES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7A7A00")
"""The same for lines on white."""

_TRUTH: Style = "solid"
_PREDICTION: Style = (0.0, (2.5, 1.5))
_PAPER, _INK, _FAINT = "#111417", "#F2F2F2", "#9AA4AD"
_PERCENTILES = (0.5, 99.5)

# Inches, at so many pixels each.
_DPI = 120
_PLANE_HEIGHT, _MARGIN, _LEAST_WIDTH = 3.6, 0.6, 6.5
_MOST_SCORES, _MOST_LABELS = 5, 8

_THUMBNAIL_HEIGHT = 128
_THUMBNAIL_BYTES = 10_000
_WIDEST = 1.6


@dataclass(frozen=True)
class Plane:
    """How an ``(x, y, z)`` volume is cut: the axes across and down the picture, and the letters at its sides."""

    name: str
    across: int
    down: int
    upwards: bool
    left: str
    right: str

    @property
    def through(self) -> int:
        """The axis that is cut."""
        return 3 - self.across - self.down

    def cut(self, volume: Volume, at: Size) -> Slice:
        """The slice through a voxel, rows first, as it is shown."""
        shown: Slice = np.moveaxis(volume, (self.down, self.across), (0, 1))[..., at[self.through]]
        return shown[::-1] if self.upwards else shown


AXIAL = Plane("axial", across=0, down=1, upwards=False, left="R", right="L")
CORONAL = Plane("coronal", across=0, down=2, upwards=True, left="R", right="L")
SAGITTAL = Plane("sagittal", across=1, down=2, upwards=True, left="A", right="P")


@dataclass(frozen=True)
class _Scan:
    """What is drawn of a case."""

    image: Volume
    truth: LabelMap | None
    prediction: LabelMap | None
    spacing: Spacing

    def extent(self, plane: Plane) -> tuple[float, float]:
        """Millimetres across and down."""
        across, down = plane.across, plane.down
        return self.image.shape[across] * self.spacing[across], self.image.shape[down] * self.spacing[down]

    @cached_property
    def window(self) -> tuple[float, float]:
        """The intensities that are shown black and white."""
        darkest, brightest = np.percentile(self.image, _PERCENTILES).tolist()
        return darkest, brightest

    @cached_property
    def at(self) -> Size:
        """Along each axis, the slice with most label, of the truth unless that is empty; the middle without any."""
        for labels in (self.truth, self.prediction):
            if labels is not None and labels.any():
                counts = (np.count_nonzero(labels, axis=others) for others in ((1, 2), (0, 2), (0, 1)))
                x, y, z = (int(np.argmax(count)) for count in counts)
                return x, y, z
        x, y, z = (voxels // 2 for voxels in self.image.shape)
        return x, y, z

    @cached_property
    def colors(self) -> dict[int, str]:
        """A color for each label that occurs, in ascending order."""
        maps = [labels for labels in (self.truth, self.prediction) if labels is not None]
        present = sorted({label for labels in maps for label in np.unique(labels).tolist() if label})
        return dict(zip(present, itertools.cycle(COLORS), strict=False))


def case_picture(
    path: Path,
    image: Volume,
    truth: LabelMap | None,
    prediction: LabelMap | None,
    spacing: Spacing,
    title: str,
    *,
    dice: Mapping[str, float] | None = None,
    names: Mapping[int, str] | None = None,
) -> None:
    """Write a PNG of three planes through a case, each where it shows most label; through the middle if there is none.

    Args:
        path: Where to.
        image: Any intensities, in LPS voxel order; shown between their percentiles 0.5 and 99.5.
        truth: Outlined solid if given.
        prediction: Outlined dashed if given.
        spacing: In mm; pictures have the proportions of the body.
        title: The id of the case, say.
        dice: Dice by class, told beside the title.
        names: What labels are called in the legend; their numbers if not given.
    """
    planes = (AXIAL, CORONAL, SAGITTAL)
    scan = _Scan(image, truth, prediction, spacing)
    extents = [scan.extent(plane) for plane in planes]
    widths = [across for across, _ in extents]
    inches = _PLANE_HEIGHT / max(down for _, down in extents)
    figure = _figure(max(_LEAST_WIDTH, inches * sum(widths)), _PLANE_HEIGHT + 2 * _MARGIN, _PAPER)
    edge = _MARGIN / (_PLANE_HEIGHT + 2 * _MARGIN)
    places = figure.add_gridspec(
        1, 3, width_ratios=widths, wspace=0.03, left=0.01, right=0.99, bottom=edge, top=1 - edge
    )
    for index, plane in enumerate(planes):
        axes = figure.add_subplot(places[index])
        _draw(axes, plane, scan)
        _annotate(axes, plane, scan)
    _head(figure, title, dice or {})
    _legend(figure, scan, names or {})
    with atomic(path) as temporary:
        temporary.write_bytes(_png(figure))


def thumbnail(image: Volume, truth: LabelMap | None, prediction: LabelMap | None, spacing: Spacing) -> bytes:
    """A PNG of at most 10 KB, 128 pixels high: the axial slice with most label, outlined. See ``case_picture``."""
    scan = _Scan(image, truth, prediction, spacing)
    across, down = scan.extent(AXIAL)
    # Three times too large and then reduced, so that the outlines of a small label keep their shape.
    height = 3 * _THUMBNAIL_HEIGHT / _DPI
    figure = _figure(height * min(across / down, _WIDEST), height, _PAPER)
    _draw(figure.add_axes((0, 0, 1, 1)), AXIAL, scan, width=2.6)
    return _small_png(figure)


def learning_curves(path: Path, histories: Mapping[int, Sequence[Json]]) -> None:
    """Write a PNG of the losses over the epochs, a color per fold: validation strong, training faint, the best marked.

    Args:
        path: Where to.
        histories: By fold, a dictionary per epoch with ``index``, ``training_loss``, ``validation_loss`` and
            ``learning_rate``.
    """
    figure = _figure(8.0, 5.0, "white")
    losses, rates = figure.subplots(
        2, 1, sharex=True, height_ratios=(4, 1), gridspec_kw={"hspace": 0.08, "left": 0.09, "right": 0.98, "top": 0.95}
    )
    for (fold, history), color in zip(sorted(histories.items()), itertools.cycle(_LINES), strict=False):
        _draw_losses(losses, history, color, f"fold {fold}")
        rates.plot(_column(history, "index"), _column(history, "learning_rate"), color=color, lw=1.4)
    losses.set_ylabel("loss")
    rates.set_ylabel("learning rate")
    rates.set_xlabel("epoch")
    rates.set_ylim(bottom=0)
    for axes in (losses, rates):
        _tidy(axes)
    handles, _ = losses.get_legend_handles_labels()
    styles = [_line("#555555", "solid", "validation"), _line("#BBBBBB", "solid", "training"), _best_marker()]
    losses.legend(handles=[*handles, *styles], frameon=False, fontsize=9, ncols=2, loc="upper right")
    with atomic(path) as temporary:
        temporary.write_bytes(_png(figure))


def curve_thumbnail(history: Sequence[Json]) -> bytes:
    """A PNG of at most 10 KB, 128 pixels high, of one fold's losses. See ``learning_curves``."""
    figure = _figure(3 * 200 / _DPI, 3 * _THUMBNAIL_HEIGHT / _DPI, "white")
    axes = figure.add_axes((0.03, 0.05, 0.94, 0.9))
    _draw_losses(axes, history, _LINES[0], "", scale=2.2)
    _tidy(axes)
    axes.tick_params(length=0, labelbottom=False, labelleft=False)
    return _small_png(figure)


def _draw(axes: Axes, plane: Plane, scan: _Scan, width: float = 1.5) -> None:
    darkest, brightest = scan.window
    aspect = scan.spacing[plane.down] / scan.spacing[plane.across]
    shown = plane.cut(scan.image, scan.at).astype(float)
    axes.imshow(shown, "gray", vmin=darkest, vmax=brightest, aspect=aspect, interpolation="bicubic")
    axes.autoscale(False)
    axes.set_axis_off()
    for labels, style in ((scan.truth, _TRUTH), (scan.prediction, _PREDICTION)):
        if labels is not None:
            _outline(axes, plane.cut(labels, scan.at), scan.colors, style, width)


def _outline(axes: Axes, labels: Slice, colors: Mapping[int, str], style: Style, width: float) -> None:
    padded = np.pad(labels, 1)
    rows, columns = (np.arange(-1, voxels + 1) for voxels in labels.shape)
    for label in np.unique(labels[labels > 0]).tolist():
        axes.contour(columns, rows, padded == label, [0.5], colors=colors[label], linestyles=[style], linewidths=width)


def _annotate(axes: Axes, plane: Plane, scan: _Scan) -> None:
    from matplotlib.patheffects import withStroke

    marks = {(0.02, "left"): plane.left, (0.98, "right"): plane.right}
    for (x, side), letter in marks.items():
        text = axes.text(x, 0.5, letter, transform=axes.transAxes, color=_INK, fontsize=11, weight="bold", ha=side)
        text.set_path_effects([withStroke(linewidth=2.5, foreground=_PAPER)])
    axes.set_title(f"{plane.name} {scan.at[plane.through]}", color=_FAINT, fontsize=9, pad=4)


def _head(figure: Figure, title: str, dice: Mapping[str, float]) -> None:
    y = 1 - 0.18 / figure.get_figheight()
    scores = [f"{name} {score:.3f}" for name, score in itertools.islice(dice.items(), _MOST_SCORES)]
    scores += ["…"] * (len(dice) > _MOST_SCORES)
    figure.text(0.012, y, title, color=_INK, fontsize=12, weight="bold", va="center")
    if scores:
        figure.text(0.988, y, f"Dice   {'   '.join(scores)}", color=_INK, fontsize=10, ha="right", va="center")


def _legend(figure: Figure, scan: _Scan, names: Mapping[int, str]) -> None:
    labels = itertools.islice(scan.colors.items(), _MOST_LABELS)
    lines = [_line(color, "solid", names.get(label, f"label {label}")) for label, color in labels]
    if len(scan.colors) > _MOST_LABELS:
        lines.append(_line(_PAPER, "solid", f"and {len(scan.colors) - _MOST_LABELS} more"))
    lines += [_line(_INK, _TRUTH, "truth")] * (scan.truth is not None)
    lines += [_line(_INK, _PREDICTION, "prediction")] * (scan.prediction is not None)
    if lines:
        figure.legend(handles=lines, loc="lower center", ncols=len(lines), frameon=False, labelcolor=_INK, fontsize=9)


def _draw_losses(axes: Axes, history: Sequence[Json], color: str, name: str, scale: float = 1.0) -> None:
    epochs, validation = _column(history, "index"), _column(history, "validation_loss")
    axes.plot(epochs, _column(history, "training_loss"), color=color, lw=1.2 * scale, alpha=0.35)
    axes.plot(epochs, validation, color=color, lw=1.6 * scale, label=name)
    if validation:
        best = int(np.argmin(validation))
        axes.plot(epochs[best], validation[best], "o", color=color, ms=5 * scale, mec="white")


def _column(history: Sequence[Json], name: str) -> list[float]:
    return [float(epoch[name]) for epoch in history]


def _tidy(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25, lw=0.6)


def _line(color: str, style: Style, name: str) -> Line2D:
    from matplotlib.lines import Line2D

    return Line2D([], [], color=color, linestyle=style, linewidth=1.8, label=name)


def _best_marker() -> Line2D:
    from matplotlib.lines import Line2D

    return Line2D([], [], color="#555555", marker="o", linestyle="none", mec="white", label="best epoch")


def _figure(width: float, height: float, paper: str) -> Figure:
    # Without pyplot, which keeps every figure and is not safe in threads.
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=_DPI, facecolor=paper)


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", facecolor=figure.get_facecolor(), metadata={"Software": None})
    return buffer.getvalue()


def _small_png(figure: Figure) -> bytes:
    """The figure at a third of its size, with as many colors as fit the limit."""
    from PIL import Image

    large = Image.open(io.BytesIO(_png(figure))).convert("RGB")
    small = large.resize((max(1, round(large.width / 3)), _THUMBNAIL_HEIGHT), Image.Resampling.LANCZOS)
    encoded = b""
    for colors in (256, 128, 64, 32, 16, 8):
        buffer = io.BytesIO()
        small.quantize(colors, dither=Image.Dither.NONE).save(buffer, "PNG", optimize=True)
        encoded = buffer.getvalue()
        if len(encoded) <= _THUMBNAIL_BYTES:
            break
    return encoded
