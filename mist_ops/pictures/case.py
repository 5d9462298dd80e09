"""Figures of a case with the outlines of its labels.

Volumes are in LPS voxel order. Figures follow the radiological convention: the patient's right is on the left of axial
and coronal slices, anterior is at the top of axial and on the left of sagittal ones. Outlines of the truth are solid,
those of the prediction dashed, in a colorblind-safe color per label.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Num

from mist_ops.files import atomic
from mist_ops.imaging.percentiles import percentiles
from mist_ops.pictures.canvas import (
    BACKGROUND,
    COLORS,
    DPI,
    MUTED,
    TEXT,
    THUMBNAIL_HEIGHT,
    Style,
    line,
    new_figure,
    png,
    small_png,
)
from mist_ops.types import LabelMap, Size, Spacing, Volume

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Slice = Num[np.ndarray, "row column"]

_TRUTH: Style = "solid"
_PREDICTION: Style = (0.0, (2.5, 1.5))
_PERCENTILES, _LABELED_PERCENTILES = (0.5, 99.5), (1.0, 99.0)
_HEADROOM, _MOST_EXTENSION = 0.2, 0.5

# Inches.
_PLANE_HEIGHT, _MARGIN, _LEAST_WIDTH = 3.6, 0.6, 6.5
_MOST_SCORES, _MOST_LABELS = 5, 8

_MAX_ASPECT = 1.6
"""Width of a thumbnail as a multiple of its height."""


@dataclass(frozen=True)
class Plane:
    """Orientation of a slice: the axes across and down the figure, and the letters at its sides."""

    name: str
    across: int
    down: int
    upwards: bool
    left: str
    right: str

    @property
    def through(self) -> int:
        """Axis perpendicular to the slice."""
        return 3 - self.across - self.down

    def cut(self, volume: Volume, at: Size) -> Slice:
        """Return the slice through a voxel as it is displayed, rows first."""
        shown: Slice = np.moveaxis(volume, (self.down, self.across), (0, 1))[..., at[self.through]]
        return shown[::-1] if self.upwards else shown


AXIAL = Plane("axial", across=0, down=1, upwards=False, left="R", right="L")
CORONAL = Plane("coronal", across=0, down=2, upwards=True, left="R", right="L")
SAGITTAL = Plane("sagittal", across=1, down=2, upwards=True, left="A", right="P")


@dataclass(frozen=True)
class _Scan:
    """Volumes of a case that are drawn."""

    image: Volume
    truth: LabelMap | None
    prediction: LabelMap | None
    spacing: Spacing

    def extent(self, plane: Plane) -> tuple[float, float]:
        """Size across and down in mm."""
        across, down = plane.across, plane.down
        return self.image.shape[across] * self.spacing[across], self.image.shape[down] * self.spacing[down]

    @cached_property
    def window(self) -> tuple[float, float]:
        """Intensities displayed as black and white.

        A small bright lesion may lie outside the percentiles of the whole image. The window is then extended so that it
        is light gray with visible texture, and a dark one dark gray; at each end by at most half of its width.
        """
        low, high = percentiles(self.image, _PERCENTILES).tolist()
        width = high - low
        for labels in (self.truth, self.prediction):
            if labels is not None and labels.any():
                darkest, brightest = percentiles(self.image[labels > 0], _LABELED_PERCENTILES).tolist()
                below, above = (
                    min(beyond + _HEADROOM * width, _MOST_EXTENSION * width) if beyond > 0 else 0.0
                    for beyond in (low - darkest, brightest - high)
                )
                return low - below, high + above
        return low, high

    @cached_property
    def at(self) -> Size:
        """Slices with the most labeled voxels, of the truth or else the prediction; central ones without labels."""
        for labels in (self.truth, self.prediction):
            if labels is not None and labels.any():
                counts = (np.count_nonzero(labels, axis=others) for others in ((1, 2), (0, 2), (0, 1)))
                x, y, z = (int(np.argmax(count)) for count in counts)
                return x, y, z
        x, y, z = (voxels // 2 for voxels in self.image.shape)
        return x, y, z

    @cached_property
    def worst(self) -> Size | None:
        """As ``at``, with the axial slice in which truth and prediction differ most; None if they are equal."""
        if self.truth is None or self.prediction is None:
            return None
        differing = np.count_nonzero(self.truth != self.prediction, axis=(0, 1))
        return (*self.at[:2], int(np.argmax(differing))) if differing.any() else None

    @cached_property
    def colors(self) -> dict[int, str]:
        """Color of each label that occurs, in ascending order."""
        maps = [labels for labels in (self.truth, self.prediction) if labels is not None]
        present = sorted({label for labels in maps for label in np.unique(labels).tolist() if label})
        return dict(zip(present, itertools.cycle(COLORS), strict=False))


def label_names(classes: Mapping[str, Collection[int]]) -> dict[int, str]:
    """Names of labels for a legend, from the labels of each class.

    A label has the name of the smallest class that contains it, without the classes inside that one: with "lesion" of
    labels 1 and 2 and "core" of label 2, label 1 is "lesion without core". Labels that share all classes have none.
    """
    sets = {name: frozenset(labels) for name, labels in classes.items()}
    names = {}
    for label in frozenset().union(*sets.values()):
        name = min((name for name in sets if label in sets[name]), key=lambda name: len(sets[name]))
        inside = {other: labels for other, labels in sets.items() if labels < sets[name]}
        if sets[name].difference(*inside.values()) == {label}:
            largest = [other for other, labels in inside.items() if not any(labels < more for more in inside.values())]
            names[label] = f"{name} without {', '.join(largest)}" if largest else name
    return names


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
    """Write a PNG of the axial, coronal and sagittal slices with the most labeled voxels, or of the central ones.

    If truth and prediction differ, the axial slice in which they differ most is added.

    Args:
        path: Output file.
        image: Intensities in LPS voxel order, displayed between their percentiles 0.5 and 99.5, or further if labeled
            voxels are darker or brighter.
        truth: Mask with solid outlines.
        prediction: Mask with dashed outlines.
        spacing: In mm; sets the aspect ratio.
        title: Such as the id of the case.
        dice: Dice by class, displayed beside the title.
        names: Names of the labels in the legend; their numbers by default.
    """
    scan = _Scan(image, truth, prediction, spacing)
    cuts = [(plane, scan.at, plane.name) for plane in (AXIAL, CORONAL, SAGITTAL)]
    cuts += [(AXIAL, scan.worst, "worst slice: axial")] if scan.worst else []
    extents = [scan.extent(plane) for plane, _, _ in cuts]
    widths = [across for across, _ in extents]
    inches = _PLANE_HEIGHT / max(down for _, down in extents)
    figure = new_figure(max(_LEAST_WIDTH, inches * sum(widths)), _PLANE_HEIGHT + 2 * _MARGIN, BACKGROUND)
    edge = _MARGIN / (_PLANE_HEIGHT + 2 * _MARGIN)
    places = figure.add_gridspec(
        1, len(cuts), width_ratios=widths, wspace=0.03, left=0.01, right=0.99, bottom=edge, top=1 - edge
    )
    for index, (plane, at, name) in enumerate(cuts):
        axes = figure.add_subplot(places[index])
        _draw(axes, plane, scan, at)
        _annotate(axes, plane, f"{name} {at[plane.through]}")
    _head(figure, title, dice or {})
    _legend(figure, scan, names or {})
    with atomic(path) as temporary:
        temporary.write_bytes(png(figure))


def thumbnail(image: Volume, truth: LabelMap | None, prediction: LabelMap | None, spacing: Spacing) -> bytes:
    """Return a PNG of at most 10 KB, 128 pixels high, of the worst axial slice. See ``case_picture``."""
    scan = _Scan(image, truth, prediction, spacing)
    across, down = scan.extent(AXIAL)
    # Drawn three times as large and then reduced, so that the outlines of a small label keep their shape.
    height = 3 * THUMBNAIL_HEIGHT / DPI
    figure = new_figure(height * min(across / down, _MAX_ASPECT), height, BACKGROUND)
    _draw(figure.add_axes((0, 0, 1, 1)), AXIAL, scan, scan.worst or scan.at, width=2.6)
    return small_png(png(figure))


def _draw(axes: Axes, plane: Plane, scan: _Scan, at: Size, width: float = 1.5) -> None:
    low, high = scan.window
    aspect = scan.spacing[plane.down] / scan.spacing[plane.across]
    shown = plane.cut(scan.image, at).astype(float)
    axes.imshow(shown, "gray", vmin=low, vmax=high, aspect=aspect, interpolation="bicubic")
    axes.autoscale(False)
    axes.set_axis_off()
    for labels, style in ((scan.truth, _TRUTH), (scan.prediction, _PREDICTION)):
        if labels is not None:
            _outline(axes, plane.cut(labels, at), scan.colors, style, width)


def _outline(axes: Axes, labels: Slice, colors: Mapping[int, str], style: Style, width: float) -> None:
    padded = np.pad(labels, 1)
    rows, columns = (np.arange(-1, voxels + 1) for voxels in labels.shape)
    for label in np.unique(labels[labels > 0]).tolist():
        axes.contour(columns, rows, padded == label, [0.5], colors=colors[label], linestyles=[style], linewidths=width)


def _annotate(axes: Axes, plane: Plane, name: str) -> None:
    from matplotlib.patheffects import withStroke

    marks = {(0.02, "left"): plane.left, (0.98, "right"): plane.right}
    for (x, side), letter in marks.items():
        text = axes.text(x, 0.5, letter, transform=axes.transAxes, color=TEXT, fontsize=11, weight="bold", ha=side)
        text.set_path_effects([withStroke(linewidth=2.5, foreground=BACKGROUND)])
    axes.set_title(name, color=MUTED, fontsize=9, pad=4)


def _head(figure: Figure, title: str, dice: Mapping[str, float]) -> None:
    y = 1 - 0.18 / figure.get_figheight()
    scores = [f"{name} {score:.3f}" for name, score in itertools.islice(dice.items(), _MOST_SCORES)]
    scores += ["…"] * (len(dice) > _MOST_SCORES)
    figure.text(0.012, y, title, color=TEXT, fontsize=12, weight="bold", va="center")
    if scores:
        figure.text(0.988, y, f"Dice   {'   '.join(scores)}", color=TEXT, fontsize=10, ha="right", va="center")


def _legend(figure: Figure, scan: _Scan, names: Mapping[int, str]) -> None:
    labels = itertools.islice(scan.colors.items(), _MOST_LABELS)
    lines = [line(color, "solid", names.get(label, f"label {label}")) for label, color in labels]
    if len(scan.colors) > _MOST_LABELS:
        lines.append(line(BACKGROUND, "solid", f"and {len(scan.colors) - _MOST_LABELS} more"))
    lines += [line(TEXT, _TRUTH, "truth")] * (scan.truth is not None)
    lines += [line(TEXT, _PREDICTION, "prediction")] * (scan.prediction is not None)
    if lines:
        figure.legend(handles=lines, loc="lower center", ncols=len(lines), frameon=False, labelcolor=TEXT, fontsize=9)
