"""Cases and folds: dataset.json, and the tables of paths that the analysis writes."""

from __future__ import annotations

import difflib
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, ConfigDict, Field, StrictInt, model_validator

from mist_ops.errors import DatasetError, counted, few
from mist_ops.files import read_object
from mist_ops.schema import Section, read_checked
from mist_ops.study import check_id
from mist_ops.tables import Locator, Table, integers, read_table, write_rows

RESERVED = ("id", "fold", "mask", "prediction", "group")
"""Columns of the tables, which are not allowed as names of channels."""

_FOLD = re.compile("[0-9]{1,4}")

# Similarity above which a key counts as misspelled: "classes" and "test-dat" do, "test" and "description" do not.
_MISSPELLED = 0.7

Patterns = Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1)]
Label = Annotated[StrictInt, Field(ge=0, le=255)]


def _lower(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


class DatasetDescription(Section):
    """Contents of dataset.json. Folders are relative to that file."""

    model_config = ConfigDict(extra="ignore")

    task: Annotated[str, Field(min_length=1, description="Name of the task.")]
    modality: Annotated[Literal["ct", "mr", "other"], BeforeValidator(_lower), Field(description="ct, mr or other.")]
    train_data: Annotated[Path, Field(alias="train-data", description="Folder with one folder per training patient.")]
    test_data: Annotated[Path | None, Field(alias="test-data", description="The same for test patients.")] = None
    mask: Annotated[Patterns, Field(description="Strings that identify the file of the mask.")]
    images: Annotated[dict[str, Patterns], Field(min_length=1, description="The same for each channel.")]
    labels: Annotated[list[Label], Field(min_length=2, description="Integers in the masks, with 0 for background.")]
    final_classes: Annotated[
        dict[str, list[Label]] | None, Field(description="Classes to score; by default, each label is one.")
    ] = None
    patients: Annotated[
        Path | None, Field(description="Table with the column id and at least one of fold, group and stratum.")
    ] = None

    @model_validator(mode="before")
    @classmethod
    def _no_misspelling(cls, written: object) -> object:
        """Refuse keys that are nearly known ones; other keys are ignored as notes."""
        known = [field.alias or name for name, field in cls.model_fields.items()]
        meant = {
            str(key): difflib.get_close_matches(str(key), known, n=1, cutoff=_MISSPELLED)
            for key in (written if isinstance(written, dict) else ())
            if key not in known
        }
        wrong = [f"unknown key '{key}'. Did you mean '{near[0]}'?" for key, near in meant.items() if near]
        if wrong:
            raise ValueError(" ".join(wrong))
        return written

    @model_validator(mode="after")
    def _consistent(self) -> DatasetDescription:
        problems = []
        if 0 not in self.labels or len(set(self.labels)) != len(self.labels):
            problems.append(f"'labels' must contain 0 and no duplicates, got {few(self.labels, 20)}")
        for name in self.images:
            if name in RESERVED:
                problems.append(f"'images': the name '{name}' is reserved; choose another")
        for name, labels in (self.final_classes or {}).items():
            unknown = sorted(set(labels) - set(self.labels))
            if unknown:
                problems.append(f"'final_classes': '{name}' has labels that 'labels' does not list: {few(unknown)}")
            if not labels or 0 in labels:
                problems.append(f"'final_classes': '{name}' needs at least one label, and not the background 0")
        if problems:
            raise ValueError("; ".join(problems))
        return self

    @property
    def patterns(self) -> dict[str, list[str]]:
        """Strings that identify the file of each channel and of the mask."""
        return {**self.images, "mask": self.mask}

    @property
    def classes(self) -> dict[str, list[int]]:
        """Classes to score; by default, each label is one."""
        return self.final_classes or {f"label_{label}": [label] for label in sorted(self.labels) if label}


def read_description(path: Path) -> DatasetDescription:
    """Read dataset.json and resolve its folders.

    Raises:
        DatasetError: The file is missing or invalid, or a folder or table is missing; all mistakes are listed.
    """
    if not path.is_file():
        raise DatasetError(
            f"{path} does not exist. Give a dataset.json with --data.",  # pinned
            code="dataset-missing",
            file=path,
        )
    check_layout(path, "MIST")
    described = read_checked(path, DatasetDescription, DatasetError)
    folder = path.resolve().parent
    folders = {"train_data": folder / described.train_data}
    if described.test_data is not None:
        folders["test_data"] = folder / described.test_data
    missing = [_missing(key.replace("_", "-"), value, "folder") for key, value in folders.items() if not value.is_dir()]
    if described.patients is not None:
        folders["patients"] = folder / described.patients
        if not folders["patients"].is_file():
            missing.append(_missing("patients", folders["patients"], "table"))
    if missing:
        raise DatasetError.of(str(path), missing)
    return described.model_copy(update={**folders, "labels": sorted(described.labels)})


Layout = Literal["MIST", "nnU-Net", "Decathlon"]

_CONVERTERS: Mapping[Layout, str] = {"nnU-Net": "mist_convert_nnunet", "Decathlon": "mist_convert_msd"}


def check_layout(path: Path, expected: Layout) -> None:
    """Check that a dataset.json is not one of another known layout; files that cannot be read are not checked.

    Raises:
        DatasetError: It is; the message names the command that reads it.
    """
    try:
        written = read_object(path)
    except (OSError, ValueError):  # reported by the reader of the file
        return
    layout: Layout | None = None
    if "train-data" in written:
        layout = "MIST"
    elif "channel_names" in written and isinstance(written.get("labels"), dict):
        layout = "nnU-Net"
    elif isinstance(written.get("modality"), dict) and "training" in written:
        layout = "Decathlon"
    if layout in (None, expected):
        return
    advice = "Give it to mist_analyze with --data"
    if layout in _CONVERTERS:
        advice = f"Convert it with {_CONVERTERS[layout]} --source {path.parent} --output <folder>"
    raise DatasetError(
        f"{path} describes a dataset in the layout of {layout}. {advice}.",
        code="dataset-layout",
        file=path,
        found=layout,
        expected=expected,
    )


def _missing(field: str, path: Path, kind: str) -> DatasetError:
    return DatasetError(f"'{field}': the {kind} {path} does not exist.", code=f"{kind}-missing", file=path, field=field)


def is_movable(path: Path) -> bool:
    """Whether a dataset.json has relative paths, so that it can be moved together with its folders."""
    return not read_checked(path, DatasetDescription, DatasetError).train_data.is_absolute()


@dataclass(frozen=True)
class PatientTable:
    """Requested folds, groups and strata by patient id; each may lack patients.

    Attributes:
        fold_of: The fold that holds out a patient.
        group_of: Patients who must be in the same fold: a person scanned twice, a family, a site.
        stratum_of: Property to distribute evenly over the folds: a diagnosis, a scanner.
    """

    fold_of: Mapping[str, int] = field(default_factory=dict)
    group_of: Mapping[str, str] = field(default_factory=dict)
    stratum_of: Mapping[str, str] = field(default_factory=dict)

    @property
    def ids(self) -> set[str]:
        """All patients of the table."""
        return {*self.fold_of, *self.group_of, *self.stratum_of}


def read_patient_table(description: DatasetDescription) -> PatientTable:
    """Read the table ``patients`` of dataset.json; empty cells and missing columns are ignored."""
    if description.patients is None:
        return PatientTable()
    table = read_table(description.patients, required=("id",))
    columns = {
        name: {row["id"]: row[name] for row in table.rows if row[name]}
        for name in ("fold", "group", "stratum")
        if name in table.columns
    }
    if not columns:
        raise DatasetError(
            f"{description.patients} needs at least one of the columns fold, group and stratum. "
            f"It has: {few(table.columns, 20)}.",
            code="table-column-missing",
            file=description.patients,
            found=list(table.columns),
            expected=["fold", "group", "stratum"],
        )
    wrong = {case_id: fold for case_id, fold in columns.get("fold", {}).items() if not _FOLD.fullmatch(fold)}
    if wrong:
        shown = few([f"'{fold}' for {case_id}" for case_id, fold in wrong.items()])
        raise DatasetError(
            f"{description.patients}: fold must be integers from 0, got {shown}. Correct the table.",
            code="table-not-integer",
            file=description.patients,
            field="fold",
            found=wrong,
        )
    folds = {case_id: int(fold) for case_id, fold in columns.get("fold", {}).items()}
    return PatientTable(folds, columns.get("group", {}), columns.get("stratum", {}))


@dataclass(frozen=True)
class Case:
    """A patient: images by channel, in the order of the model's inputs, and its mask if there is one."""

    id: str
    images: Mapping[str, Path]
    mask: Path | None = None

    @property
    def files(self) -> tuple[Path, ...]:
        """Every file of the case, channels first."""
        return (*self.images.values(), *([self.mask] if self.mask else []))


@dataclass(frozen=True)
class Fold:
    """Patients of a fold: for training, for selecting the best weights, and held out for prediction."""

    index: int
    training: tuple[str, ...]
    validation: tuple[str, ...]
    held_out: tuple[str, ...]


def find_training_cases(description: DatasetDescription) -> list[Case]:
    """Training patients of a dataset, sorted by id.

    Raises:
        DatasetError: There are none, or files are missing or ambiguous; all such patients are listed.
    """
    return _cases(description.train_data, description.patterns)


def find_test_cases(description: DatasetDescription) -> list[Case]:
    """Test patients of a dataset, sorted by id; raises as ``find_training_cases``."""
    return _cases(description.test_data, description.images) if description.test_data else []


def listed_cases(description: DatasetDescription) -> dict[str, Case | None]:
    """Training patients of a dataset by id, sorted; None for one whose files are missing or ambiguous."""
    return _listed(description.train_data, description.patterns)


def listed_tests(description: DatasetDescription) -> dict[str, Case | None]:
    """Test patients of a dataset, as ``listed_cases``."""
    return _listed(description.test_data, description.images) if description.test_data else {}


def _listed(folder: Path, patterns: Mapping[str, Sequence[str]]) -> dict[str, Case | None]:
    found: dict[str, Case | None] = {}
    for patient in patient_folders(folder):
        problems: list[DatasetError] = []
        case = _case(patient, patterns, problems)
        found[patient.name] = None if problems else case
    return found


def patient_folders(folder: Path) -> list[Path]:
    """Folders of patients, sorted; files and hidden folders are skipped."""
    with os.scandir(folder) as entries:  # knows what is a folder without another look at each
        names = sorted(entry.name for entry in entries if _is_folder(entry) and not entry.name.startswith("."))
    return [folder / name for name in names]


def _cases(folder: Path, patterns: Mapping[str, Sequence[str]]) -> list[Case]:
    patients = patient_folders(folder)
    problems = [_broken_link(path) for path in sorted(folder.iterdir()) if _is_broken(path)]
    if not patients and not problems:
        raise DatasetError(
            f"{folder} holds no patients. It must contain one folder per patient.",  # pinned
            code="folder-empty",
            file=folder,
        )
    cases = [_case(patient, patterns, problems) for patient in patients]
    if problems:
        raise DatasetError.of(f"Patients in {folder} cannot be used", problems)
    return cases


def linked_away(cases: Iterable[Case], folder: Path) -> list[str]:
    """Ids of the cases with files outside a folder, to which links in it point."""
    inside = folder.resolve()
    return [case.id for case in cases if not all(path.resolve().is_relative_to(inside) for path in case.files)]


def _is_broken(path: Path) -> bool:
    return path.is_symlink() and not path.exists()


def _is_folder(entry: os.DirEntry[str]) -> bool:
    # Asked about a link to itself, an entry raises an error.
    return Path(entry).is_dir() if entry.is_symlink() else entry.is_dir()


def _links_to_file(entry: os.DirEntry[str]) -> bool:
    """Whether an entry of a folder is a link to a file, or a broken one."""
    return entry.is_symlink() and not Path(entry).is_dir()


def _broken_link(link: Path) -> DatasetError:
    return DatasetError(f"{link} is a broken link. Restore its target, or remove it.", code="link-broken", file=link)


def _case(patient: Path, patterns: Mapping[str, Sequence[str]], problems: list[DatasetError]) -> Case:
    with os.scandir(patient) as entries:
        files = [entry for entry in entries if entry.is_file(follow_symlinks=False) or _links_to_file(entry)]
    links = {entry.name for entry in files if entry.is_symlink()}
    names = sorted(entry.name for entry in files if not entry.name.startswith("."))
    matched: dict[str, str] = {}
    for key, strings in patterns.items():
        matches = _matches(names, strings)
        if len(matches) == 1:
            matched[key] = matches[0]
        else:
            problems.append(_unmatched(patient, key, strings, matches, names))
    found = {key: patient / name for key, name in matched.items()}
    problems += [_broken_link(found[key]) for key, name in matched.items() if name in links and _is_broken(found[key])]
    for name, count in Counter(matched.values()).items():
        if count > 1:
            claimed = [key for key, other in matched.items() if other == name]
            problems.append(
                DatasetError(
                    f"patient '{patient.name}': {name} matches {' and '.join(claimed)}. Use longer strings.",
                    code="file-ambiguous",
                    case=patient.name,
                    file=patient / name,
                    found=claimed,
                )
            )
    mask = found.pop("mask", None)
    return Case(check_id(patient.name, patient.parent), found, mask)


def _unmatched(
    patient: Path, key: str, strings: Sequence[str], matches: Sequence[str], names: Sequence[str]
) -> DatasetError:
    found = f"{counted(len(matches), 'file')} match: {few(matches)}" if matches else f"files are {few(names, 20)}"
    return DatasetError(
        f"patient '{patient.name}': exactly one file must match '{key}' ({' or '.join(strings)}); {found}.",
        code="file-ambiguous" if matches else "file-unmatched",
        case=patient.name,
        file=patient,
        field=key,
        found=list(matches or names),
        expected=list(strings),
    )


def _matches(names: Sequence[str], strings: Sequence[str]) -> list[str]:
    """Names that contain a string; names equal to one, or else ending in one, take precedence."""
    for matches in (str.__eq__, str.endswith, str.__contains__):
        found = [name for name in names if any(matches(name, string) for string in strings)]
        if found:
            return found
    return []


@dataclass(frozen=True)
class Assignment:
    """Rows of train_paths.csv.

    Attributes:
        cases: The cases, in the order of the file.
        fold_of: The fold that holds out each case.
        group_of: The group of each case that has one; a group is never split.
    """

    cases: tuple[Case, ...]
    fold_of: Mapping[str, int]
    group_of: Mapping[str, str] = field(default_factory=dict)

    def held_out(self, fold: int) -> tuple[str, ...]:
        """Ids of the cases that a fold holds out, in the order of the file."""
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
    """Write train_paths.csv: id, fold, mask, one column per channel and, if there are groups, the group.

    Args:
        path: The table.
        assignment: Its rows.
        relative_to: Folder to which the paths are made relative; None to keep them.
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
    """Read train_paths.csv; ids are text, and paths are those of ``Locator``."""
    table = read_table(path, required=("id", "fold", "mask"))
    if not table.rows:
        raise DatasetError(f"{path} has no rows. Run the analysis again.", code="table-empty", file=path)
    fold_of = dict(zip(table["id"], integers(table["fold"], path, "fold"), strict=True))
    group_of = {row["id"]: row["group"] for row in table.rows if row.get("group")}
    return Assignment(tuple(_cases_of(table, path)), fold_of, group_of)


def write_test_paths(path: Path, cases: Sequence[Case], relative_to: Path | None = None) -> None:
    """Write test_paths.csv: id and one column per channel; paths as in ``write_train_paths``."""
    write_rows([{"id": case.id, **_cells(case.images, relative_to)} for case in cases], path)


def read_paths(path: Path, channels: Sequence[str]) -> list[Case]:
    """Read a table of cases to predict: id and a column per channel, in any order; paths are those of ``Locator``."""
    return list(_cases_of(read_table(path, required=("id", *channels)), path, channels))


def _cells(files: Mapping[str, Path | None], relative_to: Path | None) -> dict[str, Path | str | None]:
    return {name: os.path.relpath(path, relative_to) if relative_to and path else path for name, path in files.items()}


def _cases_of(table: Table, path: Path, channels: Sequence[str] | None = None) -> list[Case]:
    names = [name for name in table.columns if name not in RESERVED] if channels is None else channels
    located = Locator(path)
    return [
        Case(
            row["id"],
            {name: located(row[name]) for name in names if row[name]},
            located(row["mask"]) if row.get("mask") else None,
        )
        for row in table.rows
    ]
