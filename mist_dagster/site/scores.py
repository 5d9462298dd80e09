"""The scores of a study: results.csv and the summary beside it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import fmean

from mist_dagster.site.contents import read_once
from mist_ops.evaluation.columns import read_columns, read_summary_columns
from mist_ops.evaluation.standings import Column, Ranking, formatted
from mist_ops.registry import METRICS
from mist_ops.study import Study
from mist_ops.types import Json


@dataclass(frozen=True)
class Scored:
    """The scores of a study.

    Attributes:
        columns: Class and metric of each column, with the scores of all patients.
        summary: What results_summary.json says of each column, such as its mean and interval.
        ids: Patients with a row.
    """

    columns: Mapping[str, Column]
    summary: Mapping[str, Json]
    ids: Sequence[str]

    @cached_property
    def overall(self) -> Ranking:
        """The patients ranked by their mean rank over all scores."""
        return Ranking({case_id: self._share(case_id) for case_id in self.ids})

    @cached_property
    def worst_first(self) -> list[str]:
        """All patients; those without scores come last."""
        return sorted(self.ids, key=lambda case_id: (self.overall.values.get(case_id, math.inf), case_id))

    @cached_property
    def first(self) -> list[str]:
        """The column with the first metric of each class."""
        names: dict[str, str] = {}
        for name, column in self.columns.items():
            names.setdefault(column.class_name, name)
        return list(names.values())

    def _share(self, case_id: str) -> float:
        standings = [column.ranking.standing(case_id) for column in self.columns.values()]
        shares = [standing.share for standing in standings if standing]
        return fmean(shares) if shares else math.nan

    def mean(self, name: str) -> str:
        """The mean of a column with its interval."""
        found, column = self.summary.get(name, {}), self.columns[name]
        if found.get("mean") is None:
            return "–"
        if found.get("low") is None or found.get("high") is None:
            return column.formatted(found["mean"])
        unit = METRICS[column.metric].unit
        return f"{formatted(found['mean'])} [{formatted(found['low'])}, {formatted(found['high'])}] {unit}".rstrip()


def scores_of(study: Study) -> Scored | None:
    """The scores of a study; None if it has none.

    Raises:
        DatasetError: A table cannot be read.
    """
    return read_once(_read, study.results_csv) if study.results_csv.exists() else None


def _read(path: Path) -> Scored:
    ids, columns = read_columns(path)
    return Scored(columns, read_summary_columns(path), ids)
