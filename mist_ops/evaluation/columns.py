"""The columns of a table of scores, each with its class and metric."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from mist_ops.errors import DatasetError
from mist_ops.evaluation.standings import Column
from mist_ops.evaluation.table import summary_path
from mist_ops.files import read_object
from mist_ops.registry import METRICS
from mist_ops.tables import SUMMARY_ROWS, read_table
from mist_ops.types import Json


def read_columns(path: Path) -> tuple[Sequence[str], dict[str, Column]]:
    """Read the ids of the patients, and the columns of known metrics by name; other columns are skipped.

    Raises:
        DatasetError: The table cannot be read, or a score is not a number.
    """
    table = read_table(path, required=("id",))
    patients = [row for row in table.rows if row["id"] not in SUMMARY_ROWS]
    ids = [row["id"] for row in patients]
    summary = read_summary_columns(path)
    columns = {}
    for name in table.columns:
        metric = summary.get(name, {}).get("metric") or _metric(name)
        if metric in METRICS:
            values = [_number(path, name, row[name]) for row in patients]
            columns[name] = Column(name.removesuffix(f"_{metric}"), metric, dict(zip(ids, values, strict=True)))
    return ids, columns


def read_summary_columns(path: Path) -> Mapping[str, Json]:
    """What the summary beside a table says of each column, such as its metric; empty without a summary."""
    try:
        return dict(read_object(summary_path(path)).get("columns", {}))
    except (OSError, ValueError, TypeError):  # of an earlier version, or missing
        return {}


def _number(path: Path, name: str, cell: str) -> float:
    try:
        return float(cell or math.nan)
    except ValueError as error:
        raise DatasetError(
            f"{path}: column '{name}' has the cell '{cell}', which is not a number. Correct it, or evaluate again.",
            code="score-not-number",
            file=path,
            field=name,
            found=cell,
        ) from error


def _metric(column: str) -> str:
    """The longest metric in whose name a column ends."""
    return max((name for name in METRICS if column.endswith(f"_{name}")), key=len, default="")
