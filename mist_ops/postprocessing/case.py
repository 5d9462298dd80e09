"""Postprocess the predicted masks of a folder."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from mist_ops.errors import CaseError, ConfigError, DatasetError, MistError, counted, few
from mist_ops.files import read_object, write_json
from mist_ops.imaging.folders import IMAGES, find_images, images_in
from mist_ops.imaging.labels import count_voxels
from mist_ops.imaging.nifti import read_labels, seconds_for, write_labels
from mist_ops.postprocessing.strategy import Strategy, apply_counted, read_strategy, to_json, write_strategy
from mist_ops.types import Json, LabelMap
from mist_ops.workers import Outcome, outcomes, worthwhile

_OUTPUT = ".nii.gz"


@dataclass(frozen=True)
class Prediction:
    """A predicted mask; its id is the file name without ``.nii.gz`` or ``.nii``."""

    id: str
    path: Path


@dataclass(frozen=True)
class Counts:
    """Changes of a mask, in voxels.

    Attributes:
        before: Voxels of each label above 0 before postprocessing.
        after: Voxels of each label above 0 after postprocessing.
        changed: Voxels changed by each step.
    """

    before: Mapping[int, int]
    after: Mapping[int, int]
    changed: tuple[int, ...]

    def row(self) -> dict[str, int | str]:
        """A row of a table: labeled voxels, voxels changed by each step, and labels whose number of voxels changed."""
        sizes = {label: (self.before.get(label, 0), self.after.get(label, 0)) for label in {*self.before, *self.after}}
        return {
            "voxels before": sum(self.before.values()),
            "voxels after": sum(self.after.values()),
            "changed by step": ", ".join(str(voxels) for voxels in self.changed),
            "labels": ", ".join(f"{label}: {old} → {new}" for label, (old, new) in sorted(sizes.items()) if old != new),
        }


def find_predictions(folder: Path) -> list[Prediction]:
    """List the predictions directly in a folder, as ``find_images``; images of other formats fail when they are read.

    Raises:
        DatasetError: The folder is missing or holds no image, or two images have the same id.
    """
    found = find_images(folder, "--base-predictions", IMAGES)
    return [Prediction(case_id, path) for case_id, path in found.items()]


def check_output(output: Path, predictions: Sequence[Prediction]) -> None:
    """Check that an output folder is not the folder of the predictions and holds no masks of other patients.

    Readers of the folder would take those for postprocessed.

    Raises:
        DatasetError: It is, or it does, or a file is in its place.
    """
    if any(prediction.path.parent.resolve() == output.resolve() for prediction in predictions):
        raise _unusable(output, f"{output} is the folder of the predictions", "output-is-input")
    for path in (output.parent, output):
        if path.exists() and not path.is_dir():
            raise _unusable(path, f"{path} is a file", "file-not-folder")
    expected = {f"{prediction.id}{_OUTPUT}" for prediction in predictions}
    others = [path.name for path in images_in(output, IMAGES) if path.name not in expected]
    if others:
        raise DatasetError(
            f"{output} holds {counted(len(others), 'mask')} of other patients: {few(others)}. Remove them, or choose "
            "another folder with --output.",
            code="output-not-empty",
            file=output,
            found=others,
        )


def _unusable(path: Path, problem: str, code: str) -> DatasetError:
    return DatasetError(f"{problem}. Choose another folder with --output.", code=code, file=path, field="--output")


def postprocess_case(prediction: Prediction, strategy: Strategy, output: Path) -> Counts:
    """Write ``<id>.nii.gz`` into a folder, on the grid of the prediction and in the smallest integer type.

    If that fails, an earlier file of that name stays as it was.

    Args:
        prediction: The mask.
        strategy: As checked by ``strategy.parse``.
        output: A folder other than that of the prediction.

    Raises:
        CaseError: The prediction cannot be read as labels from 0 to 65535, or would be overwritten.
    """
    target = output / f"{prediction.id}{_OUTPUT}"
    if target.resolve() == prediction.path.resolve():
        raise CaseError(
            prediction.id,
            f"{target} is the prediction itself. Choose another output folder.",
            code="output-is-input",
            file=target,
        )
    try:
        labels, geometry = read_labels(prediction.path)
    except MistError as error:
        raise CaseError.of(prediction.id, error) from error
    changed, voxels = apply_counted(strategy, labels, geometry.spacing)
    write_labels(target, changed, geometry)
    return Counts(_labeled(labels), _labeled(changed), tuple(voxels))


def postprocess_cases(
    predictions: Sequence[Prediction], strategy: Strategy, output: Path, workers: int = 1
) -> Iterator[Outcome[Prediction, Counts]]:
    """Postprocess predictions as ``postprocess_case``; few small ones without workers."""
    needed = worthwhile(workers, len(predictions), seconds_for([predictions[0].path]) if predictions else 0.0)
    return outcomes(partial(postprocess_case, strategy=strategy, output=output), predictions, needed)


def masks_of(output: Path) -> Path:
    """The folder of masks in the output of postprocessing."""
    return output / "predictions"


def failures_of(output: Path) -> Path:
    """The JSON file in the output of postprocessing with the patients that failed; see ``record``."""
    return output / "failures.json"


def keep_earlier(output: Path, made: Path, failed: Collection[str]) -> None:
    """Copy the earlier masks of failed patients into the folder that is going to replace them."""
    for case_id in failed:
        earlier = masks_of(output) / f"{case_id}{_OUTPUT}"
        if earlier.exists():
            shutil.copy2(earlier, made / earlier.name)


def record(output: Path, strategy: Strategy, done: Collection[str], failures: Mapping[str, str]) -> None:
    """Write strategy.json beside the masks, and failures.json with the patients that it does not describe.

    For each failed patient, failures.json has the error and the steps that its earlier mask was made with: None if
    there is no such mask, or if they are unknown. If all patients failed, strategy.json stays.
    """
    target, described = output / "strategy.json", failures_of(output)
    if failures:
        former: Json = {}
        steps: list[Json] | None = None
        with suppress(OSError, ValueError):  # ours, unless someone edited it
            former = read_object(described)
        with suppress(ConfigError):
            steps = to_json(read_strategy(target))
        write_json(
            described,
            {
                case_id: {
                    "error": error,
                    "strategy": former.get(case_id, {"strategy": steps})["strategy"]
                    if (masks_of(output) / f"{case_id}{_OUTPUT}").exists()
                    else None,
                }
                for case_id, error in failures.items()
            },
        )
    if done:
        write_strategy(target, strategy)
    if not failures:
        described.unlink(missing_ok=True)


def _labeled(labels: LabelMap) -> dict[int, int]:
    return {label: voxels for label, voxels in count_voxels(labels).items() if label}
