"""Tables of paths to a folder per patient and a dataset.json."""

from __future__ import annotations

import csv
import io
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
    labels_of,
    refuse_existing,
    write_patient,
)
from mist_ops.errors import DatasetError, MistError, listing
from mist_ops.imaging.foreign import store_as_nifti
from mist_ops.study import check_id
from mist_ops.tables import located
from mist_ops.types import Json

_DELIMITERS = ",;\t"


@dataclass(frozen=True)
class CsvEntry(Patient):
    """A patient of a table: its files by column, with None for an empty cell."""

    files: Mapping[str, Path | None]


@dataclass(frozen=True)
class _Table:
    """The rows of a table, each with a cell for every column, as text without spaces around it."""

    path: Path
    columns: tuple[str, ...]
    rows: tuple[Mapping[str, str], ...]

    def images(self) -> list[str]:
        return [name for name in self.columns if name not in ("id", "mask")]


def convert_csv(
    train_csv: Path, test_csv: Path | None, output: Path, workers: int = 1, overwrite: bool = False
) -> Iterator[Converted[CsvEntry, list[int]]]:
    """Gather the files that tables list into a folder per patient and, when exhausted, write a dataset.json.

    Files are named after their columns. NIfTI files keep their bytes (``.nii`` is compressed); other formats are
    converted. A patient that fails leaves no folder. A path that is not absolute is looked for beside its table, and
    then in the current folder.

    In dataset.json ``labels`` are those found in the masks; ``task``, ``modality`` and ``final_classes``, which no
    table tells, are null. The analysis asks for the first two.

    Args:
        train_csv: Columns ``id``, ``mask`` and one per channel, separated by commas, semicolons or tabs.
        test_csv: Columns ``id`` and the same channels.
        output: Folder that gets ``raw/train``, ``raw/test`` and dataset.json.
        workers: Processes to use.
        overwrite: Replace a dataset that is in the output folder.

    Yields:
        What became of each patient, with the labels in its mask (none for a test patient).

    Raises:
        DatasetError: A table is none, or the output holds a dataset already: at once and before anything is written.
            Or no training patient could be converted, at the end.
    """
    train = _read_table(train_csv, ("id", "mask"))
    entries = _entries(train, output / TRAIN)
    if test_csv is not None:
        test = _read_table(test_csv, ("id",))
        if set(test.columns) - {"id"} != set(train.images()):
            raise DatasetError(
                f"{test_csv} must have the columns {['id', *train.images()]}, the channels of {train_csv.name}. "
                f"Found: {[*test.columns]}. Add, rename or remove columns."
            )
        entries += _entries(test, output / TEST)
    refuse_existing(output, overwrite)
    _refuse_own_files(entries, output)
    return convert(entries, _convert_entry, partial(_dataset_json, train.images()), output, workers)


def _read_table(path: Path, leading: Sequence[str]) -> _Table:
    columns, rows = _read_rows(path)
    missing = [name for name in leading if name not in columns]
    if missing or len(columns) <= len(leading):
        wanted = f"the columns {[*leading]} and one per channel"
        raise DatasetError(f"{path} must have {wanted}. Found: {list(columns)}. Add or rename columns.")
    if not rows:
        raise DatasetError(f"{path} lists no patient. Add a row for each.")
    problems = channel_problems(name for name in columns if name not in leading)
    problems += [f"the column {name!r} is given twice" for name in leading if columns.count(name) > 1]
    ids = Counter(row["id"] for row in rows)
    problems += [f"the id {case_id!r} is given twice; keep one" for case_id, count in ids.items() if count > 1]
    for case_id in ids:
        try:
            check_id(case_id)
        except MistError as error:
            problems.append(str(error))
    if problems:
        raise DatasetError(f"{path}: {listing(problems)}")
    return _Table(path, columns, rows)


def _read_rows(path: Path) -> tuple[tuple[str, ...], tuple[Mapping[str, str], ...]]:
    """The names of the columns and the rows that are not blank. Cells beyond the last column must be empty."""
    if not path.expanduser().is_file():
        raise DatasetError(f"There is no table {path}. Check the path.")
    try:
        text = path.expanduser().read_text(encoding="utf-8-sig")
        delimiter = max(_DELIMITERS, key=text.partition("\n")[0].count)
        reader = csv.reader(io.StringIO(text), delimiter=delimiter, skipinitialspace=True, strict=True)
        lines = [(reader.line_num, [cell.strip() for cell in line]) for line in reader]
    except (OSError, ValueError, csv.Error) as error:
        raise DatasetError(f"{path} cannot be read as a table in UTF-8: {error}. Save it anew.") from error
    (_, head), *body = [(number, line) for number, line in lines if any(line)] or [(1, [])]
    columns = tuple(_without_empty_end(head))
    rows = []
    for number, line in body:
        cells = _without_empty_end(line)
        if len(cells) > len(columns):
            raise DatasetError(f"{path}, line {number} has {len(cells)} cells for {len(columns)} columns. Correct it.")
        rows.append(dict(zip(columns, [*cells, *[""] * (len(columns) - len(cells))], strict=True)))
    return columns, tuple(rows)


def _without_empty_end(cells: Sequence[str]) -> Sequence[str]:
    filled = [index for index, cell in enumerate(cells) if cell]
    return cells[: filled[-1] + 1] if filled else []


def _entries(table: _Table, folder: Path) -> list[CsvEntry]:
    return [
        CsvEntry(
            row["id"],
            folder / row["id"],
            "mask" in row,
            {name: _locate(cell, table.path) for name, cell in row.items() if name != "id"},
        )
        for row in table.rows
    ]


def _locate(cell: str, table: Path) -> Path | None:
    return located(cell, table) if cell else None


def _refuse_own_files(entries: Sequence[CsvEntry], output: Path) -> None:
    made = (output / "raw").resolve()
    own = [path for entry in entries for path in entry.files.values() if path and made in path.resolve().parents]
    if own:
        raise DatasetError(f"{own[0]} lies in the folder that is to be written. Name another one with --output.")


def _convert_entry(entry: CsvEntry) -> list[int]:
    return write_patient(entry, partial(_write, entry))


def _write(entry: CsvEntry, folder: Path) -> list[int]:
    empty = [name for name, path in entry.files.items() if path is None]
    if empty:
        raise DatasetError(f"the cells of {empty} are empty. Name its files, or remove the row.")
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
    has_test = not all(outcome.item.training for outcome in converted)
    return {
        "task": None,
        "modality": None,
        "train-data": TRAIN,
        **({"test-data": TEST} if has_test else {}),
        "mask": [MASK],
        "images": {name: [f"{name}.nii.gz"] for name in images},
        "labels": sorted(labels),
        "final_classes": None,
    }
