"""Conversion of the Medical Segmentation Decathlon layout to one folder per patient and a dataset.json.

Antonelli et al.: The Medical Segmentation Decathlon. Nature Communications 2022;13:4128.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from mist_ops.conversion.patients import (
    MASK,
    TEST,
    TRAIN,
    Conversion,
    Converted,
    Patient,
    channel_problems,
    check_image,
    convert,
    described,
    labels_of,
    modality_of,
    refuse_existing,
    refuse_source,
    write_patient,
)
from mist_ops.dataset import check_layout
from mist_ops.errors import DatasetError, counted, few
from mist_ops.imaging.folders import NIFTI, image_id
from mist_ops.imaging.foreign import store_as_nifti
from mist_ops.imaging.labels import check_labels
from mist_ops.imaging.nifti import count_channels, split_channels
from mist_ops.schema import read_checked
from mist_ops.study import check_id
from mist_ops.types import Json


def _as_entry(value: object) -> object:
    return {"image": value} if isinstance(value, str) else value


class _Files(BaseModel):
    """An entry of the lists of cases: paths relative to the JSON file."""

    image: Annotated[str, Field(min_length=1)]
    label: str | None = None


_Entries = list[Annotated[_Files, BeforeValidator(_as_entry)]]


class MsdDescription(BaseModel):
    """Used part of the Decathlon's dataset.json. Channels and labels keep its order."""

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
            problems.append(f"'modality' must be numbered from 0, got {few(list(self.modality), 20)}")
        problems += [f"'modality': {problem.message}" for problem in channel_problems(self.modality.values())]
        if 0 not in self.labels:
            problems.append(f"'labels' must contain the background 0, got {few(list(self.labels), 20)}")
        for name, count in Counter(self.classes).items():
            if count > 1:
                problems.append(f"'labels': {count} labels have the name '{name}'")
        if problems:
            raise ValueError("; ".join(problems))
        return self

    @property
    def channels(self) -> list[str]:
        """Names of the channels, by index."""
        return [self.modality[index] for index in sorted(self.modality)]

    @property
    def classes(self) -> list[str]:
        """Name of each label except the background, without spaces."""
        return [name.replace(" ", "_") for label, name in self.labels.items() if label]


@dataclass(frozen=True)
class MsdEntry(Patient):
    """A patient of the Decathlon; its id is the name of its image without extension.

    Attributes:
        image: The image with all channels; None if missing.
        mask: The mask; None for a test patient, or if missing.
    """

    image: Path | None
    mask: Path | None


def convert_msd(source: Path, output: Path, workers: int = 1, overwrite: bool = False) -> Conversion[MsdEntry]:
    """Copy a dataset of the Decathlon into one folder per patient and, when exhausted, write its dataset.json.

    A 4D image is split into its channels; everything else is copied byte for byte. A patient that fails leaves no
    folder. dataset.json is written if at least one training patient was converted.

    Args:
        source: Folder with dataset.json, imagesTr, labelsTr and, if there are test patients, imagesTs.
        output: Folder that gets ``raw/train``, ``raw/test`` and dataset.json.
        workers: Number of processes.
        overwrite: Replace a dataset in the output folder.

    Raises:
        DatasetError: The source is not such a dataset, or the output holds one (both before anything is written), or
            no training patient could be converted (at the end).
    """
    description = _read_description(source)
    refuse_source(source, output)
    refuse_existing(output, overwrite)
    entries = [*_entries(source, output / TRAIN, description.training, "Tr")]
    if (source / "imagesTs").is_dir():
        entries += _entries(source, output / TEST, description.test, "Ts")
    write, describe = partial(_convert_entry, description), partial(_dataset_json, description)
    return convert(entries, write, describe, output, workers)


def _read_description(source: Path) -> MsdDescription:
    path = source / "dataset.json"
    if not path.is_file():
        raise DatasetError(
            f"{path} does not exist. Give the folder of a Decathlon task with --source.",
            code="dataset-missing",
            file=path,
        )
    check_layout(path, "Decathlon")
    return read_checked(path, MsdDescription, DatasetError)


def _entries(source: Path, folder: Path, listed: Sequence[_Files], part: Literal["Tr", "Ts"]) -> list[MsdEntry]:
    entries = []
    for files in listed:
        name = Path(files.image).name
        case_id = check_id(image_id(name), source / "dataset.json")
        image = _find(source, [files.image, f"images{part}/{name}"])
        mask = _find(source, [files.label or "", f"labels{part}/{name}"]) if part == "Tr" else None
        entries.append(MsdEntry(case_id, folder / case_id, part == "Tr", image, mask))
    twice = [case_id for case_id, count in Counter(entry.id for entry in entries).items() if count > 1]
    if twice:
        raise DatasetError(
            f"{source / 'dataset.json'} lists {counted(len(twice), 'patient')} more than once: {few(twice)}. "
            "Remove duplicates.",
            code="patient-duplicate",
            file=source / "dataset.json",
            found=twice,
        )
    return entries


def _find(source: Path, names: Sequence[str]) -> Path | None:
    """The first existing file, compressed or not; names that point outside the source are skipped."""
    stems = [image_id(name) for name in names if name and _stays_inside(name)]
    paths = [source / f"{stem}{ending}" for stem in stems for ending in NIFTI]
    return next((path for path in paths if path.is_file()), None)


def _stays_inside(name: str) -> bool:
    # By name only: imagesTr may be a link to another disk.
    path = Path(name)
    return not path.is_absolute() and ".." not in path.parts


def _convert_entry(description: MsdDescription, entry: MsdEntry) -> None:
    write_patient(entry, partial(_write, description, entry))


def _write(description: MsdDescription, entry: MsdEntry, folder: Path) -> None:
    if entry.image is None or (entry.training and entry.mask is None):
        missing = "mask" if entry.image else "image"
        raise DatasetError(
            f"its {missing} does not exist. Restore it, or remove the patient from dataset.json.",
            code="image-missing",
            field=missing,
        )
    channels = [folder / f"{name}.nii.gz" for name in description.channels]
    found = count_channels(entry.image)
    if found != len(channels):
        raise DatasetError(
            f"{entry.image} has {counted(found, 'channel')}, 'modality' lists {len(channels)}. Correct one of them.",
            code="channels-mismatch",
            file=entry.image,
            found=found,
            expected=len(channels),
        )
    if len(channels) == 1:
        store_as_nifti(entry.image, channels[0])
    else:
        split_channels(entry.image, channels)
    for channel in channels:
        check_image(entry.image, channel)
    if entry.mask is not None:
        store_as_nifti(entry.mask, folder / MASK)
        check_labels(labels_of(entry.mask, folder / MASK), list(description.labels))


def _dataset_json(description: MsdDescription, converted: Sequence[Converted[MsdEntry, None]]) -> Json:
    foreground = [label for label in description.labels if label]
    classes = {name: [label] for name, label in zip(description.classes, foreground, strict=True)}
    channels = list(description.modality.values())
    return described(description.name, modality_of(channels), channels, list(description.labels), classes, converted)
