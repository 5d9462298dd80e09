"""Conversion of the layout of nnU-Net v2 to one folder per patient and a dataset.json.

Isensee et al.: nnU-Net: a self-configuring method for deep learning-based biomedical image segmentation. Nature Methods
2021;18:203-211.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, NonNegativeInt, model_validator

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
from mist_ops.imaging.foreign import store_as_nifti
from mist_ops.imaging.labels import check_labels
from mist_ops.schema import read_checked
from mist_ops.study import check_id
from mist_ops.types import Json

_BACKGROUND, _IGNORE = "background", "ignore"

_FOLDER_NAME = re.compile(r"Dataset\d{3}_(.+)")


def _as_list(value: object) -> object:
    return value if isinstance(value, list) else [value]


_Values = Annotated[list[NonNegativeInt], BeforeValidator(_as_list), Field(min_length=1)]


class NnunetDescription(BaseModel):
    """Used part of nnU-Net's dataset.json. A label that is a list of integers is a region, scored as one class."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    channel_names: Annotated[dict[int, str], Field(min_length=1)]
    labels: Annotated[dict[str, _Values], Field(min_length=2)]
    file_ending: Annotated[str, Field(pattern=r"^\.\w[\w.]*$")] = ".nii.gz"
    name: str | None = None
    dataset: Json | None = None

    @model_validator(mode="after")
    def _consistent(self) -> NnunetDescription:
        problems = []
        if sorted(self.channel_names) != list(range(len(self.channel_names))):
            problems.append(f"'channel_names' must be numbered from 0, got {few(list(self.channel_names), 20)}")
        problems += [f"'channel_names': {problem.message}" for problem in channel_problems(self.channel_names.values())]
        if self.labels.get(_BACKGROUND) != [0]:
            problems.append(f"'labels' must contain '{_BACKGROUND}' as 0, got {few(list(self.labels), 20)}")
        if _IGNORE in self.labels:
            problems.append(f"'labels' has '{_IGNORE}', which is not supported; annotate or remove these patients")
        problems += [
            f"'labels': {count} labels have the name '{name}'" for name, count in self._names.items() if count > 1
        ]
        if self.dataset is not None:
            problems.append("'dataset' lists files, which is not supported; list them in a table for mist_convert_csv")
        if problems:
            raise ValueError("; ".join(problems))
        return self

    @property
    def _names(self) -> Mapping[str, int]:
        return Counter(_class_name(name) for name in self.labels)

    @property
    def channels(self) -> list[str]:
        """Names of the channels, by index."""
        return [self.channel_names[index] for index in sorted(self.channel_names)]

    @property
    def values(self) -> list[int]:
        """Every integer of the labels and regions, ascending."""
        return sorted({value for values in self.labels.values() for value in values})

    @property
    def classes(self) -> dict[str, list[int]]:
        """Integers of each label and region except the background."""
        return {_class_name(name): sorted(set(values)) for name, values in self.labels.items() if name != _BACKGROUND}


def _class_name(name: str) -> str:
    return name.replace(" ", "_")


@dataclass(frozen=True)
class NnunetEntry(Patient):
    """A patient of nnU-Net.

    Attributes:
        channels: Files by index of the channel.
        mask: Its mask; None for a test patient, or if missing.
    """

    channels: Mapping[int, Path]
    mask: Path | None


def convert_nnunet(source: Path, output: Path, workers: int = 1, overwrite: bool = False) -> Conversion[NnunetEntry]:
    """Copy a dataset of nnU-Net into one folder per patient and, when exhausted, write its dataset.json.

    NIfTI files keep their bytes; other formats are converted. A patient that fails leaves no folder. dataset.json is
    written if at least one training patient was converted.

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
    entries = [
        *_entries(source, description, output / TRAIN, "Tr"),
        *_entries(source, description, output / TEST, "Ts"),
    ]
    if not any(entry.training for entry in entries):
        raise DatasetError(
            f"{source / 'imagesTr'} holds no images whose names end in _0000{description.file_ending}. Correct "
            "'file_ending' in dataset.json, or add the images.",
            code="folder-empty",
            file=source / "imagesTr",
            expected=description.file_ending,
        )
    task = description.name or _folder_name(source.resolve().name)
    write, describe = partial(_convert_entry, description), partial(_dataset_json, description, task)
    return convert(entries, write, describe, output, workers)


def _read_description(source: Path) -> NnunetDescription:
    path = source / "dataset.json"
    if not path.is_file():
        raise DatasetError(
            f"{path} does not exist. Give the folder of an nnU-Net dataset, such as Dataset004_Hippocampus, with "
            "--source.",
            code="dataset-missing",
            file=path,
        )
    check_layout(path, "nnU-Net")
    return read_checked(path, NnunetDescription, DatasetError)


def _folder_name(name: str) -> str:
    match = _FOLDER_NAME.fullmatch(name)
    return match[1] if match else name


def _entries(
    source: Path, description: NnunetDescription, folder: Path, part: Literal["Tr", "Ts"]
) -> list[NnunetEntry]:
    """The patients that have an image or, in training, a mask; sorted by id."""
    images, masks, ending = source / f"images{part}", source / f"labels{part}", description.file_ending
    named = re.compile(rf"([^.].*)_(\d{{4}}){re.escape(ending)}")
    channels: dict[str, dict[int, Path]] = defaultdict(dict)
    for path in _files(images):
        match = named.fullmatch(path.name)
        if match:
            channels[match[1]][int(match[2])] = path
    training = part == "Tr"
    labeled = {path.name.removesuffix(ending): path for path in _files(masks) if path.name.endswith(ending)}
    ids = sorted({*channels, *(labeled if training else ())})
    return [
        NnunetEntry(
            check_id(case_id, images),
            folder / case_id,
            training,
            channels.get(case_id, {}),
            labeled.get(case_id) if training else None,
        )
        for case_id in ids
    ]


def _files(folder: Path) -> list[Path]:
    found = folder.iterdir() if folder.is_dir() else ()
    return sorted(path for path in found if not path.name.startswith("."))


def _convert_entry(description: NnunetDescription, entry: NnunetEntry) -> None:
    write_patient(entry, partial(_write, description, entry))


def _write(description: NnunetDescription, entry: NnunetEntry, folder: Path) -> None:
    if sorted(entry.channels) != list(range(len(description.channels))):
        raise DatasetError(
            f"its images have {_numbers(entry.channels)}, and 'channel_names' lists "
            f"{counted(len(description.channels), 'channel')}. Add or remove files, or correct 'channel_names'.",
            code="channels-mismatch",
            found=sorted(entry.channels),
            expected=len(description.channels),
        )
    if entry.training and entry.mask is None:
        raise DatasetError(
            "its mask does not exist in labelsTr. Restore it, or remove the patient from imagesTr.",
            code="image-missing",
            field="mask",
        )
    for index, name in enumerate(description.channels):
        store_as_nifti(entry.channels[index], folder / f"{name}.nii.gz")
        check_image(entry.channels[index], folder / f"{name}.nii.gz")
    if entry.mask is not None:
        store_as_nifti(entry.mask, folder / MASK)
        check_labels(labels_of(entry.mask, folder / MASK), description.values)


def _numbers(channels: Mapping[int, Path]) -> str:
    numbers = [f"_{index:04}" for index in sorted(channels)]
    return f"the {'number' if len(numbers) == 1 else 'numbers'} {few(numbers, 20)}" if numbers else "no files"


def _dataset_json(description: NnunetDescription, task: str, converted: Sequence[Converted[NnunetEntry, None]]) -> Json:
    channels = description.channels
    return described(task, modality_of(channels), channels, description.values, description.classes, converted)
