"""What all conversions share: names that may become files, and patients' folders that are whole or absent.

Whatever a conversion leaves can be read: its files are three-dimensional NIfTI images, and its masks hold labels.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from mist_ops.dataset import RESERVED
from mist_ops.errors import CaseError, DatasetError, ImageError, MistError
from mist_ops.files import write_json
from mist_ops.imaging.nifti import read_image, read_labels
from mist_ops.types import Json
from mist_ops.workers import Outcome, outcomes

MASK = "mask.nii.gz"
TRAIN, TEST = "raw/train", "raw/test"

_CHANNEL = re.compile(r"[^\W_][\w.+ -]{0,127}")


@dataclass(frozen=True)
class Patient:
    """A patient to convert.

    Attributes:
        id: Its name.
        folder: Where its files will lie.
        training: Whether it needs a mask.
    """

    id: str
    folder: Path
    training: bool


AnyPatient = TypeVar("AnyPatient", bound=Patient)
Result = TypeVar("Result")
Converted = Outcome[AnyPatient, Result]


def convert(
    patients: Sequence[AnyPatient],
    write: Callable[[AnyPatient], Result],
    describe: Callable[[Sequence[Converted[AnyPatient, Result]]], Json],
    output: Path,
    workers: int,
) -> Iterator[Converted[AnyPatient, Result]]:
    """Convert patients one after another and, when exhausted, write the dataset.json of those that succeeded.

    An earlier dataset.json goes first, so that a conversion that is cut short leaves none, and its patients that were
    not converted again go last.

    Args:
        patients: With folders in ``raw/train`` and ``raw/test`` of the output.
        write: Converts one of them.
        describe: Makes the dataset.json of the successful outcomes.
        output: The folder of the dataset.
        workers: Processes to use.

    Raises:
        DatasetError: At the end, if no training patient could be converted.
    """
    (output / "dataset.json").unlink(missing_ok=True)
    done: list[Converted[AnyPatient, Result]] = []
    for outcome in outcomes(write, patients, workers):
        if not outcome.error:
            done.append(outcome)
        yield outcome
    folders = {outcome.item.folder for outcome in done}
    for part in (TRAIN, TEST):
        _keep_only(output / part, folders)
    if not any(outcome.item.training for outcome in done):
        raise DatasetError("No training patient could be converted, so that there is no dataset.json.")
    write_json(output / "dataset.json", describe(done))


def write_patient(patient: Patient, write: Callable[[Path], Result]) -> Result:
    """Let ``write`` fill a folder, which becomes the patient's; if it fails, nothing is left of it.

    Raises:
        CaseError: ``write`` raised a ``MistError``.
    """
    folder = patient.folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Names with a dot in front are no patients, should the process be killed.
    with tempfile.TemporaryDirectory(prefix=".tmp-", dir=folder.parent) as scratch:
        made = Path(scratch) / folder.name
        made.mkdir()
        try:
            result = write(made)
        except MistError as error:
            raise CaseError(patient.id, str(error)) from error
        if folder.exists():
            shutil.rmtree(folder)
        made.rename(folder)
    return result


def channel_problems(names: Iterable[str]) -> list[str]:
    """Sentences about the names of channels that cannot name a file, or not a file of their own."""
    problems = []
    seen: set[str] = set()
    for name in names:
        if not _CHANNEL.fullmatch(name) or name[-1] in " .":
            problems.append(
                f"{name!r} cannot name a file; a channel begins with a letter or a digit and goes on with letters, "
                "digits, spaces or any of _ . + -; rename it"
            )
        elif name.lower() in RESERVED:
            problems.append(f"{name!r} cannot name a file of its own, as the tables use it; rename it or leave it out")
        elif name.lower() in seen:
            problems.append(f"the name {name!r} is given twice; rename one")
        seen.add(name.lower())
    return problems


def refuse_existing(output: Path, overwrite: bool) -> None:
    """Refuse an output folder that holds a dataset already, unless it is to be replaced."""
    held = [name for name in ("dataset.json", "raw") if (output / name).exists()]
    if held and not overwrite:
        raise DatasetError(
            f"{output} holds {' and '.join(held)} already. Name another folder, or replace them with --overwrite."
        )


@contextmanager
def told_of(source: Path, made: Path) -> Iterator[None]:
    """Name the source, not what was made of it, in what is wrong with either: the latter goes with the folder."""
    try:
        yield
    except ImageError as error:
        raise ImageError(str(error).replace(str(made), str(source))) from error


def check_image(source: Path, made: Path) -> None:
    """Refuse what is no three-dimensional image, is damaged, or has voxels that are not finite."""
    with told_of(source, made):
        read_image(made)


def labels_of(source: Path, made: Path) -> list[int]:
    """The labels in a mask, ascending; errors name the source that it was made of."""
    with told_of(source, made):
        found, _ = read_labels(made)
    return np.flatnonzero(np.bincount(found.ravel())).tolist()


def _keep_only(folder: Path, patients: Collection[Path]) -> None:
    if not folder.is_dir():
        return
    for path in folder.iterdir():
        if path.is_dir() and path not in patients:
            shutil.rmtree(path)
    if not any(folder.iterdir()):
        folder.rmdir()
