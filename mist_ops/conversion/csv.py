"""Conversion of tables of paths to one folder per patient and a dataset.json."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from mist_ops.conversion.patients import (
    MASK,
    TEST,
    TRAIN,
    Converted,
    Patient,
    channel_problems,
    check_image,
    convert,
    described,
    labels_of,
    refuse_existing,
    write_patient,
)
from mist_ops.errors import DatasetError, few
from mist_ops.imaging.foreign import store_as_nifti
from mist_ops.study import check_id
from mist_ops.tables import Locator, Table, read_cells
from mist_ops.types import Json


@dataclass(frozen=True)
class CsvEntry(Patient):
    """A patient of a table: files by column, None for an empty cell."""

    files: Mapping[str, Path | None]


def convert_csv(
    train_csv: Path, test_csv: Path | None, output: Path, workers: int = 1, overwrite: bool = False
) -> Iterator[Converted[CsvEntry, list[int]]]:
    """Collect the files listed in tables in one folder per patient and, when exhausted, write a dataset.json.

    Files are named after their columns. NIfTI files keep their bytes (``.nii`` is compressed); other formats are
    converted. A patient that fails leaves no folder. Relative paths are relative to the table or, if a file only exists
    there, to the current folder.

    In dataset.json, ``labels`` are those in the masks; ``task``, ``modality`` and ``final_classes``, which tables do
    not contain, are null. The analysis requires the first two.

    Args:
        train_csv: Table with the columns ``id``, ``mask`` and one per channel, separated by commas, semicolons or tabs.
        test_csv: Table with the columns ``id`` and the same channels.
        output: Folder that gets ``raw/train``, ``raw/test`` and dataset.json.
        workers: Number of processes.
        overwrite: Replace a dataset in the output folder.

    Yields:
        The outcome of each patient, with the labels of its mask (empty for a test patient).

    Raises:
        DatasetError: A table is invalid, or the output holds a dataset (both before anything is written), or no
            training patient could be converted (at the end).
    """
    train = _read_table(train_csv, ("id", "mask"))
    images = [name for name in train.columns if name not in ("id", "mask")]
    entries = _entries(train_csv, train, output / TRAIN)
    if test_csv is not None:
        test = _read_table(test_csv, ("id",))
        if set(test.columns) - {"id"} != set(images):
            raise _columns_missing(test_csv, test.columns, ["id", *images], f", as {train_csv.name}")
        entries += _entries(test_csv, test, output / TEST)
    refuse_existing(output, overwrite)
    _refuse_own_files(entries, output)
    return convert(entries, _convert_entry, partial(_dataset_json, images), output, workers)


def _read_table(path: Path, leading: Sequence[str]) -> Table:
    table = read_cells(path)
    missing = [name for name in leading if name not in table.columns]
    if missing or len(table.columns) <= len(leading):
        raise _columns_missing(path, table.columns, leading, " and one per channel")
    if not table.rows:
        raise DatasetError(f"{path} has no rows. Add one per patient.", code="table-empty", file=path)
    problems = channel_problems(name for name in table.columns if name not in leading)
    for case_id, count in Counter(table["id"]).items():
        if count > 1:
            problems.append(
                DatasetError(f"duplicate id '{case_id}'; remove one", code="patient-duplicate", found=case_id)
            )
        try:
            check_id(case_id)
        except DatasetError as error:
            problems.append(error)
    if problems:
        raise DatasetError.of(str(path), problems)
    return table


def _columns_missing(path: Path, found: Sequence[str], expected: Sequence[str], suffix: str) -> DatasetError:
    return DatasetError(
        f"{path} must have the columns {', '.join(expected)}{suffix}. It has: {few(found, 20) or 'none'}. "
        "Add, rename or remove columns.",
        code="table-column-missing",
        file=path,
        found=list(found),
        expected=list(expected),
    )


def _entries(path: Path, table: Table, folder: Path) -> list[CsvEntry]:
    located = Locator(path)
    return [
        CsvEntry(
            row["id"],
            folder / row["id"],
            "mask" in row,
            {name: located(cell) if cell else None for name, cell in row.items() if name != "id"},
        )
        for row in table.rows
    ]


def _refuse_own_files(entries: Sequence[CsvEntry], output: Path) -> None:
    made = (output / "raw").resolve()
    own = [path for entry in entries for path in entry.files.values() if path and made in path.resolve().parents]
    if own:
        raise DatasetError(
            f"{own[0]} is in the output folder. Give another one with --output.", code="output-is-input", file=own[0]
        )


def _convert_entry(entry: CsvEntry) -> list[int]:
    return write_patient(entry, partial(_write, entry))


def _write(entry: CsvEntry, folder: Path) -> list[int]:
    empty = [name for name, path in entry.files.items() if path is None]
    if empty:
        raise DatasetError(
            f"empty cell in the {'column' if len(empty) == 1 else 'columns'} {', '.join(empty)}. Fill it, or remove "
            "the row.",
            code="table-cell-empty",
            found=empty,
        )
    labels: list[int] = []
    for name, path in entry.files.items():
        if path is not None:
            made = folder / f"{name}.nii.gz"
            store_as_nifti(path, made)
            if made.name == MASK:
                labels = labels_of(path, made)
            else:
                check_image(path, made)
    return labels


def _dataset_json(images: Sequence[str], converted: Sequence[Converted[CsvEntry, list[int]]]) -> Json:
    labels = {0}.union(*(outcome.result or [] for outcome in converted))
    return described(None, None, images, sorted(labels), None, converted)
