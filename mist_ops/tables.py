"""Reading and writing of CSV tables, with checks. What the columns mean belongs elsewhere."""

from __future__ import annotations

import csv
import io
import math
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from mist_ops.errors import DatasetError, counted, few, listing
from mist_ops.files import atomic
from mist_ops.study import analyzed_dataset, check_id, find_dataset

_UNKNOWN = "?"
"""Stands for the name of a folder that is not on record."""

_DELIMITERS = ",;\t"

_INTEGER = re.compile(r"\s*-?[0-9]+\s*")

SUMMARY_ROWS = ("Mean", "Std", "25th Percentile", "Median", "75th Percentile")
"""Ids of the summary rows at the end of a table of scores."""


@dataclass(frozen=True)
class Table:
    """A table as text.

    Attributes:
        columns: Names of the columns.
        rows: The cells of each row by column, without white space around them; empty where a row ends early.
    """

    columns: tuple[str, ...]
    rows: tuple[Mapping[str, str], ...]

    def __getitem__(self, column: str) -> list[str]:
        return [row[column] for row in self.rows]


def read_cells(path: Path) -> Table:
    """Read a table separated by commas, semicolons or tabs; blank rows are skipped.

    Raises:
        DatasetError: The file is missing or not a table, a column is duplicate, or a row has extra cells.
    """
    path = path.expanduser()
    if not path.is_file():
        raise DatasetError(f"{path} does not exist. Check the path.", code="table-missing", file=path)
    try:
        text = path.read_text(encoding="utf-8-sig")
        delimiter = max(_DELIMITERS, key=text.partition("\n")[0].count)
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True, strict=True)
        lines = [(reader.line_num, [cell.strip() for cell in line]) for line in reader]
    except (OSError, ValueError, csv.Error) as error:
        raise unreadable(path, error) from error
    (_, head), *body = [(number, line) for number, line in lines if any(line)] or [(1, [])]
    columns = tuple(_without_empty_end(head))
    if not columns:
        raise unreadable(path, ValueError("It is empty."))
    twice = [name or "without a name" for name, count in Counter(columns).items() if count > 1]
    if twice:
        raise DatasetError(
            f"{path} has the column {few(twice)} twice. Remove one.", code="column-duplicate", file=path, found=twice
        )
    rows = []
    for number, line in body:
        cells = _without_empty_end(line)
        if len(cells) > len(columns):
            raise DatasetError(
                f"{path} has {len(cells)} cells for {counted(len(columns), 'column')} in line {number}. Remove the "
                "extra cells.",
                code="table-extra-column",
                file=path,
                found=number,
            )
        rows.append(dict(zip(columns, [*cells, *[""] * (len(columns) - len(cells))], strict=True)))
    return Table(columns, tuple(rows))


def _without_empty_end(cells: Sequence[str]) -> Sequence[str]:
    filled = [index for index, cell in enumerate(cells) if cell]
    return cells[: filled[-1] + 1] if filled else []


def unreadable(path: Path, error: Exception) -> DatasetError:
    """The error for a file that is not a table."""
    return DatasetError(
        f"{path} cannot be read as a table. Save it as CSV in UTF-8. ({str(error).strip().rstrip('.')})",
        code="table-unreadable",
        file=path,
    )


def read_table(path: Path, required: Sequence[str]) -> Table:
    """Read a table with required columns and unique ids.

    Raises:
        DatasetError: As ``read_cells``, or a column is missing, an id is duplicate or unsafe, or a cell is empty.
    """
    table = read_cells(path)
    missing = [name for name in required if name not in table.columns]
    if missing:
        raise DatasetError(
            f"{path} lacks the {'column' if len(missing) == 1 else 'columns'} {', '.join(missing)}. "
            f"It has: {few(table.columns, 20) or 'none'}. Add or rename them.",
            code="table-column-missing",
            file=path,
            found=list(table.columns),
            expected=missing,
        )
    twice = sorted(case_id for case_id, count in Counter(table["id"]).items() if count > 1)
    empty = [
        f"row {number}, column '{name}'"
        for name in required
        for number, row in enumerate(table.rows, start=2)
        if not row[name]
    ]
    if twice or empty:
        problems = [f"duplicate id '{case_id}'" for case_id in twice] + [f"{cell} is empty" for cell in empty]
        raise DatasetError(
            f"{path}: {listing(problems)}. Correct the table.",
            code="patient-duplicate" if twice else "table-cell-empty",
            file=path,
            found=twice or empty,
        )
    for case_id in table["id"]:
        check_id(case_id, path)
    return table


class Locator:
    """Absolute paths of the files in a table.

    A path is relative to the table; if the file is missing there, to the current folder; and if it is missing there as
    well, to the folder where the table was written, which is known from the dataset on record. So the tables in a copy
    of the results of a study lead to its dataset.

    Backslashes, with which Windows separates folders, are read as slashes unless a file has exactly that name.
    """

    def __init__(self, table: Path) -> None:
        self._given = table.expanduser().parent.absolute()
        self._folder = table.expanduser().resolve().parent

    def __call__(self, cell: str) -> Path:
        """The path of a file; relative to the table if it is missing everywhere and the dataset is not on record."""
        found = self._located(cell)
        return found if "\\" not in cell or found.is_file() else self._located(cell.replace("\\", "/"))

    def _located(self, cell: str) -> Path:
        # Joined as text: several objects for each path of thousands of patients take seconds.
        text = str(Path(cell).expanduser()) if cell.startswith("~") else cell
        absolute = text.startswith(os.sep)
        beside = Path(os.path.normpath(text if absolute else f"{self._folder}{os.sep}{text}"))
        if absolute or beside.is_file():
            return beside
        path = Path(text)
        return path.resolve() if path.is_file() else self._in_dataset(cell) or beside

    def cell(self, path: Path) -> str:
        """How a table in the results of a study names a file, in the same way as the tables of the analysis.

        Paths of files in the results are relative, and so are others unless dataset.json has absolute paths.
        """
        data, dataset = self._dataset
        file = path.absolute()
        for folder in (self._given, self._folder):
            if file.is_relative_to(folder):
                return str(file.relative_to(folder))
        if data is None or Path(data).is_absolute():
            return str(file)
        if dataset is None:
            return os.path.relpath(file, self._folder)
        return os.path.normpath(Path(data).parent / os.path.relpath(file, dataset.parent))

    @cached_property
    def _dataset(self) -> tuple[str | None, Path | None]:
        """The path of dataset.json in fingerprint.json, and the file."""
        return analyzed_dataset(self._folder), find_dataset(self._folder)

    def _in_dataset(self, cell: str) -> Path | None:
        data, dataset = self._dataset
        # A copy of the results has its own copy of the files in them.
        if data is None or dataset is None or not os.path.normpath(cell).startswith(os.pardir):
            return None
        # The names of the folders above the table are unknown, but not needed unless a path goes back into one.
        base = Path("/", *[_UNKNOWN] * (len(Path(data).parts) + len(Path(cell).parts)))
        relative = os.path.relpath(base / cell, base / Path(data).parent)
        return None if _UNKNOWN in relative else Path(os.path.normpath(dataset.parent / relative))


def integers(cells: Sequence[str], table: Path, columns: str) -> list[int]:
    """Parse cells of a table as integers.

    Args:
        cells: Their text.
        table: The table, for error messages.
        columns: Its columns that hold the cells, for error messages.

    Raises:
        DatasetError: A cell is not an integer.
    """
    wrong = [cell for cell in cells if not _INTEGER.fullmatch(cell)]
    if wrong:
        raise DatasetError(
            f"{table}: {columns} must be integers, got '{wrong[0]}'. Correct the table, or run the analysis again.",
            code="table-not-integer",
            file=table,
            field=columns,
            found=wrong[0],
        )
    return [int(cell) for cell in cells]


def write_rows(rows: Iterable[Mapping[str, object]], path: Path, columns: Sequence[str] | None = None) -> None:
    """Write a table atomically.

    Args:
        rows: Cells by column; None and NaN are written as empty cells, as is a missing one.
        path: The table.
        columns: Its columns; those of the first row if None.
    """
    rows = list(rows)
    header = list(rows[0]) if columns is None and rows else list(columns or ())
    with atomic(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, header, lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: _cell(value) for name, value in row.items()} for row in rows)


def _cell(value: object) -> object:
    return "" if isinstance(value, float) and math.isnan(value) else value
