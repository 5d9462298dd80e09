"""Regressions of scores against an accepted baseline."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from mist_ops.errors import DatasetError, counted, few
from mist_ops.evaluation.score import Classes
from mist_ops.evaluation.summary import intervals
from mist_ops.registry import METRICS
from mist_ops.tables import SUMMARY_ROWS, read_table


@dataclass(frozen=True)
class Change:
    """Change of a column: mean paired difference (new minus accepted) with its 95 % interval.

    Attributes:
        column: The column.
        difference: The mean over the patients with both scores.
        low: Lower bound; None if there is a single patient.
        high: Upper bound; None if there is a single patient.
        patients: How many patients have both scores.
        higher_is_better: Whether higher scores are better.
    """

    column: str
    difference: float
    low: float | None
    high: float | None
    patients: int
    higher_is_better: bool

    @property
    def direction(self) -> Literal["better", "worse"] | None:
        """Whether the interval is entirely on one side of zero; None if it is not."""
        if self.low is None or self.high is None or self.low <= 0 <= self.high:
            return None
        return "better" if (self.low > 0) == self.higher_is_better else "worse"


def changes(results: Path, accepted: Path, classes: Classes) -> list[Change]:
    """How scores differ from the accepted ones: patients and columns that are in both tables, paired.

    Raises:
        DatasetError: A table cannot be read.
    """
    directions = {
        f"{name}_{metric}": METRICS[metric].higher_is_better
        for name, scored in classes.items()
        for metric in scored.metrics
    }
    (new, new_columns), (old, old_columns) = _scores(results), _scores(accepted)
    columns = [column for column in directions if column in new_columns and column in old_columns]
    ids = [case_id for case_id in new if case_id in old]
    differences = np.array([[_number(new[i][column]) - _number(old[i][column]) for column in columns] for i in ids])
    differences = differences.reshape(len(ids), len(columns))
    return [
        Change(column, interval.mean, interval.low, interval.high, int(np.isfinite(values).sum()), directions[column])
        for column, interval, values in zip(columns, intervals(differences), differences.T, strict=True)
        if interval.mean is not None
    ]


def regressions(results: Path, accepted: Path, classes: Classes) -> list[Change]:
    """Columns that are significantly worse than accepted: the whole interval is on the worse side of zero.

    Raises:
        DatasetError: A table cannot be read.
    """
    return [change for change in changes(results, accepted, classes) if change.direction == "worse"]


def check_whole(results: Path, columns: Sequence[str]) -> None:
    """Check that a table of results has all columns, and scores of every patient, before it becomes the baseline.

    Raises:
        DatasetError: As ``read_table``, or a column or the scores of a patient are missing, or there are no patients.
    """
    scores, known = _scores(results)
    missing = [name for name in columns if name not in known]
    if missing:
        raise DatasetError(
            f"{results} lacks {counted(len(missing), 'column')} of config.json: {few(missing)}. Run mist_finalize.",
            code="table-column-missing",
            file=results,
            found=list(known),
            expected=missing,
        )
    failed = [case_id for case_id, row in scores.items() if not any(row[name] for name in columns)]
    if failed or not scores:
        whose = f" of {few(failed)}" if failed else ""
        raise DatasetError(
            f"{results} has no scores{whose}. Run mist_finalize and fix what it reports.",
            code="scores-missing",
            file=results,
            found=failed,
        )


def _scores(path: Path) -> tuple[dict[str, Mapping[str, str]], tuple[str, ...]]:
    """The rows of the patients by id, and the columns."""
    table = read_table(path, required=("id",))
    return {row["id"]: row for row in table.rows if row["id"] not in SUMMARY_ROWS}, table.columns


def _number(cell: str) -> float:
    try:
        return float(cell)
    except ValueError:
        return math.nan
