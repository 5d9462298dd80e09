"""Combine the predictions of each patient in several folders."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mist_ops.errors import CaseError, DatasetError, ImageError, MistError, counted, few, listing
from mist_ops.imaging.folders import find_images
from mist_ops.imaging.geometry import Geometry
from mist_ops.imaging.labels import to_labels
from mist_ops.imaging.nifti import read_labels, write_labels
from mist_ops.imaging.vectors import read_values, read_vector_grid
from mist_ops.registry import LABEL_ENSEMBLERS, PROBABILITY_ENSEMBLERS
from mist_ops.types import LabelMap

_LOG = logging.getLogger(__name__)

_INPUT, _OUTPUT = "--predictions", "--output"


@dataclass(frozen=True)
class Predictions:
    """The files of one patient, one from each folder."""

    id: str
    files: tuple[Path, ...]


def find_predictions(folders: Sequence[Path]) -> list[Predictions]:
    """Return the patients of two or more folders, sorted by id.

    Raises:
        DatasetError: A folder is missing, empty or listed twice, or the folders hold different patients.
    """
    if len({folder.resolve() for folder in folders}) < max(2, len(folders)):
        raise DatasetError(
            f"{_INPUT} needs at least two different folders; got {few(folders)}.",
            code="too-few-inputs",
            field=_INPUT,
            found=list(folders),
            expected=2,
        )
    found = [find_images(folder, _INPUT) for folder in folders]
    everyone = sorted(set().union(*found))
    missing = {
        folder: [case_id for case_id in everyone if case_id not in files]
        for folder, files in zip(folders, found, strict=True)
    }
    problems = [f"{folder} lacks {few(ids)}" for folder, ids in missing.items() if ids]
    if problems:
        raise DatasetError(
            f"The folders of {_INPUT} hold different patients: {listing(problems)}. Add the missing predictions, or "
            "remove those of the other folders.",
            code="patients-differ",
            field=_INPUT,
            found={folder: ids for folder, ids in missing.items() if ids},
        )
    return [Predictions(case_id, tuple(files[case_id] for files in found)) for case_id in everyone]


def check_output(output: Path, folders: Sequence[Path]) -> None:
    """Refuse an output folder that is an input or a file.

    Raises:
        DatasetError: It is.
    """
    if output.resolve() in [folder.resolve() for folder in folders]:
        problem, code = "is also an input", "output-is-input"
    elif output.exists() and not output.is_dir():
        problem, code = "is a file", "file-not-folder"
    else:
        return
    raise DatasetError(
        f"{output} {problem}. Choose another folder for {_OUTPUT}.", code=code, field=_OUTPUT, file=output
    )


def check_backend(labels: bool, backend: str) -> None:
    """Refuse an unknown ensemble backend.

    Raises:
        ConfigError: It is unknown; the message lists those of labels or of probabilities.
    """
    _ = LABEL_ENSEMBLERS[backend] if labels else PROBABILITY_ENSEMBLERS[backend]


def combine_labels(predictions: Predictions, backend: str, output: Path) -> None:
    """Write the combined mask of a patient on the grid of the masks.

    An existing mask of the patient is replaced at the end, and stays after a failure.

    Args:
        predictions: The masks.
        backend: A name in ``LABEL_ENSEMBLERS``.
        output: Folder of the result.

    Raises:
        CaseError: A mask cannot be read, or grids differ.
    """
    target = _target(predictions, output)
    try:
        masks = [read_labels(path) for path in predictions.files]
        _check_grids(predictions.files, [geometry for _, geometry in masks])
    except MistError as error:
        raise CaseError.of(predictions.id, error) from error
    combined = LABEL_ENSEMBLERS[backend]([labels for labels, _ in masks])
    write_labels(target, combined, masks[0][1])


def combine_probabilities(predictions: Predictions, backend: str, output: Path, labels: Sequence[int]) -> None:
    """Write the mask of the most probable classes; ties go to the first class.

    Classes are combined one at a time, so that memory does not grow with their number. An existing mask
    stays after a failure.

    Args:
        predictions: Files with a value for each class.
        backend: A name in ``PROBABILITY_ENSEMBLERS``.
        output: Folder of the result.
        labels: The label of each class.

    Raises:
        CaseError: A file cannot be read or has another number of classes, or grids differ.
    """
    target = _target(predictions, output)
    try:
        grids = [read_vector_grid(path) for path in predictions.files]
        for path, (classes, _) in zip(predictions.files, grids, strict=True):
            if classes != len(labels):
                raise ImageError(
                    f"{path} has {counted(classes, 'class', 'classes')}, but config.json has {len(labels)}. Use the "
                    "config.json of these predictions.",
                    code="classes-mismatch",
                    file=path,
                    found=classes,
                    expected=len(labels),
                )
        _check_grids(predictions.files, [geometry for _, geometry in grids])
        indices = _most_probable(predictions.files, backend)
    except MistError as error:
        raise CaseError.of(predictions.id, error) from error
    write_labels(target, to_labels(indices, labels), grids[0][1])


def _most_probable(files: Sequence[Path], backend: str) -> LabelMap:
    combine = PROBABILITY_ENSEMBLERS[backend]
    classes = zip(*(read_values(path) for path in files), strict=True)
    best = combine(next(classes))
    indices = np.zeros(best.shape, dtype=np.uint16)
    for index, volumes in enumerate(classes, start=1):
        probability = combine(volumes)
        indices[probability > best] = index
        np.maximum(best, probability, out=best)
    return indices


def _target(predictions: Predictions, output: Path) -> Path:
    target = output / f"{predictions.id}.nii.gz"
    if target.resolve() in [path.resolve() for path in predictions.files]:
        raise CaseError(
            predictions.id,
            f"{target} is also an input. Choose another folder for {_OUTPUT}.",
            code="output-is-input",
            field=_OUTPUT,
            file=target,
        )
    return target


def _check_grids(files: Sequence[Path], grids: Sequence[Geometry]) -> None:
    for path, grid in zip(files[1:], grids[1:], strict=True):
        differences = grids[0].differences(grid)
        if differences:
            raise ImageError(
                f"{path} and {files[0]} have different grids: {', '.join(differences)}. Resample one of them.",
                code="grid-mismatch",
                file=path,
                found=differences,
            )
        if grids[0].shared_forms(grid):
            _LOG.warning(
                "%s and %s are on the same grid only by a form in their headers that is not used here. They are "
                "combined voxel by voxel.",
                path,
                files[0],
            )
