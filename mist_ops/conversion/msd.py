"""The layout of the Medical Segmentation Decathlon to a folder per patient and a dataset.json.

Antonelli et al.: The Medical Segmentation Decathlon. Nature Communications 2022;13:4128.
"""

from __future__ import annotations

import gzip
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from mist_ops.dataset import RESERVED
from mist_ops.errors import CaseError, DatasetError, MistError, listing
from mist_ops.files import write_json
from mist_ops.imaging.nifti import count_channels, split_channels
from mist_ops.schema import read_checked
from mist_ops.study import check_id
from mist_ops.types import Json
from mist_ops.workers import Outcome, outcomes

_ENDING = re.compile(r"\.nii(\.gz)?$")
_MR = re.compile(r"mri?\b|t[12]|flair|adc|dwi|swi|pdw?\b")
_MASK = "mask.nii.gz"


def _as_entry(value: object) -> object:
    return {"image": value} if isinstance(value, str) else value


class _Files(BaseModel):
    """An entry of the lists of cases: where its files lie, relative to the JSON."""

    image: Annotated[str, Field(min_length=1)]
    label: str | None = None


_Entries = list[Annotated[_Files, BeforeValidator(_as_entry)]]


class MsdDescription(BaseModel):
    """What conversion reads of the Decathlon's dataset.json. Channels and labels keep its order."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    name: Annotated[str, Field(min_length=1)]
    modality: Annotated[dict[int, str], Field(min_length=1)]
    labels: Annotated[dict[int, str], Field(min_length=2)]
    training: Annotated[_Entries, Field(min_length=1)]
    test: _Entries = []

    @model_validator(mode="after")
    def _consistent(self) -> MsdDescription:
        problems = []
        if sorted(self.modality) != list(range(len(self.modality))):
            problems.append(f"'modality' must be numbered from 0 on, found {list(self.modality)}")
        for name, count in Counter(self.modality.values()).items():
            if count > 1 or name in RESERVED or not re.fullmatch(r"[\w.+ -]+", name):
                problems.append(f"'modality': {name!r} cannot name a file of its own; rename it")
        if 0 not in self.labels:
            problems.append(f"'labels' must hold the background 0, found {list(self.labels)}")
        for name, count in Counter(self.classes).items():
            if count > 1:
                problems.append(f"'labels': the name {name!r} is given to {count} labels")
        if problems:
            raise ValueError("; ".join(problems))
        return self

    @property
    def classes(self) -> list[str]:
        """Name of each label but the background, without spaces."""
        return [name.replace(" ", "_") for label, name in self.labels.items() if label]

    @property
    def kind(self) -> Literal["ct", "mr", "other"]:
        """The modality of dataset.json: CT if any channel is, else MR if any is a sequence of that."""
        names = [name.lower() for name in self.modality.values()]
        if "ct" in names:
            return "ct"
        return "mr" if any(_MR.match(name) for name in names) else "other"


@dataclass(frozen=True)
class MsdEntry:
    """A patient to convert.

    Attributes:
        id: Name of its image without the ending.
        image: The image with all channels; None if there is no such file.
        mask: The mask; None for a test patient, or if there is no such file.
        folder: Where its files will lie.
        training: Whether it needs a mask.
    """

    id: str
    image: Path | None
    mask: Path | None
    folder: Path
    training: bool


def convert_msd(source: Path, output: Path, workers: int = 1) -> Iterator[Outcome[MsdEntry, None]]:
    """Copy a dataset of the Decathlon into a folder per patient and, when exhausted, write its dataset.json.

    Channels of a four-dimensional image are written one by one; everything else is copied byte for byte. A patient
    that fails leaves no folder. dataset.json is written if any training patient was converted.

    Args:
        source: Folder with dataset.json, imagesTr, labelsTr and, if there are test patients, imagesTs.
        output: Folder that gets ``raw/train``, ``raw/test`` and dataset.json; patients of the same name are replaced.
        workers: Processes to use.

    Raises:
        DatasetError: The source is no such dataset, at once and before anything is written.
    """
    description = _read_description(source)
    if output.resolve() == source.resolve():
        raise DatasetError(f"{output} is the source itself. Name another folder with --output.")
    entries = [*_entries(source, output, description.training, "Tr")]
    if (source / "imagesTs").is_dir():
        entries += _entries(source, output, description.test, "Ts")
    return _convert(description, entries, output, workers)


def _read_description(source: Path) -> MsdDescription:
    path = source / "dataset.json"
    if not path.is_file():
        raise DatasetError(f"There is no {path}. Name the folder of a Decathlon task with --source.")
    return read_checked(path, MsdDescription, DatasetError)


def _entries(source: Path, output: Path, listed: Sequence[_Files], part: Literal["Tr", "Ts"]) -> list[MsdEntry]:
    folder = output / "raw" / ("train" if part == "Tr" else "test")
    entries = []
    for files in listed:
        name = Path(files.image).name
        case_id = check_id(_ENDING.sub("", name))
        image = _find(source, [files.image, f"images{part}/{name}"])
        mask = _find(source, [files.label or "", f"labels{part}/{name}"]) if part == "Tr" else None
        entries.append(MsdEntry(case_id, image, mask, folder / case_id, part == "Tr"))
    twice = [case_id for case_id, count in Counter(entry.id for entry in entries).items() if count > 1]
    if twice:
        raise DatasetError(f"{source / 'dataset.json'} lists {listing([f'{case_id!r} twice' for case_id in twice])}.")
    return entries


def _find(source: Path, names: Sequence[str]) -> Path | None:
    """The first file there is of these, compressed or not."""
    stems = [_ENDING.sub("", name) for name in names]
    paths = [source / f"{stem}{ending}" for stem in stems for ending in (".nii.gz", ".nii")]
    return next((path for path in paths if path.is_file()), None)


def _convert(
    description: MsdDescription, entries: Sequence[MsdEntry], output: Path, workers: int
) -> Iterator[Outcome[MsdEntry, None]]:
    channels = [f"{description.modality[index]}.nii.gz" for index in sorted(description.modality)]
    converted: list[MsdEntry] = []
    for outcome in outcomes(partial(_convert_entry, channels), entries, workers):
        if not outcome.error:
            converted.append(outcome.item)
        yield outcome
    if any(entry.training for entry in converted):
        has_test = not all(entry.training for entry in converted)
        write_json(output / "dataset.json", _dataset_json(description, has_test))


def _convert_entry(channels: Sequence[str], entry: MsdEntry) -> None:
    if entry.image is None or (entry.training and entry.mask is None):
        missing = "mask" if entry.image else "image"
        raise CaseError(entry.id, f"there is no file of its {missing}. Restore it or take it off the list.")
    try:
        _write_patient(entry.image, entry.mask, channels, entry.folder)
    except MistError as error:
        raise CaseError(entry.id, str(error)) from error


def _write_patient(image: Path, mask: Path | None, channels: Sequence[str], folder: Path) -> None:
    found = count_channels(image)
    if found != len(channels):
        raise DatasetError(f"{image} holds {found} channels but 'modality' lists {len(channels)}. Correct one of them.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Made beside and renamed when whole; names with a dot are no patients.
    with tempfile.TemporaryDirectory(prefix=".tmp-", dir=folder.parent) as scratch:
        made = Path(scratch) / folder.name
        made.mkdir()
        if len(channels) == 1:
            _copy(image, made / channels[0])
        else:
            split_channels(image, [made / channel for channel in channels])
        if mask is not None:
            _copy(mask, made / _MASK)
        if folder.exists():
            shutil.rmtree(folder)
        made.rename(folder)


def _copy(path: Path, target: Path) -> None:
    """Copy byte for byte, compressing what is not."""
    if path.suffix == ".gz":
        shutil.copy2(path, target)
        return
    with path.open("rb") as stream, gzip.GzipFile(target, "wb", mtime=0) as packed:
        shutil.copyfileobj(stream, packed)


def _dataset_json(description: MsdDescription, has_test: bool) -> Json:
    foreground = [label for label in description.labels if label]
    folders: dict[str, Any] = {"train-data": "raw/train"} | ({"test-data": "raw/test"} if has_test else {})
    return {
        "task": description.name,
        "modality": description.kind,
        **folders,
        "mask": [_MASK],
        "images": {name: [f"{name}.nii.gz"] for name in description.modality.values()},
        "labels": list(description.labels),
        "final_classes": {name: [label] for name, label in zip(description.classes, foreground, strict=True)},
    }
