"""The preprocessed arrays of a fold: checked and indexed before training, so that no volume is searched during it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Generator, Tensor

from mist_ops.config import StudyConfig
from mist_ops.dataset import Fold
from mist_ops.errors import CaseError, DatasetError, counted, few
from mist_ops.registry import LOSSES
from mist_ops.study import Study
from mist_ops.types import Size

VOXELS_PER_CLASS = 10_000
"""Voxels of a class that are kept per case to center patches on: 40 kB, and closer together than a patch is wide."""


@dataclass(frozen=True)
class CaseArrays:
    """The preprocessed arrays of a case, memory-mapped when read, and some voxels of each class.

    Attributes:
        id: Id of the case.
        image: Float32 ``(x, y, z, channel)``.
        label: Uint8 class indices ``(x, y, z, 1)``.
        dtm: Float16 or float32 ``(x, y, z, class)``, if the loss needs it.
        size: Voxels along x, y, z.
        channels: Channels of the image.
        voxels: Flat indices of some voxels of each class that is present, without the background.
    """

    id: str
    image: Path
    label: Path
    dtm: Path | None
    size: Size
    channels: int
    voxels: tuple[np.ndarray, ...]


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
    indexed = {name: index_case(name, *files, shape.in_channels, shape.out_channels) for name, files in paths.items()}
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


def index_case(case_id: str, image: Path, label: Path, dtm: Path | None, channels: int, classes: int) -> CaseArrays:
    """Check the arrays of a case, and select voxels of each class.

    The voxels selected of a large class depend on the id alone.

    Raises:
        CaseError: An array cannot be read, or does not match the labels, the number of channels or of classes.
    """
    labels = _opened(case_id, label, "ui")
    x, y, z, *_ = (*labels.shape, 0, 0, 0)
    size = (x, y, z)
    _check_shape(case_id, label, labels.shape, (*size, 1), "channel")
    _check_shape(case_id, image, _opened(case_id, image, "f").shape, (*size, channels), "channel")
    if dtm is not None:
        _check_shape(case_id, dtm, _opened(case_id, dtm, "f").shape, (*size, classes), "distance map")
    where = np.flatnonzero(labels)
    values = labels.reshape(-1)[where]
    _check_classes(case_id, label, values, classes)
    kept = (_selected(where[values == index], case_id, index) for index in range(1, classes))
    return CaseArrays(case_id, image, label, dtm, size, channels, tuple(voxels for voxels in kept if len(voxels)))


def _opened(case_id: str, path: Path, kinds: str) -> np.ndarray:
    """Memory-map an array; ``kinds`` are the NumPy kinds of its type that are allowed."""
    try:
        array = np.lib.format.open_memmap(path, mode="r")
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


def _selected(voxels: np.ndarray, case_id: str, index: int) -> np.ndarray:
    if len(voxels) > VOXELS_PER_CLASS:
        drawn = torch.randperm(len(voxels), generator=seeded("voxels", case_id, index))
        voxels = np.sort(voxels[drawn[:VOXELS_PER_CLASS].numpy()])
    return voxels.astype(np.uint32)


def seeded(*key: str | int) -> Generator:
    """A random generator that depends on the key alone; different keys give unrelated numbers."""
    digest = hashlib.sha256(repr(key).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big"))
