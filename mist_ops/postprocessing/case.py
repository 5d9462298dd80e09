"""Predicted masks in files, changed by a strategy: a folder of them is listed, and one after another is written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mist_ops.errors import CaseError, DatasetError, MistError, few
from mist_ops.imaging.nifti import read_labels, write_labels
from mist_ops.postprocessing.strategy import Strategy, apply_counted
from mist_ops.types import LabelMap

_ENDINGS = (".nii.gz", ".nii", ".nrrd", ".mha", ".mhd")
"""Of images. Those that are no NIfTI are listed too, so that they fail by name instead of being passed over."""

_OUTPUT = ".nii.gz"


@dataclass(frozen=True)
class Prediction:
    """A predicted mask, called as its file without the ending of a NIfTI file."""

    id: str
    path: Path


@dataclass(frozen=True)
class Counts:
    """What postprocessing did to a mask, in voxels.

    Attributes:
        before: Voxels of each label above 0.
        after: The same, afterwards.
        changed: Voxels changed by each step.
    """

    before: Mapping[int, int]
    after: Mapping[int, int]
    changed: tuple[int, ...]

    def row(self) -> dict[str, int | str]:
        """A row of a table: all voxels, those that each step changed, and the labels whose number changed."""
        sizes = {label: (self.before.get(label, 0), self.after.get(label, 0)) for label in {*self.before, *self.after}}
        return {
            "voxels before": sum(self.before.values()),
            "voxels after": sum(self.after.values()),
            "changed by step": ", ".join(str(voxels) for voxels in self.changed),
            "labels": ", ".join(f"{label}: {old} → {new}" for label, (old, new) in sorted(sizes.items()) if old != new),
        }


def find_predictions(folder: Path) -> list[Prediction]:
    """The images directly in a folder, by id. Hidden files are passed over.

    What has the name of an image but is none, such as a folder or a broken link, is listed as well and fails later.

    Raises:
        DatasetError: There is no such folder, no image in it, or two of the same patient.
    """
    if not folder.is_dir():
        raise DatasetError(f"There is no folder {folder}. Name the one with the predictions with --base-predictions.")
    names = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    found = [Prediction(_id(name), folder / name) for name in names if name.endswith(_ENDINGS)]
    if not found:
        raise DatasetError(f"{folder} holds no predictions. They must be files that end in .nii.gz or .nii.")
    twice = [case_id for case_id, count in Counter(prediction.id for prediction in found).items() if count > 1]
    if twice:
        raise DatasetError(f"{folder} holds both .nii and .nii.gz of {', '.join(twice)}. Remove one of them.")
    return found


def _id(name: str) -> str:
    return name.removesuffix(".gz").removesuffix(".nii")


def check_output(output: Path, predictions: Sequence[Prediction]) -> None:
    """Refuse an output folder that is that of the predictions, that is none, or that holds masks of other patients.

    Those would be taken for postprocessed by whoever reads the folder.

    Raises:
        DatasetError: It is one of these.
    """
    if any(prediction.path.parent.resolve() == output.resolve() for prediction in predictions):
        raise DatasetError(f"{output} is the folder of the predictions themselves. Name another one with --output.")
    for path in (output.parent, output):
        if path.exists() and not path.is_dir():
            raise DatasetError(f"{path} is a file. Name a folder with --output.")
    expected = {f"{prediction.id}{_OUTPUT}" for prediction in predictions}
    held = [path.name for path in output.iterdir()] if output.is_dir() else []
    others = sorted(name for name in held if name.endswith(_ENDINGS) and name not in expected and name[0] != ".")
    if others:
        raise DatasetError(f"{output} holds masks that are not among the predictions: {few(others)}. Remove them.")


def postprocess_case(prediction: Prediction, strategy: Strategy, output: Path) -> Counts:
    """Write ``<id>.nii.gz`` into a folder, on the grid of the prediction and in the smallest type that holds it.

    If it fails, no file of that name is left, not even that of an earlier run.

    Args:
        prediction: The mask.
        strategy: As checked by ``strategy.parse``.
        output: Another folder than that of the prediction.

    Raises:
        CaseError: The prediction cannot be read as labels from 0 to 65535, or it is itself the file to be written.
    """
    target = output / f"{prediction.id}{_OUTPUT}"
    if target.resolve() == prediction.path.resolve():
        raise CaseError(prediction.id, f"{target} is the prediction itself. Name another output folder.")
    target.unlink(missing_ok=True)
    try:
        labels, geometry = read_labels(prediction.path)
    except MistError as error:
        raise CaseError(prediction.id, str(error)) from error
    changed, voxels = apply_counted(strategy, labels, geometry.spacing)
    write_labels(target, changed, geometry)
    return Counts(_voxels(labels), _voxels(changed), tuple(voxels))


def _voxels(labels: LabelMap) -> dict[int, int]:
    counts = np.bincount(labels.ravel())
    return {int(label): int(counts[label]) for label in np.flatnonzero(counts) if label}
