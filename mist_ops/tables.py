"""Tables as people make them: CSV files of text, read with care. What a table is about belongs elsewhere."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import pandas as pd

from mist_ops.errors import DatasetError, listing
from mist_ops.files import atomic
from mist_ops.study import check_id

_WHOLE = re.compile(r"\s*-?[0-9]+\s*")

SUMMARY_ROWS = ("Mean", "Std", "25th Percentile", "Median", "75th Percentile")
"""Ids of the last rows of a table of scores, which sum up the others."""


def read_cells(path: Path) -> pd.DataFrame:
    """Read a CSV as text; cells that a row lacks at its end are empty.

    Raises:
        DatasetError: No such file, no table, or a row has more cells than there are columns.
    """
    if not path.is_file():
        raise DatasetError(f"There is no table {path}. Check the path.")
    try:
        with warnings.catch_warnings():
            # All that pandas has against a surplus cell; unless told that no column is an index, it moves the others.
            warnings.simplefilter("error", pd.errors.ParserWarning)
            return pd.read_csv(
                path, dtype=str, keep_default_na=False, encoding="utf-8-sig", skipinitialspace=True, index_col=False
            ).fillna("")
    except (pd.errors.ParserWarning, pd.errors.ParserError) as error:
        # The parser tells the line where others have fewer cells.
        line = re.search(r"in line (\d+), saw", str(error))
        if isinstance(error, ValueError) and not line:
            raise DatasetError(f"{path} cannot be read as a table: {str(error).strip()}. Correct it.") from error
        row = f"a row with more cells than columns{f' (line {line[1]})' if line else ''}"
        raise DatasetError(f"{path} has {row}. Remove those that are too many.") from error
    except (OSError, ValueError) as error:
        raise DatasetError(
            f"{path} cannot be read as a table: {str(error).strip()}. Save it as CSV in UTF-8."
        ) from error


def read_table(path: Path, required: Sequence[str]) -> pd.DataFrame:
    """Read a CSV as text, with the required columns and no id twice.

    Raises:
        DatasetError: No such file, not a table, a column missing, an id given twice or unsafe, an empty cell.
    """
    table = read_cells(path)
    missing = [name for name in required if name not in table.columns]
    if missing:
        merged = any(separator in name for name in table.columns for separator in ";\t")
        advice = "Separate them by commas." if merged else "Add or rename them."
        raise DatasetError(f"{path} lacks the columns {missing}. Found: {list(table.columns)}. {advice}")
    twice = sorted(set(table["id"][table["id"].duplicated()]))
    empty = [f"row {row + 2}, column '{name}'" for name in required for row in table.index[table[name] == ""]]
    if twice or empty:
        problems = [f"the id {case_id!r} is given twice" for case_id in twice] + [f"{cell} is empty" for cell in empty]
        raise DatasetError(f"{path}: {listing(problems)}. Correct the table.")
    for case_id in table["id"]:
        check_id(case_id, path)
    return table


def located(cell: str, table: Path) -> Path:
    """The file that a cell of a table names: beside the table, or else where there is one in the current folder."""
    beside = Path(os.path.normpath(table.expanduser().resolve().parent / Path(cell).expanduser()))
    here = Path(cell).expanduser()
    return here.resolve() if here.is_file() and not beside.is_file() else beside


def whole_numbers(cells: Iterable[str], where: str) -> list[int]:
    """The numbers in some cells of a table; a ``DatasetError`` that says where they stand if one is none."""
    wrong = [cell for cell in cells if not _WHOLE.fullmatch(cell)]
    if wrong:
        raise DatasetError(f"{where} must hold whole numbers, found {wrong[0]!r}. Correct it or analyze again.")
    return [int(cell) for cell in cells]


def write_rows(rows: Sequence[Mapping[str, object]], path: Path) -> None:
    """Write a table atomically, with the columns of its first row."""
    with atomic(path) as temporary:
        pd.DataFrame(rows).to_csv(temporary, index=False)
