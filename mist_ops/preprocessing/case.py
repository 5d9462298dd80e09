"""Preprocessing of a case: from its files to the arrays that a network trains on."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float16

from mist_ops.config import StudyConfig
from mist_ops.dataset import Case
from mist_ops.errors import CaseError, ImageError
from mist_ops.files import write_array
from mist_ops.imaging.distances import VOXELS, distance_maps
from mist_ops.imaging.foreground import bounding_box, foreground_box, union_box
from mist_ops.imaging.geometry import CaseGeometry, Geometry
from mist_ops.imaging.labels import to_indices
from mist_ops.imaging.nifti import MAX_VOXELS, read_geometry, read_image, read_labels
from mist_ops.imaging.resample import Resampled, resample_classes, resample_image, resample_mask
from mist_ops.preprocessing.normalize import normalize
from mist_ops.records.arrays import Inputs, mark_unfinished, remove_case, write_record
from mist_ops.study import Study
from mist_ops.types import Box, Channels, Image, LabelMap, Size


@dataclass(frozen=True)
class PreprocessedCase:
    """The arrays of a case, all on ``geometry.preprocessed``; ``classes`` and ``dtm`` are None without a mask."""

    image: Channels
    classes: LabelMap | None
    dtm: Float16[np.ndarray, "x y z class"] | None
    geometry: CaseGeometry


def preprocess(case: Case, config: StudyConfig, box: Box | None, measured: Size | None = None) -> PreprocessedCase:
    """Crop, reorient, resample and normalize the channels of a case, and crop, reorient and resample its mask.

    Args:
        case: Its files; without a mask, only the channels are made.
        config: Settings; with ``preprocessing.skip`` the files are only converted.
        box: Foreground in voxels of the files. None to find it in the first channel. Without effect unless
            ``preprocessing.crop_to_foreground``.
        measured: Size of the image that the box was found in, if that is known.

    Raises:
        CaseError: A file cannot be used, the files of the case lie on different grids, or the box is not of them.
        ConfigError: A CT study without normalization settings.
    """
    with _named(case.id):
        channels = _channels(case, config.dataset_info.images)
        original = _common_grid(channels, case.mask)
        indices = to_indices(read_labels(case.mask)[0], config.dataset_info.labels) if case.mask else None
        if config.preprocessing.skip:
            images = [read_image(path)[0] for path in channels]
            return _assembled(images, indices, config, CaseGeometry(original, None, original))
        if config.preprocessing.crop_to_foreground:
            _check_measured(measured, original.size)
            box = _extended(box or foreground_box(read_image(channels[0])[0]), indices, original, config)
        else:
            box = None
        return _resampled(channels, indices, config, original, box)


def write_case(study: Study, case: Case, config: StudyConfig, box: Box | None, measured: Size | None = None) -> str:
    """Preprocess a case and write its arrays, then their record.

    Arrays of an earlier run are removed first, and a failure leaves none.

    Returns:
        SHA-256 of the arrays.
    """
    remove_case(study, case.id)
    try:
        inputs = Inputs.of(case)
        made = preprocess(case, config, box, measured)
        mark_unfinished(study, case.id)
        _write_arrays(study, case.id, made)
        return write_record(study, case.id, inputs, made.geometry, config.digest("preprocessing"))
    except BaseException:
        remove_case(study, case.id)
        raise


@contextmanager
def _named(case_id: str) -> Iterator[None]:
    try:
        yield
    except ImageError as error:
        raise CaseError(case_id, str(error)) from error


def _channels(case: Case, names: list[str]) -> list[Path]:
    missing = [name for name in names if name not in case.images]
    if missing:
        raise ImageError(f"it lacks the channels {missing} of the settings. Found: {list(case.images)}. Add them.")
    return [case.images[name] for name in names]


def _common_grid(channels: list[Path], mask: Path | None) -> Geometry:
    first, *others = [*channels, *([mask] if mask else [])]
    grid = read_geometry(first)
    for path in others:
        differences = grid.differences(read_geometry(path))
        if differences:
            raise ImageError(
                f"{path} lies on another grid than {first}: {'; '.join(differences)} (the former's last). "
                "All files of a case must share one; resample it or remove the case."
            )
    return grid


def _check_measured(measured: Size | None, size: Size) -> None:
    if measured not in (None, size):
        raise ImageError(f"it has the size {size}, and had {measured} when it was analyzed. Analyze the dataset again.")


def _extended(box: Box, indices: LabelMap | None, grid: Geometry, config: StudyConfig) -> Box:
    """The box, checked, and in accurate mode wide enough for every label: a bright box may cut some off."""
    if any(not 0 <= start < stop <= size for start, stop, size in zip(box.start, box.stop, grid.size, strict=True)):
        edges = f"from {box.start} to {box.stop}"
        raise ImageError(f"its foreground {edges} does not fit its size {grid.size}. Analyze the dataset again.")
    labelled = bounding_box(indices != 0) if indices is not None else None
    return union_box(box, labelled) if labelled and config.preprocessing.resampling == "accurate" else box


def _resampled(
    channels: list[Path], indices: LabelMap | None, config: StudyConfig, original: Geometry, box: Box | None
) -> PreprocessedCase:
    crop = (box or Box.whole(original.size)).slices
    target, settings = config.spatial_config.target_spacing, config.preprocessing
    grid, reorientation = CaseGeometry(original, box, original).canonical()
    preprocessed = grid.resampled(target)
    if math.prod(preprocessed.size) > MAX_VOXELS:
        raise ImageError(
            f"{channels[0]} has the spacing {grid.spacing} mm, and at {target} mm would have the size "
            f"{preprocessed.size}, which no scan has. Correct its spacing."
        )
    images = [_channel(reorientation.apply(read_image(path)[0][crop]), grid, config) for path in channels]
    if indices is not None:
        n_classes = len(config.dataset_info.labels)
        cropped = reorientation.apply(indices[crop])
        indices = resample_classes(cropped, n_classes, grid.spacing, target, settings.resampling)
    return _assembled(images, indices, config, CaseGeometry(original, box, preprocessed))


def _channel(image: Image, grid: Geometry, config: StudyConfig) -> Resampled:
    target, settings = config.spatial_config.target_spacing, config.preprocessing
    resampled = resample_image(image, grid.spacing, target, settings.resampling)
    mask = None
    if settings.normalize_with_nonzero_mask:
        # After a B-spline hardly a voxel is zero: its rings fill the background.
        reference = settings.resampling == "reference"
        mask = resampled != 0 if reference else resample_mask(image != 0, grid.spacing, target)
    return normalize(resampled, mask, config.dataset_info.modality, settings.ct_normalization)


def _assembled(
    images: list[Image], indices: LabelMap | None, config: StudyConfig, geometry: CaseGeometry
) -> PreprocessedCase:
    settings, n_classes = config.preprocessing, len(config.dataset_info.labels)
    dtm = None
    if settings.compute_dtms and indices is not None:
        in_mm = settings.resampling == "accurate"
        dtm = distance_maps(
            indices, n_classes, settings.normalize_dtms, geometry.preprocessed.spacing if in_mm else VOXELS
        )
    return PreprocessedCase(np.stack(images, axis=-1), indices, dtm, geometry)


def _write_arrays(study: Study, case_id: str, made: PreprocessedCase) -> None:
    arrays = {study.image(case_id): made.image}
    if made.classes is not None:
        arrays[study.label(case_id)] = made.classes[..., None]
    if made.dtm is not None:
        arrays[study.dtm(case_id)] = made.dtm
    for path, array in arrays.items():
        write_array(path, array)
