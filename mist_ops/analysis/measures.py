"""Measurements of a case for the data dump, from one pass over its files."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import scipy

from mist_ops.analysis.intensities import Intensities, measure_intensities
from mist_ops.analysis.shapes import Shape, measure_shape
from mist_ops.analysis.verify import check_same_grid
from mist_ops.config import StudyConfig
from mist_ops.dataset import Case
from mist_ops.errors import CaseError, MistError
from mist_ops.imaging.foreground import bounding_box, union_box
from mist_ops.imaging.geometry import CaseGeometry, Geometry
from mist_ops.imaging.labels import check_labels, count_voxels, to_indices
from mist_ops.imaging.nifti import read_image, read_labels
from mist_ops.imaging.resample import resample_classes
from mist_ops.types import Box, LabelMap, Mask, Size, Spacing


@dataclass(frozen=True)
class LabelMeasures:
    """A label in one case.

    Attributes:
        voxels: Number of voxels.
        shape: Its shape, if it has one.
        kept: Share of its volume that is left at the target spacing, after the crop.
    """

    voxels: int
    shape: Shape | None
    kept: float = 1.0


@dataclass(frozen=True, eq=False)
class CaseMeasures:
    """Measurements of one case.

    Attributes:
        id: Id of the case.
        spacing: In mm, in the file's own axes.
        size: Of the mask in voxels, in the same axes.
        effective_voxels: Voxels of the region that preprocessing keeps.
        file_bytes: Size of its files on disk.
        labels: Measurements by label, without background and absent labels.
        intensities: Intensities of all labeled voxels, by channel.
    """

    id: str
    spacing: Spacing
    size: Size
    effective_voxels: int
    file_bytes: int
    labels: Mapping[int, LabelMeasures]
    intensities: Mapping[str, Intensities]

    @property
    def labeled_voxels(self) -> int:
        """Voxels of all labels."""
        return sum(label.voxels for label in self.labels.values())


def measure_case(case: Case, config: StudyConfig, boxes: Mapping[str, Box]) -> CaseMeasures:
    """Measure a training case; each of its files is read once.

    Args:
        case: With a mask.
        config: With channels, labels and the settings of the crop.
        boxes: Foreground in the file's own axes, by id; required if images are cropped.

    Raises:
        CaseError: A file is missing or corrupted, has another grid than the mask, or holds an unlisted label.
    """
    try:
        return _measure(case, config, boxes)
    except MistError as error:
        raise CaseError.of(case.id, error) from error


def _measure(case: Case, config: StudyConfig, boxes: Mapping[str, Box]) -> CaseMeasures:
    if case.mask is None:
        raise CaseError(case.id, "it has no mask. Run the analysis again.", code="mask-missing")
    mask, grid = read_labels(case.mask)
    labels = _measure_labels(mask, grid.spacing)
    check_labels(labels, config.dataset_info.labels)
    labeled = mask != 0
    region = _kept(labeled, config, boxes.get(case.id))
    volumes = _resampled_volumes(mask, grid, region, config)
    intensities = {name: _intensities(case, name, labeled, grid) for name in config.dataset_info.images}
    return CaseMeasures(
        id=case.id,
        spacing=grid.spacing,
        size=grid.size,
        effective_voxels=math.prod(region.size),
        file_bytes=sum(path.stat().st_size for path in case.files),
        labels={
            label: replace(found, kept=volumes[label] / (found.voxels * math.prod(grid.spacing)))
            for label, found in labels.items()
        },
        intensities=intensities,
    )


def _intensities(case: Case, channel: str, labeled: Mask, grid: Geometry) -> Intensities:
    if channel not in case.images:
        raise CaseError(
            case.id,
            f"channel '{channel}' has no file. Run the analysis again.",
            code="channel-missing",
            field=channel,
        )
    image, found = read_image(case.images[channel])
    check_same_grid("the mask", grid, channel, found, case.images[channel])
    return measure_intensities(image[labeled])


def _measure_labels(mask: LabelMap, spacing: Spacing) -> dict[int, LabelMeasures]:
    measures = {}
    for label, box in enumerate(scipy.ndimage.find_objects(mask), start=1):
        if box is not None:
            inside = mask[box] == label
            measures[label] = LabelMeasures(int(np.count_nonzero(inside)), measure_shape(inside, spacing))
    return measures


def _resampled_volumes(mask: LabelMap, grid: Geometry, region: Box, config: StudyConfig) -> Mapping[int, float]:
    """Volume in mm³ of each label after preprocessing."""
    labels, settings, target = config.dataset_info.labels, config.preprocessing, config.spatial_config.target_spacing
    indices, spacing = to_indices(mask, labels), grid.spacing
    if not settings.skip:
        part, reorientation = CaseGeometry(grid, region, grid).canonical()
        cropped = reorientation.apply(indices[region.slices])
        rules, keep_small = settings.resampling, settings.keep_small_labels
        indices = resample_classes(cropped, len(labels), part.spacing, target, rules, keep_small)
        spacing = part.resampled(target).spacing
    counts = count_voxels(indices)
    return {label: counts.get(index, 0) * math.prod(spacing) for index, label in enumerate(labels)}


def _kept(labeled: Mask, config: StudyConfig, box: Box | None) -> Box:
    """Return the region that preprocessing keeps; in accurate mode it includes every label."""
    if not config.preprocessing.crop_to_foreground or box is None:
        return Box.whole(labeled.shape)
    needed = bounding_box(labeled) if config.preprocessing.resampling == "accurate" else None
    return union_box(box, needed) if needed else box
