"""What stands beside a table of results: who was scored, who failed and why, and how sure the means are."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from mist_ops.evaluation.score import Absent, CaseScores, Classes
from mist_ops.registry import METRICS
from mist_ops.types import Json

RESAMPLES = 10_000
LEVEL = 0.95

# Resampled values that are held at a time: 8 MB, whatever the number of patients.
_AT_ONCE = 1_000_000

Values = Float64[np.ndarray, "patient column"]


@dataclass(frozen=True)
class Interval:
    """A mean over patients and the bounds that hold it; all None if no patient has a value, the bounds if one has."""

    mean: float | None
    low: float | None
    high: float | None


def intervals(values: Values, seed: int = 0) -> list[Interval]:
    """The mean of each column over the patients that have a value, with the percentile bootstrap's 95 % interval.

    Patients are drawn with replacement, whole rows, 10000 times; a NaN is left out of the mean of its column. The same
    seed gives the same intervals. Efron, Tibshirani: An Introduction to the Bootstrap, 1993.
    """
    known = np.isfinite(values)
    filled = np.where(known, values, 0.0)
    with np.errstate(invalid="ignore"):
        drawn = [weights @ filled / (weights @ known) for weights in _draws(len(values), np.random.default_rng(seed))]
    means = np.concatenate(drawn) if drawn else np.empty((0, values.shape[1]))
    return [_interval(column[has], draws) for column, has, draws in zip(values.T, known.T, means.T, strict=True)]


def _draws(patients: int, generator: np.random.Generator) -> Iterator[Float64[np.ndarray, "draw patient"]]:
    """How often each patient was drawn, for as many draws at a time as fit in memory."""
    if patients == 0:
        return
    batch = max(1, _AT_ONCE // patients)
    for start in range(0, RESAMPLES, batch):
        draws = min(batch, RESAMPLES - start)
        chosen = generator.integers(patients, size=(draws, patients)) + patients * np.arange(draws)[:, None]
        yield np.bincount(chosen.ravel(), minlength=draws * patients).reshape(draws, patients).astype(np.float64)


def _interval(values: Float64[np.ndarray, " patient"], draws: Float64[np.ndarray, " draw"]) -> Interval:
    if not len(values):
        return Interval(None, None, None)
    mean = float(np.mean(values))
    if len(values) == 1:
        return Interval(mean, None, None)
    # A draw of patients without a value has no mean.
    low, high = np.quantile(draws[np.isfinite(draws)], [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(mean, float(low), float(high))


def summary(
    classes: Classes,
    rows: Mapping[str, CaseScores],
    failures: Mapping[str, str],
    absent: Absent = "best",
    seed: int = 0,
) -> Json:
    """The counts, the policy for absent classes, the failures, and each column's mean with its interval.

    Args:
        classes: What was scored.
        rows: The patients that could be scored.
        failures: The reasons of the others, by id.
        absent: What a class scored that is in neither mask.
        seed: Of the bootstrap.
    """
    return {
        "patients": {"given": len(rows) + len(failures), "scored": len(rows), "failed": len(failures)},
        "failures": dict(failures),
        "absent_in_both_masks": {
            "policy": absent,
            "patients": {
                name: [case_id for case_id, row in rows.items() if name in row.absent_classes] for name in classes
            },
        },
        "confidence": {
            "level": LEVEL,
            "method": "percentile bootstrap over patients",
            "resamples": RESAMPLES,
            "seed": seed,
        },
        "columns": _columns(classes, list(rows.values()), seed),
    }


def _columns(classes: Classes, rows: Sequence[CaseScores], seed: int) -> Json:
    wanted = {f"{name}_{metric}": metric for name, scored in classes.items() for metric in scored.metrics}
    values = np.array([[row.scores[column] for column in wanted] for row in rows], dtype=np.float64)
    values = values.reshape(len(rows), len(wanted))
    return {
        column: {
            "metric": metric,
            "unit": METRICS[metric].unit,
            "higher_is_better": METRICS[metric].higher_is_better,
            "patients": sum(math.isfinite(value) for value in values[:, place].tolist()),
            "mean": interval.mean,
            "low": interval.low,
            "high": interval.high,
        }
        for place, ((column, metric), interval) in enumerate(zip(wanted.items(), intervals(values, seed), strict=True))
    }
