"""Preprocessing of a case: from its files to the arrays that a network trains on."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Float16

from mist_ops.boxes import read_boxes, read_sizes
from mist_ops.config import StudyConfig
from mist_ops.dataset import Case
from mist_ops.errors import CaseError, ImageError, counted, few
from mist_ops.files import Replacement, save_array, together
from mist_ops.imaging.distances import VOXELS, distance_maps
from mist_ops.imaging.foreground import bounding_box, foreground_box, union_box
from mist_ops.imaging.geometry import CaseGeometry, Geometry
from mist_ops.imaging.labels import count_voxels, to_indices
from mist_ops.imaging.nifti import MAX_VOXELS, read_geometry, read_image, read_labels, seconds_for
from mist_ops.imaging.resample import Resampled, resample_classes, resample_image, resample_mask
from mist_ops.preprocessing.normalize import normalize
from mist_ops.records.arrays import Inputs, Volumes, restamp, write_record
from mist_ops.steps import view
from mist_ops.study import Study
from mist_ops.types import Box, Channels, Image, LabelMap, Size, by
from mist_ops.workers import Outcome, outcomes, worthwhile

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class PreprocessedCase:
    """Arrays of a case on the grid ``geometry.preprocessed``; ``classes`` and ``dtm`` are None without a mask.

    ``labels`` are those in the mask, None without one; ``volumes`` are theirs in mm³, in the mask and in ``classes``.
    """

    image: Channels
    classes: LabelMap | None
    dtm: Float16[np.ndarray, "x y z class"] | None
    geometry: CaseGeometry
    labels: tuple[int, ...] | None = None
    volumes: Volumes = field(default_factory=dict)


def preprocess(case: Case, config: StudyConfig, box: Box | None, measured: Size | None = None) -> PreprocessedCase:
    """Crop, reorient and resample a case, and normalize its channels.

    Args:
        case: Files of the case; the mask is optional.
        config: Settings; with ``preprocessing.skip``, files are only converted to arrays.
        box: Foreground in voxels of the files, used with ``preprocessing.crop_to_foreground``. None to compute it from
            the first channel.
        measured: Size of the image from which the box was computed, if known.

    Raises:
        CaseError: A file cannot be used, the files have different grids, or the box does not fit them.
        ConfigError: A CT study has no normalization settings.
    """
    with _errors_of(case.id):
        channels = _channels(case, config.dataset_info.images)
        original = _common_grid(channels, case.mask)
        indices = to_indices(read_labels(case.mask)[0], config.dataset_info.labels) if case.mask else None
        counts = {} if indices is None else count_voxels(indices)
        labels = None if indices is None else tuple(config.dataset_info.labels[index] for index in counts)
        if config.preprocessing.skip:
            images = [read_image(path)[0] for path in channels]
            return replace(_assembled(images, indices, config, CaseGeometry(original, None, original)), labels=labels)
        if config.preprocessing.crop_to_foreground:
            _check_measured(measured, original.size)
            box = _extended(box or foreground_box(read_image(channels[0])[0]), indices, original, config)
        else:
            box = None
        made = _resampled(channels, indices, config, original, box)
        return replace(made, labels=labels, volumes=_volumes(counts, made, config.dataset_info.labels))


def write_case(study: Study, case: Case, config: StudyConfig, box: Box | None, measured: Size | None = None) -> str:
    """Preprocess a case and replace its arrays and their record; a failure leaves those of an earlier run.

    Returns:
        SHA-256 of the arrays.
    """
    inputs = Inputs.of(case)
    made = preprocess(case, view(config, "preprocessing"), box, measured)
    used = None if made.geometry.box is None else box
    with together(study.numpy) as files:
        arrays = _write_arrays(study, case.id, made, files)
        path = files.write(study.geometry(case.id), synced=False)  # ``restamp`` replaces it
        record = write_record(
            path, arrays, inputs, made.geometry, config, labels=made.labels, volumes=made.volumes, foreground=used
        )
    restamp(study, case.id, record)
    return record.content


def write_cases(
    study: Study, cases: Sequence[Case], config: StudyConfig, workers: int = 1
) -> Iterator[Outcome[Case, str]]:
    """Preprocess cases as ``write_case`` with the boxes of the analysis; few small ones without workers."""
    write = partial(_write, study, config, read_boxes(study), read_sizes(study))
    seconds = seconds_for(cases[0].files) if cases else 0.0
    return outcomes(write, cases, worthwhile(workers, len(cases), seconds))


def _write(study: Study, config: StudyConfig, boxes: Mapping[str, Box], sizes: Mapping[str, Size], case: Case) -> str:
    return write_case(study, case, config, boxes.get(case.id), sizes.get(case.id))


@contextmanager
def _errors_of(case_id: str) -> Iterator[None]:
    try:
        yield
    except ImageError as error:
        raise CaseError.of(case_id, error) from error


def _channels(case: Case, names: list[str]) -> list[Path]:
    missing = [name for name in names if name not in case.images]
    if missing:
        raise ImageError(
            f"{counted(len(missing), 'channel')} missing: {', '.join(missing)}. Found: {few(list(case.images))}. Add "
            "the files, or correct the table.",
            code="channel-missing",
            found=list(case.images),
            expected=missing,
        )
    return [case.images[name] for name in names]


def _common_grid(channels: list[Path], mask: Path | None) -> Geometry:
    first, *others = [*channels, *([mask] if mask else [])]
    grid = read_geometry(first)
    for path in others:
        other = read_geometry(path)
        differences = grid.differences(other)
        if differences:
            raise ImageError(
                f"{first} and {path} have different grids: {'; '.join(differences)}. All files of a case must have the "
                "same grid. Resample one, or remove the case.",
                code="grid-mismatch",
                file=path,
                found=differences,
            )
        if mask is None and grid.shared_forms(other):  # with a mask, the analysis reports it
            _LOG.warning(
                "%s and %s are on the same grid only by a form in their headers that is not used here. They are used "
                "voxel by voxel.",
                first,
                path,
            )
    return grid


def _volumes(counts: Mapping[int, int], made: PreprocessedCase, labels: Sequence[int]) -> Volumes:
    """Volumes in mm³ of the labels of a mask, but the background, in the mask and in its resampled classes.

    ``counts`` are the voxels of each class in the mask.
    """
    if made.classes is None:
        return {}
    after = count_voxels(made.classes)
    voxel, new = (math.prod(grid.spacing) for grid in (made.geometry.original, made.geometry.preprocessed))
    return {
        labels[index]: (round(count * voxel, 6), round(after.get(index, 0) * new, 6))
        for index, count in counts.items()
        if labels[index]
    }


def _check_measured(measured: Size | None, size: Size) -> None:
    if measured and measured != size:
        raise ImageError(
            f"its images have {by(size)} voxels, and had {by(measured)} in the analysis. Run the analysis again.",
            code="image-changed",
            found=size,
            expected=measured,
        )


def _extended(box: Box, indices: LabelMap | None, grid: Geometry, config: StudyConfig) -> Box:
    """Check the box and, with accurate resampling, extend it to all labels, which a foreground box may cut off."""
    if any(not 0 <= start < stop <= size for start, stop, size in zip(box.start, box.stop, grid.size, strict=True)):
        raise ImageError(
            f"its foreground box from {box.start} to {box.stop} does not fit {by(grid.size)} voxels. Run the analysis "
            "again.",
            code="box-mismatch",
            found=box,
            expected=grid.size,
        )
    labeled = bounding_box(indices != 0) if indices is not None else None
    return union_box(box, labeled) if labeled and config.preprocessing.resampling == "accurate" else box


def _resampled(
    channels: list[Path], indices: LabelMap | None, config: StudyConfig, original: Geometry, box: Box | None
) -> PreprocessedCase:
    target, settings = config.spatial_config.target_spacing, config.preprocessing
    grid, reorientation = CaseGeometry(original, box, original).canonical()
    preprocessed = grid.resampled(target)
    if math.prod(preprocessed.size) > MAX_VOXELS:
        raise ImageError(
            f"{channels[0]} has a spacing of {by(grid.spacing)} mm; at {by(target)} mm it would have "
            f"{by(preprocessed.size)} voxels. Correct its spacing.",
            code="image-size",
            file=channels[0],
            found=preprocessed.size,
        )
    images = [_channel(reorientation.apply(read_image(path, box)[0]), grid, config) for path in channels]
    if indices is not None:
        n_classes = len(config.dataset_info.labels)
        cropped = reorientation.apply(indices[(box or Box.whole(original.size)).slices])
        indices = resample_classes(
            cropped, n_classes, grid.spacing, target, settings.resampling, settings.keep_small_labels
        )
    return _assembled(images, indices, config, CaseGeometry(original, box, preprocessed))


def _channel(image: Image, grid: Geometry, config: StudyConfig) -> Resampled:
    target, settings = config.spatial_config.target_spacing, config.preprocessing
    resampled = resample_image(image, grid.spacing, target, settings.resampling)
    mask = None
    if settings.normalize_with_nonzero_mask:
        # The B-spline overshoots into the background, where hardly any voxel stays zero.
        reference = settings.resampling == "reference"
        mask = resampled != 0 if reference else resample_mask(image != 0, grid.spacing, target)
    ct = settings.ct_normalization if config.dataset_info.modality == "ct" else None
    return normalize(resampled, mask, ct, settings.resampling)


def _assembled(
    images: list[Image], indices: LabelMap | None, config: StudyConfig, geometry: CaseGeometry
) -> PreprocessedCase:
    settings, dtm = config.preprocessing, None
    if indices is not None and settings.compute_dtms:
        in_mm, n_classes = settings.resampling == "accurate", len(config.dataset_info.labels)
        dtm = distance_maps(
            indices, n_classes, settings.normalize_dtms, geometry.preprocessed.spacing if in_mm else VOXELS
        )
    return PreprocessedCase(_stacked(images), indices, dtm, geometry)


def _stacked(images: Sequence[Image]) -> Channels:
    """The channels along a last axis, slice by slice: twice as fast, since each slice stays in the cache."""
    stacked = np.empty((*images[0].shape, len(images)), dtype=np.float32)
    for x, slices in enumerate(stacked):
        np.stack([image[x] for image in images], axis=-1, out=slices)
    return stacked


def _write_arrays(study: Study, case_id: str, made: PreprocessedCase, files: Replacement) -> dict[str, Path]:
    """Write all arrays beside the old ones, and return their paths by name."""
    masked = None if made.classes is None else made.classes[..., None]
    arrays = {"image": made.image, "label": masked, "dtm": made.dtm}
    written = {}
    for name, path in (("image", study.image(case_id)), ("label", study.label(case_id)), ("dtm", study.dtm(case_id))):
        array = arrays[name]
        if array is None:
            files.remove(path)
        else:
            written[name] = files.write(path, synced=False)  # the record has its hash and size
            save_array(written[name], array)
    return written
