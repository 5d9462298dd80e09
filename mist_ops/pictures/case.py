"""Figures of a case with the outlines of its labels.

Volumes are in LPS voxel order. Figures follow the radiological convention: the patient's right is on the left of axial
and coronal slices, anterior is at the top of axial and on the left of sagittal ones. Outlines of the truth are solid,
those of the prediction dashed, in a colorblind-safe color per label.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import cast

import numpy as np
from jaxtyping import Bool, Float, Num

from mist_ops.files import atomic
from mist_ops.imaging.labels import count_voxels
from mist_ops.imaging.percentiles import percentiles
from mist_ops.pictures.canvas import BACKGROUND, COLORS, MUTED, TEXT, THUMBNAIL_HEIGHT, small_png
from mist_ops.pictures.drawing import Canvas, Corner
from mist_ops.types import LabelMap, Size, Spacing, Volume

Slice = Num[np.ndarray, "row column"]

_DASHES = (6.0, 4.0)
"""Lengths in pixels of the dashes of predictions, and of the gaps between them."""

_PERCENTILES, _LABELED_PERCENTILES = (0.5, 99.5), (1.0, 99.0)
_HEADROOM, _MOST_EXTENSION = 0.2, 0.5

# Pixels.
_PLANE_HEIGHT, _MARGIN, _GAP, _LEAST_WIDTH = 432, 72, 10, 780
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
        present = sorted({label for labels in maps for label in count_voxels(labels) if label})
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
    scale = _PLANE_HEIGHT / max(down for _, down in extents)
    sizes = [(max(1, round(across * scale)), max(1, round(down * scale))) for across, down in extents]
    total = sum(width for width, _ in sizes) + _GAP * (len(cuts) + 1)
    picture = Canvas(max(_LEAST_WIDTH, total), _PLANE_HEIGHT + 2 * _MARGIN, BACKGROUND)
    left = _GAP + (picture.width - total) // 2
    for (plane, at, name), (width, height) in zip(cuts, sizes, strict=True):
        top = _MARGIN + (_PLANE_HEIGHT - height) // 2
        _draw(picture, (left, top), (width, height), plane, scan, at)
        middle = top + height / 2
        picture.text((left + 0.02 * width, middle), plane.left, TEXT, 18, "lm", bold=True, edge=BACKGROUND)
        picture.text((left + 0.98 * width, middle), plane.right, TEXT, 18, "rm", bold=True, edge=BACKGROUND)
        picture.text((left + width / 2, top - 7), f"{name} {at[plane.through]}", MUTED, 15, "mb")
        left += width + _GAP
    _head(picture, title, dice or {})
    _legend(picture, scan, names or {})
    with atomic(path) as temporary:
        temporary.write_bytes(picture.png())


def thumbnail(image: Volume, truth: LabelMap | None, prediction: LabelMap | None, spacing: Spacing) -> bytes:
    """Return a PNG of at most 10 KB, 128 pixels high, of the worst axial slice. See ``case_picture``."""
    scan = _Scan(image, truth, prediction, spacing)
    across, down = scan.extent(AXIAL)
    # Drawn three times as large and then reduced, so that the outlines of a small label keep their shape.
    height = 3 * THUMBNAIL_HEIGHT
    width = max(1, round(height * min(across / down, _MAX_ASPECT)))
    picture = Canvas(width, height, BACKGROUND)
    # Of a very wide slice, the whole is shown with margins above and below.
    shown = min(height, max(1, round(width * down / across)))
    _draw(picture, (0, (height - shown) // 2), (width, shown), AXIAL, scan, scan.worst or scan.at, 4.3)
    return small_png(picture.png())


def _draw(
    picture: Canvas, corner: Corner, size: tuple[int, int], plane: Plane, scan: _Scan, at: Size, width: float = 2.5
) -> None:
    """Draw a slice with its outlines into a rectangle."""
    low, high = scan.window
    shown = (plane.cut(scan.image, at).astype(np.float32) - low) / (high - low or 1)
    picture.gray(corner, size, np.rint(255 * shown.clip(0, 1)).astype(np.uint8))
    for labels, dashed in ((scan.truth, False), (scan.prediction, True)):
        if labels is None:
            continue
        cut = plane.cut(labels, at)
        scale = np.divide(size, cut.shape[::-1])
        for label in np.unique(cut[cut > 0]).tolist():
            for outline in outlines(cut == label):
                points = (outline + 0.5) * scale + corner
                picture.line(points, scan.colors[label], width, _DASHES if dashed else None)


def outlines(mask: Bool[np.ndarray, "row column"]) -> Sequence[Float[np.ndarray, "point 2"]]:
    """Closed lines between the pixels inside and outside a mask: column and row, with pixel centers at integers."""
    from contourpy import contour_generator  # takes 10 ms to import

    rows, columns = (np.arange(-1, voxels + 1) for voxels in mask.shape)
    found = contour_generator(columns, rows, np.pad(mask, 1).astype(np.float32)).lines(0.5)
    return cast(Sequence[np.ndarray], found)  # the type of lines that are not divided into chunks


def _head(picture: Canvas, title: str, dice: Mapping[str, float]) -> None:
    scores = [f"{name} {score:.3f}" for name, score in itertools.islice(dice.items(), _MOST_SCORES)]
    scores += ["…"] * (len(dice) > _MOST_SCORES)
    picture.text((2 * _GAP, _MARGIN * 0.3), title, TEXT, 20, "lm", bold=True)
    if scores:
        text = f"Dice   {'   '.join(scores)}"
        picture.text((picture.width - 2 * _GAP, _MARGIN * 0.3), text, TEXT, 17, "rm")


def _legend(picture: Canvas, scan: _Scan, names: Mapping[int, str]) -> None:
    labels = itertools.islice(scan.colors.items(), _MOST_LABELS)
    entries = [(names.get(label, f"label {label}"), color, False) for label, color in labels]
    if len(scan.colors) > _MOST_LABELS:
        entries.append((f"and {len(scan.colors) - _MOST_LABELS} more", BACKGROUND, False))
    entries += [("truth", TEXT, False)] * (scan.truth is not None)
    entries += [("prediction", TEXT, True)] * (scan.prediction is not None)
    sample, between = 30, 22
    widths = [sample + 10 + picture.length(name, 15) + between for name, _, _ in entries]
    left, row = (picture.width - sum(widths) + between) / 2, picture.height - _MARGIN * 0.4
    for (name, color, dashed), width in zip(entries, widths, strict=True):
        picture.line(np.array([[left, row], [left + sample, row]]), color, 3.0, _DASHES if dashed else None)
        picture.text((left + sample + 10, row), name, TEXT, 15, "lm")
        left += width
