"""Many predictions to a table: the pairs to score, a row for each, and five rows that sum them up."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pandas as pd

from mist_ops.dataset import read_table
from mist_ops.errors import CaseError, DatasetError, MistError
from mist_ops.evaluation.score import Classes, Scores, score
from mist_ops.files import atomic
from mist_ops.workers import Outcome, outcomes

SUMMARY = ("Mean", "Std", "25th Percentile", "Median", "75th Percentile")
"""Ids of the last rows of results.csv."""


@dataclass(frozen=True)
class Pair:
    """A mask and its prediction."""

    id: str
    mask: Path
    prediction: Path


def read_pairs(path: Path) -> list[Pair]:
    """Read a table with the columns id, mask and prediction; others are ignored. Relative paths are as they stand.

    Raises:
        DatasetError: As ``read_table``, or an id is that of a summary row.
    """
    table = read_table(path, required=("id", "mask", "prediction"))
    taken = sorted(set(table["id"]) & set(SUMMARY))
    if taken:
        raise DatasetError(f"{path}: the ids {taken} are those of summary rows in the results. Rename the patients.")
    return [Pair(row["id"], Path(row["mask"]), Path(row["prediction"])) for row in table.to_dict("records")]


def write_pairs(path: Path, pairs: Sequence[Pair]) -> None:
    """Write a table of pairs: id, mask, prediction."""
    _write(path, pd.DataFrame(pairs, columns=["id", "mask", "prediction"]))


def evaluate(
    pairs: Sequence[Pair], classes: Classes, workers: int = 1, known: Sequence[int] | None = None
) -> Iterator[Outcome[Pair, Scores]]:
    """Score every pair and yield the outcomes in the order of the pairs. Arguments are those of ``score``."""
    return outcomes(partial(_scored, classes, known), pairs, workers)


def _scored(classes: Classes, known: Sequence[int] | None, pair: Pair) -> Scores:
    try:
        return score(pair.mask, pair.prediction, classes, known)
    except MistError as error:
        raise CaseError(pair.id, str(error)) from error


def results_table(rows: Mapping[str, Scores], columns: Sequence[str]) -> pd.DataFrame:
    """The table of results: a row for each id in the order given, then the summary of each column.

    ``Std`` is that of the population, percentiles are interpolated linearly. Without rows there is no summary either.

    Args:
        rows: Scores by id.
        columns: Those of the scores, from ``score.columns``.
    """
    scores = pd.DataFrame(list(rows.values()), index=list(rows), columns=list(columns), dtype=float)
    if rows:
        summary = [scores.mean(), scores.std(ddof=0), *(scores.quantile(q) for q in (0.25, 0.5, 0.75))]
        scores = pd.concat([scores, pd.DataFrame(summary, index=list(SUMMARY))])
    scores.insert(0, "id", scores.index)
    return scores.reset_index(drop=True)


def write_results(path: Path, rows: Mapping[str, Scores], columns: Sequence[str]) -> None:
    """Write results.csv atomically; see ``results_table``."""
    _write(path, results_table(rows, columns))


def worst_first(rows: Mapping[str, Scores]) -> list[dict[str, str | float]]:
    """The rows with their ids, those of the lowest score in the first column first."""
    return sorted(
        ({"id": case_id, **scores} for case_id, scores in rows.items()), key=lambda row: list(row.values())[1:2]
    )


def read_summary(path: Path, row: str = "Mean") -> dict[str, float]:
    """A row of the summary of a results.csv, by column; empty if no case was scored."""
    table = pd.read_csv(path, dtype={"id": str}, keep_default_na=False).set_index("id")
    [values] = table.loc[table.index == row].to_dict("records") or [{}]
    return {str(column): float(value) for column, value in values.items()}


def _write(path: Path, table: pd.DataFrame) -> None:
    with atomic(path) as temporary:
        table.to_csv(temporary, index=False)
