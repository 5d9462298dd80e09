"""What the data dump takes from each case: one reading of its files gives numbers from which all else follows."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import find_objects

from mist_ops.analysis.intensities import Intensities, measure_intensities
from mist_ops.analysis.shapes import Shape, measure_shape
from mist_ops.config import StudyConfig
from mist_ops.dataset import Case
from mist_ops.errors import CaseError, MistError
from mist_ops.imaging.foreground import bounding_box, union_box
from mist_ops.imaging.geometry import Geometry
from mist_ops.imaging.nifti import read_image, read_labels
from mist_ops.types import Box, LabelMap, Mask, Size, Spacing


@dataclass(frozen=True)
class LabelMeasures:
    """A label in one case: its voxels, and its shape if it has one."""

    voxels: int
    shape: Shape | None


@dataclass(frozen=True, eq=False)
class CaseMeasures:
    """What the data dump takes from one case.

    Attributes:
        id: Of the case.
        spacing: In mm, in the file's own axes.
        size: Of the mask in voxels, in the same axes.
        effective_voxels: Voxels of the region that preprocessing keeps.
        file_bytes: Bytes of its files on disk.
        labels: By label; absent ones and the background are not in it.
        intensities: Of all labelled voxels, by channel.
    """

    id: str
    spacing: Spacing
    size: Size
    effective_voxels: int
    file_bytes: int
    labels: Mapping[int, LabelMeasures]
    intensities: Mapping[str, Intensities]

    @property
    def labelled_voxels(self) -> int:
        """Voxels of all labels."""
        return sum(label.voxels for label in self.labels.values())


def measure_case(case: Case, config: StudyConfig, boxes: Mapping[str, Box]) -> CaseMeasures:
    """Measure one training case; each of its files is read once.

    Args:
        case: With a mask.
        config: Says which channels and labels there are and whether images are cropped.
        boxes: Foreground in the file's own axes, by id; needed where images are cropped.

    Raises:
        CaseError: A file is missing or damaged, lies on another grid than the mask, or holds a label that is not
            listed.
    """
    try:
        return _measure(case, config, boxes)
    except CaseError:
        raise
    except MistError as error:
        raise CaseError(case.id, str(error)) from error


def _measure(case: Case, config: StudyConfig, boxes: Mapping[str, Box]) -> CaseMeasures:
    if case.mask is None:
        raise CaseError(case.id, "it has no mask. Analyze the dataset again.")
    mask, grid = read_labels(case.mask)
    labels = _measure_labels(mask, grid.spacing)
    unknown = sorted(set(labels) - set(config.dataset_info.labels))
    if unknown:
        raise CaseError(case.id, f"the mask holds labels {unknown} that config.json does not list. Correct one.")
    labelled = mask != 0
    intensities = {name: _intensities(case, name, labelled, grid) for name in config.dataset_info.images}
    return CaseMeasures(
        id=case.id,
        spacing=grid.spacing,
        size=grid.size,
        effective_voxels=math.prod(_kept(labelled, config, boxes.get(case.id)).size),
        file_bytes=sum(path.stat().st_size for path in case.files),
        labels=labels,
        intensities=intensities,
    )


def _intensities(case: Case, channel: str, labelled: Mask, grid: Geometry) -> Intensities:
    if channel not in case.images:
        raise CaseError(case.id, f"the channel '{channel}' has no file. Analyze the dataset again.")
    image, found = read_image(case.images[channel])
    differences = grid.differences(found) if found != grid else []
    if differences:
        raise CaseError(case.id, f"the mask and {channel} differ: {'; '.join(differences)}. Resample one of them.")
    return measure_intensities(image[labelled])


def _measure_labels(mask: LabelMap, spacing: Spacing) -> dict[int, LabelMeasures]:
    measures = {}
    for label, box in enumerate(find_objects(mask), start=1):
        if box is not None:
            inside = mask[box] == label
            measures[label] = LabelMeasures(int(np.count_nonzero(inside)), measure_shape(inside, spacing))
    return measures


def _kept(labelled: Mask, config: StudyConfig, box: Box | None) -> Box:
    """The region that preprocessing keeps; in accurate mode it widens the foreground to hold every label."""
    if not config.preprocessing.crop_to_foreground or box is None:
        return Box.whole(labelled.shape)
    needed = bounding_box(labelled) if config.preprocessing.resampling == "accurate" else None
    return union_box(box, needed) if needed else box
