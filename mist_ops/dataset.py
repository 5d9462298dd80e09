"""Cases and folds: what dataset.json describes, and the tables of paths that analysis makes of it."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

import pandas as pd
from pydantic import BeforeValidator, ConfigDict, Field, StrictInt, model_validator

from mist_ops.errors import DatasetError, listing
from mist_ops.schema import Section, read_checked
from mist_ops.study import check_id
from mist_ops.tables import located, read_table, whole_numbers, write_rows

RESERVED = ("id", "fold", "mask", "prediction", "group")
"""Columns of the tables, which no channel may be called."""

_FOLD = re.compile("[0-9]{1,4}")

# Likeness from which a key was meant to be ours: "classes" and "test-dat" are, "test" and "description" are not.
_MISSPELLED = 0.7

Patterns = Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1)]
Label = Annotated[StrictInt, Field(ge=0, le=255)]


def _lower(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


class DatasetDescription(Section):
    """What a person writes in dataset.json. Folders are relative to that file."""

    model_config = ConfigDict(extra="ignore")

    task: Annotated[str, Field(min_length=1, description="Name of the task.")]
    modality: Annotated[Literal["ct", "mr", "other"], BeforeValidator(_lower), Field(description="ct, mr or other.")]
    train_data: Annotated[Path, Field(alias="train-data", description="Folder with a folder per training patient.")]
    test_data: Annotated[Path | None, Field(alias="test-data", description="The same for test patients.")] = None
    mask: Annotated[Patterns, Field(description="Strings that tell the mask's file name.")]
    images: Annotated[dict[str, Patterns], Field(min_length=1, description="The same for each channel.")]
    labels: Annotated[list[Label], Field(min_length=2, description="Integers in the masks, with 0 for background.")]
    final_classes: Annotated[
        dict[str, list[Label]] | None, Field(description="Classes to score; each label by itself if absent.")
    ] = None
    patients: Annotated[
        Path | None, Field(description="Table with the column id and any of fold, group and stratum.")
    ] = None

    @model_validator(mode="before")
    @classmethod
    def _no_misspelling(cls, written: object) -> object:
        """Refuse a key that is nearly one of ours; others are notes of a person's own."""
        known = [field.alias or name for name, field in cls.model_fields.items()]
        meant = {
            str(key): difflib.get_close_matches(str(key), known, n=1, cutoff=_MISSPELLED)
            for key in (written if isinstance(written, dict) else ())
            if key not in known
        }
        wrong = [f"the key '{key}' is not known, but '{near[0]}' is; correct it" for key, near in meant.items() if near]
        if wrong:
            raise ValueError("; ".join(wrong))
        return written

    @model_validator(mode="after")
    def _consistent(self) -> DatasetDescription:
        problems = []
        if 0 not in self.labels or len(set(self.labels)) != len(self.labels):
            problems.append(f"'labels' must hold 0 and each label once, found {self.labels}")
        for name in self.images:
            if name in RESERVED:
                problems.append(f"'images': the name {name!r} is taken by a column of the tables; choose another")
        for name, labels in (self.final_classes or {}).items():
            unknown = sorted(set(labels) - set(self.labels))
            if unknown:
                problems.append(f"'final_classes': {name!r} names labels {unknown} that are not in 'labels'")
            if not labels or 0 in labels:
                problems.append(f"'final_classes': {name!r} needs at least one label, and not the background 0")
        if problems:
            raise ValueError("; ".join(problems))
        return self

    @property
    def classes(self) -> dict[str, list[int]]:
        """Classes to score; without ``final_classes`` each label is one."""
        return self.final_classes or {f"label_{label}": [label] for label in sorted(self.labels) if label}


def read_description(path: Path) -> DatasetDescription:
    """Read dataset.json with its folders resolved. Every mistake in it is named at once."""
    if not path.is_file():
        raise DatasetError(f"There is no {path}. Name a dataset.json with --data.")
    described = read_checked(path, DatasetDescription, DatasetError)
    folder = path.resolve().parent
    folders = {"train_data": folder / described.train_data}
    if described.test_data is not None:
        folders["test_data"] = folder / described.test_data
    missing = [
        f"'{key.replace('_', '-')}': there is no folder {value}" for key, value in folders.items() if not value.is_dir()
    ]
    if described.patients is not None:
        folders["patients"] = folder / described.patients
        if not folders["patients"].is_file():
            missing.append(f"'patients': there is no table {folders['patients']}")
    if missing:
        raise DatasetError(f"{path}: {listing(missing)}. Paths are relative to the JSON file.")
    return described.model_copy(update={**folders, "labels": sorted(described.labels)})


def is_movable(path: Path) -> bool:
    """Whether a dataset.json names its folders relative to itself, so that everything may be moved together."""
    return not read_checked(path, DatasetDescription, DatasetError).train_data.is_absolute()


@dataclass(frozen=True)
class PatientTable:
    """What is known of patients beside their files, each by id; patients may be missing from any of it.

    Attributes:
        fold_of: The fold that is to hold out a patient.
        group_of: What must stay in one fold together: a person scanned twice, a family, a site.
        stratum_of: What each fold is to hold an equal share of: a diagnosis, a scanner.
    """

    fold_of: Mapping[str, int] = field(default_factory=dict)
    group_of: Mapping[str, str] = field(default_factory=dict)
    stratum_of: Mapping[str, str] = field(default_factory=dict)

    @property
    def ids(self) -> set[str]:
        """The patients of whom anything is known."""
        return {*self.fold_of, *self.group_of, *self.stratum_of}


def read_patient_table(description: DatasetDescription) -> PatientTable:
    """Read the table that ``patients`` of dataset.json names; empty cells and absent columns say nothing."""
    if description.patients is None:
        return PatientTable()
    table = read_table(description.patients, required=("id",))
    columns = {
        name: {row["id"]: row[name].strip() for row in table.to_dict("records") if row[name].strip()}
        for name in ("fold", "group", "stratum")
        if name in table.columns
    }
    if not columns:
        raise DatasetError(
            f"{description.patients} has none of the columns fold, group and stratum. Found: {list(table.columns)}."
        )
    wrong = [f"{case_id}: {fold!r}" for case_id, fold in columns.get("fold", {}).items() if not _FOLD.fullmatch(fold)]
    if wrong:
        raise DatasetError(
            f"{description.patients}: the column 'fold' must hold whole numbers from 0, found {listing(wrong)}. "
            "Correct them."
        )
    folds = {case_id: int(fold) for case_id, fold in columns.get("fold", {}).items()}
    return PatientTable(folds, columns.get("group", {}), columns.get("stratum", {}))


@dataclass(frozen=True)
class Case:
    """A patient: its channels by name, in the order the model sees them, and its mask if there is one."""

    id: str
    images: Mapping[str, Path]
    mask: Path | None = None

    @property
    def files(self) -> tuple[Path, ...]:
        """Every file of the case, channels first."""
        return (*self.images.values(), *([self.mask] if self.mask else []))


@dataclass(frozen=True)
class Fold:
    """Ids of a fold: what trains it, what selects its best weights, and what it predicts."""

    index: int
    training: tuple[str, ...]
    validation: tuple[str, ...]
    held_out: tuple[str, ...]


def find_training_cases(description: DatasetDescription) -> list[Case]:
    """The training patients of a dataset, sorted by id; every patient with a missing or ambiguous file is named."""
    return _cases(description.train_data, {**description.images, "mask": description.mask})


def find_test_cases(description: DatasetDescription) -> list[Case]:
    """The test patients of a dataset, sorted by id; none if it has no test data."""
    return _cases(description.test_data, description.images) if description.test_data else []


def patient_folders(folder: Path) -> list[Path]:
    """The folders of patients, sorted; files and hidden folders are none."""
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _cases(folder: Path, patterns: Mapping[str, Sequence[str]]) -> list[Case]:
    patients, problems = patient_folders(folder), [_gone(path) for path in sorted(folder.iterdir()) if _is_broken(path)]
    if not patients and not problems:
        raise DatasetError(f"There are no patients in {folder}. It must hold a folder for each patient.")
    cases = [_case(patient, patterns, problems) for patient in patients]
    if problems:
        raise DatasetError(f"The patients in {folder} cannot be used: {listing(problems)}")
    return cases


def linked_away(cases: Iterable[Case], folder: Path) -> list[str]:
    """Ids of the cases whose files lie elsewhere than in a folder, by links in it."""
    inside = folder.resolve()
    return [case.id for case in cases if not all(path.resolve().is_relative_to(inside) for path in case.files)]


def _is_broken(path: Path) -> bool:
    return path.is_symlink() and not path.exists()


def _gone(link: Path) -> str:
    return f"{link} is a link that leads nowhere; restore what it leads to, or remove it."


def _case(patient: Path, patterns: Mapping[str, Sequence[str]], problems: list[str]) -> Case:
    paths = [path for path in patient.iterdir() if path.is_file() or _is_broken(path)]
    names = sorted(path.name for path in paths if not path.name.startswith("."))
    found: dict[str, Path] = {}
    for key, strings in patterns.items():
        matches = _matches(names, strings)
        if len(matches) == 1:
            found[key] = patient / matches[0]
        else:
            what = f"{len(matches)} files match ({', '.join(matches)})" if matches else f"no file matches among {names}"
            problems.append(f"patient '{patient.name}', {key} {list(strings)}: {what}; exactly one must.")
    problems += [_gone(path) for path in found.values() if _is_broken(path)]
    for name in names:
        claimed = [key for key, path in found.items() if path.name == name]
        if len(claimed) > 1:
            problems.append(
                f"patient '{patient.name}': {name} matches {' and '.join(claimed)}; make the strings longer."
            )
    mask = found.pop("mask", None)
    return Case(check_id(patient.name, patient.parent), found, mask)


def _matches(names: Sequence[str], strings: Sequence[str]) -> list[str]:
    """The names that hold a string; a name that equals one, or else ends in one, wins over the others."""
    for matches in (str.__eq__, str.endswith, str.__contains__):
        found = [name for name in names if any(matches(name, string) for string in strings)]
        if found:
            return found
    return []


@dataclass(frozen=True)
class Assignment:
    """The rows of train_paths.csv: the cases in the file's order, and the fold in which each is held out.

    Attributes:
        cases: The cases.
        fold_of: The fold of each case.
        group_of: The group of each case that has one; a group is never divided.
    """

    cases: tuple[Case, ...]
    fold_of: Mapping[str, int]
    group_of: Mapping[str, str] = field(default_factory=dict)

    def held_out(self, fold: int) -> tuple[str, ...]:
        """Ids of a fold, in the order of the cases."""
        return tuple(case.id for case in self.cases if self.fold_of[case.id] == fold)

    def folds_of(self, ids: Iterable[str]) -> set[int]:
        """The folds that hold some cases out."""
        return {self.fold_of[case_id] for case_id in ids}

    def __getitem__(self, case_id: str) -> Case:
        return self._by_id[case_id]

    @cached_property
    def _by_id(self) -> dict[str, Case]:
        return {case.id: case for case in self.cases}


def write_train_paths(path: Path, assignment: Assignment, relative_to: Path | None = None) -> None:
    """Write train_paths.csv: id, fold, mask, a column a channel and, if there are groups, the group.

    Args:
        path: Of the table.
        assignment: Its rows.
        relative_to: Folder that the paths in it are to be relative to; None for paths as they are.
    """
    groups = assignment.group_of
    write_rows(
        [
            {
                "id": case.id,
                "fold": assignment.fold_of[case.id],
                **_cells({"mask": case.mask, **case.images}, relative_to),
                **({"group": groups.get(case.id, "")} if groups else {}),
            }
            for case in assignment.cases
        ],
        path,
    )


def read_train_paths(path: Path) -> Assignment:
    """Read train_paths.csv; ids stay text, and paths are ``located``."""
    table = read_table(path, required=("id", "fold", "mask"))
    if table.empty:
        raise DatasetError(f"{path} lists no patient. Analyze the dataset again.")
    fold_of = dict(zip(table["id"], whole_numbers(table["fold"], f"{path}: the column 'fold'"), strict=True))
    group_of = {row["id"]: row["group"] for row in table.to_dict("records") if row.get("group")}
    return Assignment(tuple(_cases_of(table, path)), fold_of, group_of)


def write_test_paths(path: Path, cases: Sequence[Case], relative_to: Path | None = None) -> None:
    """Write test_paths.csv: id, then a column a channel; paths as in ``write_train_paths``."""
    write_rows([{"id": case.id, **_cells(case.images, relative_to)} for case in cases], path)


def read_paths(path: Path, channels: Sequence[str]) -> list[Case]:
    """Read a table of cases to predict. Channels are found by name, in any order; other columns are ignored.

    Paths in it are ``located``.
    """
    return list(_cases_of(read_table(path, required=("id", *channels)), path, channels))


def _cells(files: Mapping[str, Path | None], relative_to: Path | None) -> dict[str, Path | str | None]:
    return {name: os.path.relpath(path, relative_to) if relative_to and path else path for name, path in files.items()}


def _cases_of(table: pd.DataFrame, path: Path, channels: Sequence[str] | None = None) -> list[Case]:
    names = [str(name) for name in table.columns if name not in RESERVED] if channels is None else channels
    return [
        Case(
            row["id"],
            {name: located(row[name], path) for name in names if row[name]},
            located(row["mask"], path) if row.get("mask") else None,
        )
        for row in table.to_dict("records")
    ]
