"""Read tables of scores with the same patients and columns."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pandas as pd

from mist_ops.errors import DatasetError, counted, few, listing
from mist_ops.tables import SUMMARY_ROWS, read_cells

Missing = Literal["error", "worst", "drop"]
"""How missing scores are handled: raise an error, rank them last, or exclude their patients."""


@dataclass(frozen=True)
class Scores:
    """The scores of several strategies on the same patients.

    Attributes:
        tables: By strategy; patients are the index and metrics the columns, in the same order in all tables. Missing
            scores are NaN.
        excluded: Patients with a missing score, if those are dropped.
    """

    tables: dict[str, pd.DataFrame]
    excluded: list[str]


def read_scores(
    paths: Sequence[Path], names: Sequence[str] | None = None, id_column: str = "id", missing: Missing = "error"
) -> Scores:
    """Read tables of scores, with the patients sorted by id and the columns in the order of the first table.

    Args:
        paths: Two or more tables.
        names: A name for each; ``default_names`` if None.
        id_column: Column of the patient ids.
        missing: How missing scores are handled.

    Raises:
        DatasetError: A table cannot be read, or the tables do not match.
    """
    if len(paths) < 2:
        raise DatasetError(
            f"--results needs at least two tables; got {len(paths)}.",
            code="too-few-inputs",
            field="--results",
            found=len(paths),
        )
    names = default_names(paths) if names is None else check_names(names, len(paths))
    tables = [_read(path, id_column) for path in paths]
    _same_columns(paths, tables)
    patients = sorted(set().union(*(table.index for table in tables)))
    aligned = [table.reindex(patients)[tables[0].columns] for table in tables]
    gaps = pd.concat([table.isna().any(axis=1) for table in aligned], axis=1).any(axis=1)
    if missing == "error" and gaps.any():
        raise _scores_missing(paths, aligned)
    excluded = [str(patient) for patient in gaps[gaps].index] if missing == "drop" else []
    kept = {name: table.drop(index=excluded) for name, table in zip(names, aligned, strict=True)}
    if len(excluded) == len(patients):
        raise DatasetError(
            "No patient has all scores in all tables. Complete the tables, or give --missing worst.",
            code="scores-missing",
            field="--missing",
        )
    return Scores(kept, excluded)


def default_names(paths: Sequence[Path]) -> list[str]:
    """Names of tables: the stems of the files, with as many folders as needed to make them unique.

    ``a/results.csv`` and ``b/results.csv`` become ``a`` and ``b``; ``a/x.csv``, ``b/x.csv`` and ``y.csv`` become
    ``a/x``, ``b/x`` and ``y``.
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
    twice = [path for path, count in Counter(absolute).items() if count > 1]
    raise DatasetError(
        f"The same table was given twice: {few(twice)}. Give each table once.", code="input-duplicate", found=twice
    )


def check_names(names: Sequence[str], tables: int) -> list[str]:
    """Check that there is a name for each table, and return them.

    Raises:
        DatasetError: There are more or fewer, or a name is given twice.
    """
    if len(names) != tables:
        raise DatasetError(
            f"--names has {counted(len(names), 'name')} for {counted(tables, 'table')}. Give one for each table.",
            code="names-mismatch",
            field="--names",
            found=len(names),
            expected=tables,
        )
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise DatasetError(
            f"--names has {few(twice)} twice. Give each table its own name.",
            code="name-duplicate",
            field="--names",
            found=twice,
        )
    return list(names)


def _read(path: Path, id_column: str) -> pd.DataFrame:
    cells = read_cells(path)
    raw = pd.DataFrame(cells.rows, columns=list(cells.columns))
    if id_column not in raw.columns:
        advice = "Give --id-column." if len(raw.columns) > 1 else "Separate columns by commas."
        raise DatasetError(
            f"{path} lacks the column '{id_column}'. Found: {few(list(raw.columns))}. {advice}",
            code="table-column-missing",
            file=path,
            field=id_column,
            found=list(raw.columns),
        )
    if tuple(raw[id_column].tail(len(SUMMARY_ROWS))) == SUMMARY_ROWS:
        raw = raw.iloc[: -len(SUMMARY_ROWS)]
    table = raw.set_index(id_column)
    ids = list(table.index)
    problems = [f"duplicate id '{name}'" for name, count in Counter(ids).items() if name and count > 1]
    problems += [f"row {row} has no id" for row, name in enumerate(ids, start=2) if not name]
    problems += [
        f"'{name}' is the id of a summary row, which must be at the end" for name in SUMMARY_ROWS if name in ids
    ]
    problems += [] if ids else ["no patients"]
    problems += [] if len(table.columns) else [f"no column except '{id_column}'"]
    if problems:
        raise DatasetError(
            f"{path}: {listing(problems)}. Correct the table, or evaluate again.", code="table-invalid", file=path
        )
    return _as_numbers(path, table)


def _as_numbers(path: Path, table: pd.DataFrame) -> pd.DataFrame:
    numbers: pd.DataFrame = table.apply(pd.to_numeric, errors="coerce").astype(float)
    text = numbers.isna() & ~table.apply(lambda column: column.str.strip().str.lower()).isin(["", "nan", "na"])
    for row, column in zip(*text.to_numpy().nonzero(), strict=True):
        found = str(table.iat[int(row), int(column)])
        raise DatasetError(
            f"{path}: '{found}' in column '{table.columns[column]}' of patient '{table.index[row]}' is not a number. "
            "Correct it, or remove the column.",
            code="score-not-number",
            case=str(table.index[row]),
            file=path,
            field=str(table.columns[column]),
            found=found,
        )
    return numbers


def _same_columns(paths: Sequence[Path], tables: Sequence[pd.DataFrame]) -> None:
    for path, table in zip(paths[1:], tables[1:], strict=True):
        first, other = list(tables[0].columns), list(table.columns)
        differing = [f"column '{name}' is only in {paths[0]}" for name in first if name not in other]
        differing += [f"column '{name}' is only in {path}" for name in other if name not in first]
        if differing:
            raise DatasetError(
                f"The tables have different columns: {listing(differing)}. Evaluate all with the same metrics.",
                code="columns-differ",
                file=path,
                found=sorted(set(first) ^ set(other)),
            )


def _scores_missing(paths: Sequence[Path], tables: Sequence[pd.DataFrame], most: int = 5) -> DatasetError:
    gaps = [
        (path, str(patient), ", ".join(map(str, row.index[row])))
        for path, table in zip(paths, tables, strict=True)
        for patient, row in table.isna().iterrows()
        if row.any()
    ]
    shown = listing([f"{path}: patient '{patient}', {columns}" for path, patient, columns in gaps[:most]])
    more = f" and {len(gaps) - most} more" if len(gaps) > most else ""
    return DatasetError(
        f"Scores are missing. {shown}{more}. Complete the tables, rank missing scores last with "
        "--missing worst, or exclude the patients with --missing drop.",
        code="scores-missing",
        found=sorted({patient for _, patient, _ in gaps}),
    )
