"""The preprocessed arrays of a fold: checked and indexed before training, so that no volume is searched during it."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mist_ops.config import StudyConfig
from mist_ops.dataset import Fold
from mist_ops.errors import CaseError, DatasetError, counted, few
from mist_ops.files import map_array
from mist_ops.registry import LOSSES
from mist_ops.study import Study
from mist_ops.training.voxels import class_voxels, largest_class, read_current, select_voxels, split, write_voxels
from mist_ops.types import Size


class Volumes(NamedTuple):
    """The arrays of a case as tensors, with the channel first."""

    image: Tensor
    label: Tensor
    dtm: Tensor | None


@dataclass(frozen=True)
class CaseArrays:
    """The preprocessed arrays of a case: everything about them that is not read from files when it is needed.

    A worker receives all cases of a fold, so this is small.

    Attributes:
        id: Id of the case.
        study: Locates the arrays.
        size: Voxels along x, y, z.
        channels: Channels of the image.
        with_dtm: Whether the loss needs distance maps.
        labeled: Whether there is a voxel of any class but the background.
        kept: Content of the file of voxels, if it is in memory.
        cached: The arrays, if they are in memory.
    """

    id: str
    study: Study
    size: Size
    channels: int
    with_dtm: bool
    labeled: bool
    kept: np.ndarray | None = None
    cached: Volumes | None = None

    @property
    def image(self) -> Path:
        """Float32 ``(x, y, z, channel)``."""
        return self.study.image(self.id)

    @property
    def label(self) -> Path:
        """Class indices ``(x, y, z, 1)``."""
        return self.study.label(self.id)

    @property
    def dtm(self) -> Path | None:
        """Float16 or float32 ``(x, y, z, class)``, if the loss needs it."""
        return self.study.dtm(self.id) if self.with_dtm else None

    @property
    def voxels(self) -> tuple[np.ndarray, ...]:
        """Flat indices of some voxels of each class that is present, without the background."""
        return class_voxels(self.study.voxels(self.id)) if self.kept is None else split(self.kept)

    @property
    def volumes(self) -> Volumes:
        """The arrays as tensors: those in memory, or memory-mapped."""
        if self.cached is not None:
            return self.cached
        return Volumes(_mapped(self.image), _mapped(self.label), None if self.dtm is None else _mapped(self.dtm))


def _mapped(path: Path) -> Tensor:
    # Copy-on-write, since torch refuses arrays that are read-only; nothing is written.
    return torch.from_numpy(map_array(path, "c")).movedim(-1, 0)


def index_fold(study: Study, config: StudyConfig, fold: Fold) -> tuple[tuple[CaseArrays, ...], tuple[CaseArrays, ...]]:
    """Check and index the arrays of the training and of the validation cases.

    Raises:
        DatasetError: The fold has no training or no validation cases, some are both, or arrays are missing.
        CaseError: As ``index_case``.
    """
    _check_fold(fold)
    loss = config.training.loss.name
    with_dtm = "dtm" in LOSSES[loss].needs
    paths = {
        case_id: (study.image(case_id), study.label(case_id), study.dtm(case_id) if with_dtm else None)
        for case_id in (*fold.training, *fold.validation)
    }
    missing = [path for files in paths.values() for path in files if path is not None and not path.is_file()]
    if missing:
        how = f" with --compute-dtms, since the loss '{loss}' needs distance maps" if with_dtm else ""
        raise DatasetError(
            f"Fold {fold.index} needs {counted(len(missing), 'array')} that {'is' if len(missing) == 1 else 'are'} "
            f"missing: {few(missing)}. Preprocess these cases{how}.",
            code="arrays-missing",
            file=missing[0],
        )
    shape = config.model.params
    find = partial(_find_voxels, study, with_dtm=with_dtm, channels=shape.in_channels, classes=shape.out_channels)
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        # Files are written in this thread: a temporary one borrows the umask of the whole process.
        indexed = {found.case.id: _kept(found) for found in pool.map(find, paths)}
    return tuple(indexed[name] for name in fold.training), tuple(indexed[name] for name in fold.validation)


def _check_fold(fold: Fold) -> None:
    if not fold.training or not fold.validation:
        raise DatasetError(
            f"Fold {fold.index} has {counted(len(fold.training), 'training case')} and "
            f"{counted(len(fold.validation), 'validation case')}, but needs at least one of each. Use fewer folds or a "
            "smaller --val-percent.",
            code="fold-too-small",
        )
    both = sorted(set(fold.training) & set(fold.validation))
    if both:
        raise DatasetError(
            f"Fold {fold.index} would train on cases that validate it: {few(both)}. Correct the folds.",
            code="fold-overlap",
            found=both,
        )


def index_case(study: Study, case_id: str, channels: int, classes: int, with_dtm: bool = False) -> CaseArrays:
    """Check the arrays of a case, and select voxels of each class unless a current file has them.

    Raises:
        CaseError: An array cannot be read, or does not match the labels, the number of channels or of classes.
    """
    return _kept(_find_voxels(study, case_id, channels, classes, with_dtm))


class _Found(NamedTuple):
    """A case and its voxels, which ``write`` says to write."""

    case: CaseArrays
    voxels: np.ndarray
    write: bool


def _find_voxels(study: Study, case_id: str, channels: int, classes: int, with_dtm: bool = False) -> _Found:
    label, image = study.label(case_id), study.image(case_id)
    labels = _opened(case_id, label, "ui")
    x, y, z, *_ = (*labels.shape, 0, 0, 0)
    size = (x, y, z)
    _check_shape(case_id, label, labels.shape, (*size, 1), "channel")
    _check_shape(case_id, image, _opened(case_id, image, "f").shape, (*size, channels), "channel")
    if with_dtm:
        dtm = study.dtm(case_id)
        _check_shape(case_id, dtm, _opened(case_id, dtm, "f").shape, (*size, classes), "distance map")
    current = read_current(study.voxels(case_id), label)
    if current is None or largest_class(current) >= classes:
        _check_classes(case_id, label, labels, classes)
    voxels = select_voxels(case_id, labels, label) if current is None else current
    case = CaseArrays(case_id, study, size, channels, with_dtm, largest_class(voxels) > 0)
    return _Found(case, voxels, current is None)


def _kept(found: _Found) -> CaseArrays:
    """Write the voxels of a case to its file, or keep them in memory."""
    if not found.write or write_voxels(found.case.study.voxels(found.case.id), found.voxels):
        return found.case
    return replace(found.case, kept=found.voxels)


def _opened(case_id: str, path: Path, kinds: str) -> np.ndarray:
    """Memory-map an array; ``kinds`` are the NumPy kinds of its type that are allowed."""
    try:
        array = map_array(path)
    except (OSError, ValueError) as error:
        raise CaseError(
            case_id, f"{path} is corrupted. Preprocess the case again.", code="array-unreadable", file=path
        ) from error
    if array.dtype.kind not in kinds:
        expected = "floating-point numbers" if kinds == "f" else "integers"
        raise CaseError(
            case_id,
            f"{path} holds {array.dtype.name}, but {expected} are expected. Preprocess the case again.",
            code="array-type",
            file=path,
            found=array.dtype.name,
            expected=expected,
        )
    return array


def _check_shape(case_id: str, path: Path, found: tuple[int, ...], expected: tuple[int, ...], noun: str) -> None:
    if found == expected:
        return
    if len(found) != len(expected):
        problem = f"{path} has {len(found)} axes, but x, y, z and {noun} are expected"
    elif found[:3] == expected[:3]:
        problem = f"{path} has {counted(found[3], noun)}, but this study has {expected[3]}"
    else:
        shape, others = ("x".join(map(str, size[:3])) for size in (found, expected))
        problem = f"{path} has size {shape}, but the labels of the case have {others}"
    raise CaseError(
        case_id,
        f"{problem}. Preprocess the case again, or check that --numpy is the folder of this study.",
        code="array-shape",
        file=path,
        found=found,
        expected=expected,
    )


def _check_classes(case_id: str, path: Path, values: np.ndarray, classes: int) -> None:
    wrong = values[(values < 0) | (values >= classes)]
    if wrong.size:
        raise CaseError(
            case_id,
            f"{path} holds {wrong[0]}, but class indices are 0 to {classes - 1}. Preprocess the case again, which "
            "converts labels to class indices.",
            code="labels-out-of-range",
            file=path,
            found=int(wrong[0]),
        )


def check_finite(case_id: str, path: Path, voxels: Tensor) -> None:
    """Refuse NaN and infinite voxels, which would spread to the weights.

    Raises:
        CaseError: There are some.
    """
    if not bool(torch.isfinite(voxels).all()):
        raise CaseError(
            case_id,
            f"{path} holds NaN or infinite values. Preprocess the case again.",
            code="array-not-finite",
            file=path,
        )
