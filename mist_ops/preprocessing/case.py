"""A case from its files to the arrays that the network sees, and the record of what became of its grid."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float16
from pydantic import BaseModel, TypeAdapter

from mist_ops.config import STEP_VERSIONS, StudyConfig
from mist_ops.dataset import Case
from mist_ops.errors import CaseError, ImageError
from mist_ops.files import file_hash, read_object, stamp, write_array, write_json
from mist_ops.imaging.distances import VOXELS, distance_maps
from mist_ops.imaging.foreground import bounding_box, foreground_box, union_box
from mist_ops.imaging.geometry import Geometry, Reorientation
from mist_ops.imaging.labels import to_indices
from mist_ops.imaging.nifti import MAX_VOXELS, read_geometry, read_image, read_labels
from mist_ops.imaging.resample import Resampled, resample_classes, resample_image, resample_mask
from mist_ops.preprocessing.normalize import normalize
from mist_ops.study import Study
from mist_ops.types import Box, Channels, Image, Json, LabelMap, Size


@dataclass(frozen=True)
class CaseGeometry:
    """The grids of a case on its way, enough to bring a prediction back to the files.

    Attributes:
        original: Grid of the files.
        box: What was cut out of it, in its own voxel indices; None for all of it.
        preprocessed: Canonical grid of the arrays; the original one where preprocessing is skipped.
    """

    original: Geometry
    box: Box | None
    preprocessed: Geometry

    def canonical(self) -> tuple[Geometry, Reorientation]:
        """The cropped original grid in canonical order, and how arrays come there."""
        return (self.original.cropped(self.box) if self.box else self.original).canonical()

    def to_json(self) -> Json:
        """The fields as JSON."""
        box = {"start": list(self.box.start), "stop": list(self.box.stop)} if self.box else None
        return {"original": self.original.to_json(), "box": box, "preprocessed": self.preprocessed.to_json()}

    @classmethod
    def from_json(cls, value: Json) -> CaseGeometry:
        """The inverse of ``to_json``; other keys are ignored, and anything else is a ``ValueError``."""
        return _GEOMETRY.validate_python(value)


_GEOMETRY = TypeAdapter(CaseGeometry)


class _Record(BaseModel):
    """What stands in a record besides the geometry."""

    inputs: dict[str, str] | None = None
    settings: str | None = None
    content: str | None = None
    stamps: dict[str, dict[str, list[int]]] | None = None


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
    """Preprocess a case and write its arrays, then the record of its geometry, inputs and settings.

    What an earlier run left of the case is removed first, so that a failure leaves nothing, and a case whose record has
    a content is complete.

    Returns:
        SHA-256 of the arrays.
    """
    remove_case(study, case.id)
    try:
        # Before they are read: files that change meanwhile make the case outdated.
        stamps, inputs = _stamps(_inputs(case)), _hashes(_inputs(case))
        made = preprocess(case, config, box, measured)
        # Killed from here on, it leaves arrays that are known to be ours, and half-done. A few bytes need no syncing.
        study.geometry(case.id).parent.mkdir(parents=True, exist_ok=True)
        study.geometry(case.id).write_text(json.dumps(_UNFINISHED), encoding="utf-8")
        content = _write_arrays(study, case.id, made)
        record = {
            **made.geometry.to_json(),
            "inputs": inputs,
            "settings": config.digest("preprocessing"),
            "version": STEP_VERSIONS["preprocessing"],
            "content": content,
            "stamps": {"inputs": stamps, "arrays": _stamps(_arrays(study, case.id))},
        }
        write_json(study.geometry(case.id), record)
    except BaseException:
        remove_case(study, case.id)
        raise
    return content


def remove_case(study: Study, case_id: str) -> None:
    """Remove everything that preprocessing wrote of a case, the record first."""
    for locate in (study.geometry, study.image, study.label, study.dtm):
        locate(case_id).unlink(missing_ok=True)


def read_case_geometry(study: Study, case_id: str) -> CaseGeometry:
    """The geometry of a preprocessed case.

    Raises:
        CaseError: The case is not preprocessed, or its record is damaged.
    """
    path, record = study.geometry(case_id), _read_record(study, case_id)
    try:
        return CaseGeometry.from_json(record)
    except ValueError as error:
        raise CaseError(case_id, f"{path} is damaged ({error}). Preprocess the case again.") from error


def read_content_hash(study: Study, case_id: str) -> str:
    """SHA-256 of the arrays of a preprocessed case, as noted when they were written; errors as above."""
    return str(_read_record(study, case_id).get("content"))


def is_current(study: Study, case: Case, config: StudyConfig) -> bool:
    """Whether the arrays of a case are there, and were made from the files and settings as they are now."""
    return why_outdated(study, case, config.digest("preprocessing"), config.preprocessing.compute_dtms) is None


_UNFINISHED: Json = {"content": None}
"""The record of a case whose arrays are being written."""

NOT_THERE, DAMAGED = "it is not preprocessed", "its arrays are damaged"
"""Reasons for which nothing is lost if a case is preprocessed anew."""


def why_outdated(study: Study, case: Case, settings: str, with_dtm: bool = False) -> str | None:
    """Why a case is to be preprocessed, such as "its mask changed"; None if its arrays are current.

    Files are read only where their size or times are not those on record. What was only touched, or copied, is noted
    with its new times, so that it is read once.

    Args:
        study: Where the arrays lie.
        case: Its files.
        settings: Digest of the settings of preprocessing.
        with_dtm: Whether distance maps are wanted.
    """
    try:
        record = _read_record(study, case.id)
    except CaseError:
        return NOT_THERE
    inputs, arrays = _inputs(case), _arrays(study, case.id)
    if record == _UNFINISHED:
        return DAMAGED
    if "image" not in arrays or (case.mask and "label" not in arrays) or (with_dtm and "dtm" not in arrays):
        return DAMAGED
    # Before anything is read: a file that changes meanwhile is read again next time.
    stamps = {"inputs": _stamps(inputs), "arrays": _stamps(arrays)}
    changed = _changed(record, inputs)
    if changed:
        return f"its {' and '.join(changed)} changed"
    if record.get("settings") != settings:
        return "the settings of preprocessing changed"
    if record.get("version", 1) != STEP_VERSIONS["preprocessing"]:
        return (
            f"preprocessing is of version {STEP_VERSIONS['preprocessing']} now, and was of {record.get('version', 1)}"
        )
    noted = record.get("stamps") or {}
    if noted.get("arrays") != stamps["arrays"] and record.get("content") != _content(arrays):
        return DAMAGED
    if noted != stamps:
        with suppress(OSError):  # a folder that may only be read is read in full each time
            write_json(study.geometry(case.id), {**record, "stamps": stamps})
    return None


def input_hashes(study: Study, case: Case) -> dict[str, str]:
    """SHA-256 of the files of a case by channel, and of its "mask"; those known to be unchanged are not read."""
    inputs = _inputs(case)
    try:
        record = _read_record(study, case.id)
    except CaseError:
        return _hashes(inputs)
    known, noted = record.get("inputs") or {}, (record.get("stamps") or {}).get("inputs", {})
    return {
        name: known[name] if name in known and noted.get(name) == stamp(path) else file_hash(path)
        for name, path in inputs.items()
    }


def _changed(record: Json, inputs: Mapping[str, Path]) -> list[str]:
    before, noted = record.get("inputs") or {}, (record.get("stamps") or {}).get("inputs", {})
    return [
        name
        for name in dict.fromkeys([*before, *inputs])
        if name not in inputs
        or name not in before
        or (noted.get(name) != stamp(inputs[name]) and before[name] != file_hash(inputs[name]))
    ]


def _inputs(case: Case) -> dict[str, Path]:
    files = {**case.images, **({"mask": case.mask} if case.mask else {})}
    return {name: path for name, path in files.items() if path.is_file()}


def _arrays(study: Study, case_id: str) -> dict[str, Path]:
    files = {"image": study.image(case_id), "label": study.label(case_id), "dtm": study.dtm(case_id)}
    return {name: path for name, path in files.items() if path.is_file()}


def _hashes(files: Mapping[str, Path]) -> dict[str, str]:
    return {name: file_hash(path) for name, path in files.items()}


def _stamps(files: Mapping[str, Path]) -> dict[str, list[int]]:
    return {name: stamp(path) for name, path in files.items()}


def _content(arrays: Mapping[str, Path]) -> str:
    """One hash of all arrays of a case."""
    return hashlib.sha256(b"".join(bytes.fromhex(file_hash(path)) for path in arrays.values())).hexdigest()


def _read_record(study: Study, case_id: str) -> Json:
    path = study.geometry(case_id)
    try:
        record = read_object(path)
        _Record.model_validate(record)
    except FileNotFoundError as error:
        raise CaseError(case_id, f"there is no {path}. Preprocess the case first.") from error
    except ValueError as error:
        raise CaseError(case_id, f"{path} is damaged ({error}). Preprocess the case again.") from error
    return record


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


def _write_arrays(study: Study, case_id: str, made: PreprocessedCase) -> str:
    arrays = {study.image(case_id): made.image}
    if made.classes is not None:
        arrays[study.label(case_id)] = made.classes[..., None]
    if made.dtm is not None:
        arrays[study.dtm(case_id)] = made.dtm
    for path, array in arrays.items():
        write_array(path, array)
    return _content(_arrays(study, case_id))
