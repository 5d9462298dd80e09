"""Tables of scores as they are read: one row a patient, one column a metric, the same of both in all tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pandas as pd

from mist_ops.errors import DatasetError, listing
from mist_ops.tables import SUMMARY_ROWS, read_cells

Missing = Literal["error", "worst", "drop"]
"""What a score that is not there means: no ranking, the last rank, or that its patient is left out."""


@dataclass(frozen=True)
class Scores:
    """The scores of several strategies on the same patients.

    Attributes:
        tables: By the name of the strategy; each has the patients as its index and the metrics as its columns, in
            the same order. A score that is missing is NaN.
        left_out: Patients that are missing somewhere and were dropped.
    """

    tables: dict[str, pd.DataFrame]
    left_out: list[str]


def read_scores(
    paths: Sequence[Path], names: Sequence[str] | None = None, id_column: str = "id", missing: Missing = "error"
) -> Scores:
    """Read tables of scores, and bring their patients and columns into one order: that of the ids, and of the first.

    Args:
        paths: Two or more tables.
        names: A name for each; ``default_names`` if None.
        id_column: Column of the patients.
        missing: What a score that is not there means.

    Raises:
        DatasetError: A table cannot be read, or the tables do not belong together.
    """
    if len(paths) < 2:
        raise DatasetError(f"A ranking compares two or more tables of scores, and {len(paths)} was given.")
    names = default_names(paths) if names is None else _checked_names(names, len(paths))
    tables = [_read(path, id_column) for path in paths]
    _same_columns(paths, tables)
    patients = sorted(set().union(*(table.index for table in tables)))
    aligned = [table.reindex(patients)[tables[0].columns] for table in tables]
    gaps = pd.concat([table.isna().any(axis=1) for table in aligned], axis=1).any(axis=1)
    if missing == "error" and gaps.any():
        raise DatasetError(_gaps_told(paths, aligned))
    left_out = [str(patient) for patient in gaps[gaps].index] if missing == "drop" else []
    kept = {name: table.drop(index=left_out) for name, table in zip(names, aligned, strict=True)}
    if not len(patients) - len(left_out):
        raise DatasetError("No patient has all scores in all tables, so there is nothing to rank.")
    return Scores(kept, left_out)


def default_names(paths: Sequence[Path]) -> list[str]:
    """The stems of the files or, where those are the same, as much of their folders as tells them apart.

    ``a/results.csv`` and ``b/results.csv`` are ``a`` and ``b``; ``a/x.csv``, ``b/x.csv`` and ``y.csv`` are ``a/x``,
    ``b/x`` and ``y``.
    """
    absolute = [path.expanduser().resolve() for path in paths]
    names = [path.stem for path in absolute]
    alike = len(set(names)) == 1
    for depth in range(1, max(len(path.parts) for path in absolute)):
        if not (shared := {name for name, count in Counter(names).items() if count > 1}):
            return names
        folders = ["/".join(path.parent.parts[-depth:]).lstrip("/") for path in absolute]
        names = [
            (folder if alike else f"{folder}/{path.stem}") if name in shared else name
            for name, folder, path in zip(names, folders, absolute, strict=True)
        ]
    raise DatasetError(f"The same table was given twice: {', '.join(map(str, paths))}. Give each once.")


def _checked_names(names: Sequence[str], tables: int) -> list[str]:
    if len(names) != tables:
        raise DatasetError(f"{tables} tables need as many names, and {len(names)} was given. Give one for each.")
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise DatasetError(f"The names {twice} were given twice. Give each table a name of its own.")
    return list(names)


def _read(path: Path, id_column: str) -> pd.DataFrame:
    raw = read_cells(path)
    if id_column not in raw.columns:
        advice = "Give --id-column." if len(raw.columns) > 1 else "Separate columns by commas."
        raise DatasetError(f"{path} lacks the column '{id_column}'. Found: {list(raw.columns)}. {advice}")
    if tuple(raw[id_column].tail(len(SUMMARY_ROWS))) == SUMMARY_ROWS:
        raw = raw.iloc[: -len(SUMMARY_ROWS)]
    table = raw.set_index(id_column)
    ids = list(table.index)
    problems = [f"the id {name!r} is given twice" for name, count in Counter(ids).items() if count > 1]
    problems += [f"row {row} has no id" for row, name in enumerate(ids, start=2) if not name]
    problems += [f"the row '{name}' is one of a summary, but not at its end" for name in SUMMARY_ROWS if name in ids]
    problems += [] if ids else ["it has no patients"]
    problems += [] if len(table.columns) else [f"it has no column besides '{id_column}'"]
    if problems:
        raise DatasetError(f"{path}: {listing(problems)}. Correct the table, or evaluate again.")
    return _as_numbers(path, table)


def _as_numbers(path: Path, table: pd.DataFrame) -> pd.DataFrame:
    numbers: pd.DataFrame = table.apply(pd.to_numeric, errors="coerce").astype(float)
    text = numbers.isna() & ~table.apply(lambda column: column.str.strip().str.lower()).isin(["", "nan", "na"])
    for row, column in zip(*text.to_numpy().nonzero(), strict=True):
        found = table.iat[int(row), int(column)]
        raise DatasetError(
            f"{path}: patient '{table.index[row]}' has {found!r} in the column '{table.columns[column]}', which is no "
            "number. Correct it, or remove the column."
        )
    return numbers


def _same_columns(paths: Sequence[Path], tables: Sequence[pd.DataFrame]) -> None:
    for path, table in zip(paths[1:], tables[1:], strict=True):
        first, other = list(tables[0].columns), list(table.columns)
        differing = [f"'{name}' stands in {paths[0]} alone" for name in first if name not in other]
        differing += [f"'{name}' stands in {path} alone" for name in other if name not in first]
        if differing:
            raise DatasetError(f"The tables have different columns: {listing(differing)}. Score them alike.")


def _gaps_told(paths: Sequence[Path], tables: Sequence[pd.DataFrame], most: int = 5) -> str:
    gaps = [
        f"{path}: patient '{patient}', {', '.join(map(str, row.index[row]))}"
        for path, table in zip(paths, tables, strict=True)
        for patient, row in table.isna().iterrows()
        if row.any()
    ]
    more = f" and {len(gaps) - most} more" if len(gaps) > most else ""
    return (
        f"Scores are missing. {listing(gaps[:most])}{more}. Complete them, or give --missing worst to rank them last, "
        "or --missing drop to leave their patients out."
    )
