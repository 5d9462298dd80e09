"""Predictions in files to one mask a patient: which patients folders share, and what becomes of each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mist_ops.errors import CaseError, ConfigError, DatasetError, ImageError, MistError, few, listing
from mist_ops.imaging.geometry import Geometry
from mist_ops.imaging.labels import to_labels
from mist_ops.imaging.nifti import read_labels, write_labels
from mist_ops.imaging.vectors import read_values, read_vector_grid
from mist_ops.registry import LABEL_ENSEMBLERS, PROBABILITY_ENSEMBLERS
from mist_ops.types import Image, LabelMap

_ENDINGS = (".nii.gz", ".nii")


@dataclass(frozen=True)
class Predictions:
    """The files of one patient, one from each folder."""

    id: str
    files: tuple[Path, ...]


def find_predictions(folders: Sequence[Path]) -> list[Predictions]:
    """The patients of two or more folders, which must hold the same, in the order of their ids.

    Raises:
        DatasetError: A folder is missing, holds nothing or is given twice, or the folders hold different patients.
    """
    if len({folder.resolve() for folder in folders}) < max(2, len(folders)):
        raise DatasetError("An ensemble combines two or more folders, each given once. Name others.")
    found = [_files(folder) for folder in folders]
    everyone = sorted(set().union(*found))
    problems = [
        f"{folder} lacks {few(missing)}"
        for folder, files in zip(folders, found, strict=True)
        if (missing := [case_id for case_id in everyone if case_id not in files])
    ]
    if problems:
        raise DatasetError(
            f"The folders hold different patients: {listing(problems)}. Predict them all, or remove some."
        )
    return [Predictions(case_id, tuple(files[case_id] for files in found)) for case_id in everyone]


def _files(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        raise DatasetError(f"There is no folder {folder}. Name folders of predictions with --predictions.")
    paths = sorted(path for path in folder.iterdir() if path.name.endswith(_ENDINGS) and not path.name.startswith("."))
    ids = [path.name.removesuffix(".gz").removesuffix(".nii") for path in paths]
    if not paths:
        raise DatasetError(f"{folder} holds no predictions. They must be files that end in .nii.gz or .nii.")
    twice = [case_id for case_id, count in Counter(ids).items() if count > 1]
    if twice:
        raise DatasetError(f"{folder} holds both .nii and .nii.gz of {few(twice)}. Remove one of them.")
    return dict(zip(ids, paths, strict=True))


def check_output(output: Path, folders: Sequence[Path]) -> None:
    """Refuse an output folder that is one of those that are combined, or that is none.

    Raises:
        DatasetError: It is one of these.
    """
    if output.resolve() in [folder.resolve() for folder in folders]:
        raise DatasetError(f"{output} is one of the folders that are combined. Name another one with --output.")
    if output.exists() and not output.is_dir():
        raise DatasetError(f"{output} is a file. Name a folder with --output.")


def check_backend(labels: bool, backend: str) -> None:
    """Refuse a way of combining that is not known.

    Raises:
        ConfigError: It is not; those that are get named.
    """
    _ = LABEL_ENSEMBLERS[backend] if labels else PROBABILITY_ENSEMBLERS[backend]


def combine_labels(predictions: Predictions, backend: str, output: Path) -> None:
    """Write the mask that a way of combining makes of several, on their grid.

    If it fails, no mask of the patient is left, not even that of an earlier run.

    Args:
        predictions: The masks.
        backend: A name in ``LABEL_ENSEMBLERS``.
        output: Folder of the result.

    Raises:
        CaseError: A mask cannot be read, or they lie on different grids.
    """
    target = _cleared(predictions, output)
    try:
        masks = [read_labels(path) for path in predictions.files]
        _same_grid(predictions.files, [geometry for _, geometry in masks])
    except MistError as error:
        raise CaseError(predictions.id, str(error)) from error
    combined = LABEL_ENSEMBLERS[backend]([labels for labels, _ in masks])
    write_labels(target, combined, masks[0][1])


def combine_probabilities(predictions: Predictions, backend: str, output: Path, labels: Sequence[int]) -> None:
    """Write the mask of the most probable classes; the first of those that are equally probable.

    Each class is combined by itself, so that memory does not grow with their number. Failures are as above.

    Args:
        predictions: Files with a value for each class.
        backend: A name in ``PROBABILITY_ENSEMBLERS``.
        output: Folder of the result.
        labels: The label of each class.

    Raises:
        CaseError: A file cannot be read or has another number of classes, or they lie on different grids.
    """
    target = _cleared(predictions, output)
    try:
        grids = [read_vector_grid(path) for path in predictions.files]
        for path, (classes, _) in zip(predictions.files, grids, strict=True):
            if classes != len(labels):
                raise ImageError(f"{path} has {classes} classes and config.json {len(labels)}. Use files of one study.")
        _same_grid(predictions.files, [geometry for _, geometry in grids])
        indices = _most_probable(predictions.files, backend)
    except MistError as error:
        raise CaseError(predictions.id, str(error)) from error
    write_labels(target, to_labels(indices, labels), grids[0][1])


def _most_probable(files: Sequence[Path], backend: str) -> LabelMap:
    best: Image | None = None
    indices: LabelMap | None = None
    for index, volumes in enumerate(zip(*(read_values(path) for path in files), strict=True)):
        probability = PROBABILITY_ENSEMBLERS[backend](volumes)
        if best is None or indices is None:
            best, indices = probability, np.zeros(probability.shape, dtype=np.uint16)
            continue
        indices[probability > best] = index
        np.maximum(best, probability, out=best)
    if indices is None:
        raise ConfigError("there are no classes to choose from")
    return indices


def _cleared(predictions: Predictions, output: Path) -> Path:
    target = output / f"{predictions.id}.nii.gz"
    if target.resolve() in [path.resolve() for path in predictions.files]:
        raise CaseError(predictions.id, f"{target} is one of the predictions. Name another output folder.")
    target.unlink(missing_ok=True)
    return target


def _same_grid(files: Sequence[Path], grids: Sequence[Geometry]) -> None:
    for path, grid in zip(files[1:], grids[1:], strict=True):
        differences = grids[0].differences(grid)
        if differences:
            raise ImageError(f"{files[0]} and {path} lie on different grids: {', '.join(differences)}. Resample one.")
