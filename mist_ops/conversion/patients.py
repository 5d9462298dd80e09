"""Shared parts of all conversions: names of channels, and folders of patients that are complete or absent.

All files of a converted dataset are valid: 3D NIfTI images, and masks with labels.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeVar

from mist_ops.dataset import RESERVED
from mist_ops.errors import CaseError, DatasetError, ImageError, MistError
from mist_ops.files import atomic_folder, remove_leftovers, temporary_folder, write_json
from mist_ops.imaging.labels import count_voxels
from mist_ops.imaging.nifti import read_image, read_labels
from mist_ops.types import Json
from mist_ops.workers import Outcome, outcomes

MASK = "mask.nii.gz"
RAW, TRAIN, TEST = "raw", "raw/train", "raw/test"

_CT = re.compile(r"(?<![a-z])(c[be]|ld)?cta?(?![a-z])")
_MR = re.compile(r"(?<![a-z])(mri?(?![a-z])|t[12](?!\d)|flair|adc|dwi|dti|swi|dce|mprage|pdw?(?![a-z]))")

_CHANNEL = re.compile(r"[^\W_][\w.+ -]{0,127}")


@dataclass(frozen=True)
class Patient:
    """A patient to convert.

    Attributes:
        id: Its id.
        folder: Folder of the converted files.
        training: Whether it needs a mask.
    """

    id: str
    folder: Path
    training: bool


AnyPatient = TypeVar("AnyPatient", bound=Patient)
Result = TypeVar("Result")
Converted = Outcome[AnyPatient, Result]
Conversion = Iterator[Outcome[AnyPatient, None]]


def convert(
    patients: Sequence[AnyPatient],
    write: Callable[[AnyPatient], Result],
    describe: Callable[[Sequence[Converted[AnyPatient, Result]]], Json],
    output: Path,
    workers: int,
) -> Iterator[Converted[AnyPatient, Result]]:
    """Convert patients one by one and, when exhausted, write the dataset.json of those that succeeded.

    Patients are converted beside an earlier dataset, which they replace at the end: it stays whole if the conversion
    is interrupted, or if no training patient could be converted.

    Args:
        patients: Patients with folders in ``raw/train`` and ``raw/test`` of the output.
        write: Converts one patient.
        describe: Returns dataset.json for the successful outcomes.
        output: Folder of the dataset.
        workers: Number of processes.

    Raises:
        DatasetError: No training patient could be converted (raised at the end).
    """
    raw, done = output / RAW, list[Converted[AnyPatient, Result]]()
    remove_leftovers(output)
    with atomic_folder(raw) as made:
        beside = [replace(patient, folder=made / patient.folder.relative_to(raw)) for patient in patients]
        for outcome in outcomes(write, beside, workers):
            if not outcome.error:
                done.append(outcome)
            yield outcome
        if not any(outcome.item.training for outcome in done):
            raise DatasetError("No training patient could be converted; no dataset is written.", code="no-patients")
    write_json(output / "dataset.json", describe(done))


def modality_of(channels: Iterable[str]) -> Literal["ct", "mr", "other"]:
    """The modality for dataset.json: CT if any channel is named as a CT, else MR if any is named as an MR sequence."""
    names = [name.lower() for name in channels]
    if any(_CT.search(name) for name in names):
        return "ct"
    return "mr" if any(_MR.search(name) for name in names) else "other"


def described(
    task: str | None,
    modality: Literal["ct", "mr", "other"] | None,
    channels: Sequence[str],
    labels: Sequence[int],
    classes: Mapping[str, Sequence[int]] | None,
    converted: Sequence[Converted[AnyPatient, Result]],
) -> Json:
    """The content of dataset.json for converted patients."""
    has_test = not all(outcome.item.training for outcome in converted)
    return {
        "task": task,
        "modality": modality,
        "train-data": TRAIN,
        **({"test-data": TEST} if has_test else {}),
        "mask": [MASK],
        "images": {name: [f"{name}.nii.gz"] for name in channels},
        "labels": list(labels),
        "final_classes": classes if classes is None else dict(classes),
    }


def write_patient(patient: Patient, write: Callable[[Path], Result]) -> Result:
    """Write a patient's folder atomically; if ``write`` fails, no folder is left.

    Raises:
        CaseError: ``write`` raised a ``MistError``.
    """
    folder = patient.folder
    # If the process is killed, a name with a leading dot does not count as a patient.
    with temporary_folder(folder.parent) as scratch:
        made = scratch / folder.name
        made.mkdir()
        try:
            result = write(made)
        except MistError as error:
            raise CaseError.of(patient.id, error) from error
        made.rename(folder)
    return result


def channel_problems(names: Iterable[str]) -> list[DatasetError]:
    """Names of channels that are unsafe as a file name, reserved or duplicate, ignoring case."""
    problems = []
    seen: set[str] = set()
    for name in names:
        if not _CHANNEL.fullmatch(name) or name[-1] in " .":
            advice = "starts with a letter or digit, followed by letters, digits, spaces or any of _ . + -"
            message, code = f"'{name}' cannot name a file; a channel {advice}", "channel-unsafe"
        elif name.lower() in RESERVED:
            message, code = f"'{name}' is reserved for a column of the tables; rename or remove it", "channel-reserved"
        elif name.lower() in seen:
            message, code = f"duplicate channel '{name}'; rename one", "channel-duplicate"
        else:
            seen.add(name.lower())
            continue
        problems.append(DatasetError(message, code=code, found=name))
    return problems


def refuse_source(source: Path, output: Path) -> None:
    """Refuse an output folder that is the source."""
    if output.resolve() == source.resolve():
        raise DatasetError(
            f"{output} is the source. Give another folder with --output.", code="output-is-input", file=output
        )


def refuse_existing(output: Path, overwrite: bool) -> None:
    """Refuse an output folder that already holds a dataset, unless it may be overwritten."""
    held = [name for name in ("dataset.json", "raw") if (output / name).exists()]
    if held and not overwrite:
        raise DatasetError(
            f"{output} already holds {' and '.join(held)}. Give another folder, or --overwrite to replace them.",
            code="output-exists",
            file=output,
            found=held,
        )


@contextmanager
def errors_of(source: Path, made: Path) -> Iterator[None]:
    """Attribute errors of a converted file, which is removed on failure, to its source."""
    try:
        yield
    except ImageError as error:
        raise ImageError(error.message.replace(str(made), str(source)), **{**error.facts, "file": source}) from error


def check_image(source: Path, made: Path) -> None:
    """Check that a converted file is a valid 3D image with finite voxels; errors name its source."""
    with errors_of(source, made):
        read_image(made)


def labels_of(source: Path, made: Path) -> list[int]:
    """Labels of a converted mask, ascending; errors name its source."""
    with errors_of(source, made):
        found, _ = read_labels(made)
    return list(count_voxels(found))
