"""The scores in a pack: those of predictions that its models made, with intervals over patients."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from mist_ops.config import read_config
from mist_ops.errors import MistError, few
from mist_ops.evaluation.accepted import changes
from mist_ops.evaluation.summary import intervals
from mist_ops.evaluation.table import summary_path
from mist_ops.files import file_hash, read_object
from mist_ops.records.arrays import ArraysRecord
from mist_ops.records.prediction import PredictionRecord
from mist_ops.records.scores import ScoreInputs
from mist_ops.study import Study
from mist_ops.tables import SUMMARY_ROWS, read_table
from mist_ops.types import Json

_CLOSE = 1e-9


@dataclass(frozen=True)
class Scores:
    """Scores of held-out patients.

    Attributes:
        rows: Cells of results.csv by id and column, empty without a value.
        columns: Mean with interval, unit and direction of each column.
        confidence: How the intervals were computed.
        inputs: What the scores were computed from.
        accepted: The accepted scores, by hash, and the changes since; None if none were accepted.
    """

    rows: Mapping[str, Mapping[str, str]]
    columns: Mapping[str, Json]
    confidence: Json
    inputs: ScoreInputs
    accepted: Json | None


def read_scores(
    study: Study, arrays: Mapping[str, ArraysRecord], predictions: Mapping[str, PredictionRecord]
) -> Scores | str:
    """Read the scores of predictions, or return why they do not belong to them.

    Args:
        study: The study.
        arrays: Records of the arrays, with the hashes of the masks.
        predictions: Records of the predictions that count.
    """
    try:
        summary = read_object(summary_path(study.results_csv))
        inputs = ScoreInputs.model_validate(summary["inputs"])
        described = dict(summary["columns"])
        table = read_table(study.results_csv, required=("id",)).rows
    except (OSError, ValueError, KeyError, TypeError, MistError):
        return "the study has no scores with a record of their inputs"
    cells = {
        row["id"]: {column: row.get(column, "") for column in described}
        for row in table
        if row["id"] not in SUMMARY_ROWS
    }
    if not _same_means(described, cells):
        return "results.csv does not match results_summary.json"
    rows = {case_id: cells[case_id] for case_id in sorted(predictions) if case_id in cells}
    scored = [case_id for case_id, row in rows.items() if any(row.values())]
    if not scored:
        return "no prediction of these models was scored"
    other = [
        case_id
        for case_id in scored
        if inputs.predictions.get(case_id) != predictions[case_id].mask
        or (case_id in arrays and inputs.masks.get(case_id) != arrays[case_id].inputs.get("mask"))
    ]
    if other:
        return f"the scores of {few(other)} are those of another mask or prediction"
    return Scores(
        rows=rows,
        columns=described if rows.keys() == cells.keys() else _of_some(described, rows),
        confidence=dict(summary["confidence"]),
        inputs=_restricted(inputs, rows),
        accepted=_accepted(study),
    )


def number(cell: str) -> float:
    """The value of a cell; NaN if it is empty."""
    return float(cell) if cell else math.nan


def mean_of(rows: Mapping[str, Mapping[str, str]], column: str) -> float | None:
    """The mean of a column over the patients that have a value; None without any."""
    values = [value for row in rows.values() if math.isfinite(value := number(row[column]))]
    return sum(values) / len(values) if values else None


def close(first: float | None, second: float | None) -> bool:
    """Whether two means are equal up to rounding."""
    if first is None or second is None:
        return first is second
    return math.isclose(first, second, rel_tol=_CLOSE, abs_tol=_CLOSE)


def _same_means(described: Mapping[str, Any], rows: Mapping[str, Mapping[str, str]]) -> bool:
    return all(close(mean_of(rows, column), facts["mean"]) for column, facts in described.items())


def _of_some(described: Mapping[str, Json], rows: Mapping[str, Mapping[str, str]]) -> dict[str, Json]:
    """Mean and interval over some of the patients, to six digits: more depend on the processor."""
    values = np.array([[number(row[column]) for column in described] for row in rows.values()], dtype=np.float64)
    found = intervals(values)
    return {
        column: {
            **facts,
            "patients": int(np.isfinite(values[:, place]).sum()),
            **{name: _rounded(getattr(found[place], name)) for name in ("low", "high")},
            "mean": mean_of(rows, column),
        }
        for place, (column, facts) in enumerate(described.items())
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.6g}")


def _restricted(inputs: ScoreInputs, ids: Collection[str]) -> ScoreInputs:
    kept = {
        name: {case_id: each for case_id, each in getattr(inputs, name).items() if case_id in ids}
        for name in ("masks", "predictions")
    }
    return inputs.model_copy(update=kept)


def _accepted(study: Study) -> Json | None:
    """How the scores of the study differ from the accepted ones."""
    if not study.accepted_csv.is_file():
        return None
    found = changes(study.results_csv, study.accepted_csv, read_config(study.config).evaluation)
    shown = {
        change.column: {
            "difference": _rounded(change.difference),
            "low": _rounded(change.low),
            "high": _rounded(change.high),
            "patients": change.patients,
            "direction": change.direction,
        }
        for change in found
    }
    return {"scores": file_hash(study.accepted_csv), "changes": shown}
