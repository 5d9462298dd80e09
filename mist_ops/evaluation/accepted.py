"""Scores held against those that were last accepted: in which of them a study got worse."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from mist_ops.errors import DatasetError, few
from mist_ops.evaluation.score import Classes
from mist_ops.evaluation.summary import intervals
from mist_ops.registry import METRICS
from mist_ops.tables import SUMMARY_ROWS, read_table


@dataclass(frozen=True)
class Regression:
    """A column that got worse: the mean of the differences on the same patients, with its 95 % interval.

    Differences are new minus accepted, in the unit of the metric.
    """

    column: str
    difference: float
    low: float
    high: float
    patients: int


def regressions(results: Path, accepted: Path, classes: Classes) -> list[Regression]:
    """The columns that are worse than accepted, beyond what another draw of patients would explain.

    Compared are patients with a score in both tables. A column is worse if the bootstrapped interval of the mean of the
    paired differences lies on the worse side of zero; one that only one table has is not compared.

    Raises:
        DatasetError: A table cannot be read.
    """
    directions = {
        f"{name}_{metric}": METRICS[metric].higher_is_better
        for name, wanted in classes.items()
        for metric in wanted.metrics
    }
    new, old = _scores(results), _scores(accepted)
    columns = [column for column in directions if column in new and column in old]
    ids = new.index.intersection(old.index)
    differences = (new.loc[ids, columns] - old.loc[ids, columns]).to_numpy(dtype=np.float64)
    found = []
    for column, interval, values in zip(columns, intervals(differences), differences.T, strict=True):
        if interval.mean is None or interval.low is None or interval.high is None:
            continue
        if interval.high < 0 if directions[column] else interval.low > 0:
            count = int(np.isfinite(values).sum())
            found.append(Regression(column, interval.mean, interval.low, interval.high, count))
    return found


def check_whole(results: Path, columns: Sequence[str]) -> None:
    """Refuse a table of results that lacks a column or the scores of a patient: nothing can be held against it.

    Raises:
        DatasetError: As ``read_table``, or there is no patient, or one without scores.
    """
    scores = read_table(results, required=("id",)).pipe(lambda table: table[~table["id"].isin(SUMMARY_ROWS)])
    missing = [name for name in columns if name not in scores]
    if missing:
        raise DatasetError(f"{results} lacks the columns {missing} that config.json asks for. Run mist_finalize.")
    failed = [row["id"] for row in scores.to_dict("records") if all(row[name] == "" for name in columns)]
    if scores.empty or failed:
        who = f"of {few(failed)}" if failed else "of anybody"
        raise DatasetError(f"{results} has no scores {who}. Run mist_finalize, which says why, before you accept.")


def _scores(path: Path) -> pd.DataFrame:
    table = read_table(path, required=("id",)).set_index("id")
    patients = table.loc[~table.index.isin(SUMMARY_ROWS)]
    return pd.DataFrame({column: pd.to_numeric(patients[column], errors="coerce") for column in patients.columns})
