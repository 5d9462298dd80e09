"""Reading and writing of CSV tables, with checks. What the columns mean belongs elsewhere."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

import pandas as pd

from mist_ops.errors import DatasetError, few, listing
from mist_ops.files import atomic
from mist_ops.study import analyzed_dataset, check_id, find_dataset

_UNKNOWN = "?"
"""Stands for the name of a folder that is not on record."""

_INTEGER = re.compile(r"\s*-?[0-9]+\s*")

SUMMARY_ROWS = ("Mean", "Std", "25th Percentile", "Median", "75th Percentile")
"""Ids of the summary rows at the end of a table of scores."""


def read_cells(path: Path) -> pd.DataFrame:
    """Read a CSV file as text; missing cells at the end of a row are empty.

    Raises:
        DatasetError: The file is missing or not a table, or a row has extra columns.
    """
    if not path.is_file():
        raise DatasetError(f"{path} does not exist. Check the path.", code="table-missing", file=path)
    try:
        with warnings.catch_warnings():
            # pandas only warns of extra columns; without ``index_col=False`` it shifts the others.
            warnings.simplefilter("error", pd.errors.ParserWarning)
            return pd.read_csv(
                path, dtype=str, keep_default_na=False, encoding="utf-8-sig", skipinitialspace=True, index_col=False
            ).fillna("")
    except (pd.errors.ParserWarning, pd.errors.ParserError) as error:
        # The parser reports the line only where an earlier one has fewer cells.
        line = re.search(r"in line (\d+), saw", str(error))
        if isinstance(error, ValueError) and not line:
            raise unreadable(path, error) from error
        raise DatasetError(
            f"{path} has extra columns in {f'line {line[1]}' if line else 'a row'}. Remove them.",
            code="table-extra-column",
            file=path,
            found=int(line[1]) if line else None,
        ) from error
    except (OSError, ValueError) as error:
        raise unreadable(path, error) from error


def unreadable(path: Path, error: Exception) -> DatasetError:
    """The error for a file that is not a table."""
    return DatasetError(
        f"{path} cannot be read as a table. Save it as CSV in UTF-8. ({str(error).strip().rstrip('.')})",
        code="table-unreadable",
        file=path,
    )


def read_table(path: Path, required: Sequence[str]) -> pd.DataFrame:
    """Read a CSV file as text, with required columns and unique ids.

    Raises:
        DatasetError: As ``read_cells``, or a column is missing, an id is duplicate or unsafe, or a cell is empty.
    """
    table = read_cells(path)
    missing = [name for name in required if name not in table.columns]
    if missing:
        merged = any(separator in name for name in table.columns for separator in ";\t")
        raise DatasetError(
            f"{path} lacks the {'column' if len(missing) == 1 else 'columns'} {', '.join(missing)}. "
            f"It has: {few(list(table.columns), 20)}. {'Separate them by commas' if merged else 'Add or rename them'}.",
            code="table-column-missing",
            file=path,
            found=list(table.columns),
            expected=missing,
        )
    twice = sorted(set(table["id"][table["id"].duplicated()]))
    empty = [f"row {row + 2}, column '{name}'" for name in required for row in table.index[table[name] == ""]]
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


def write_rows(rows: Sequence[Mapping[str, object]], path: Path) -> None:
    """Write a table atomically, with the columns of its first row."""
    with atomic(path) as temporary:
        pd.DataFrame(rows).to_csv(temporary, index=False)
