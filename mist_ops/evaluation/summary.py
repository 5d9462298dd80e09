"""The summary beside a table of results: counts, failures, and means with confidence intervals."""

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

# Resampled values in memory at a time: 8 MB, whatever the number of patients.
_AT_ONCE = 1_000_000

Values = Float64[np.ndarray, "patient column"]


@dataclass(frozen=True)
class Interval:
    """Mean over patients with its interval; without a value all are None, with a single value the bounds."""

    mean: float | None
    low: float | None
    high: float | None


def intervals(values: Values, seed: int = 0) -> list[Interval]:
    """Mean of each column with the 95 % interval of the percentile bootstrap.

    Patients (whole rows) are drawn with replacement 10,000 times; NaN is excluded from the mean of its column. Efron,
    Tibshirani: An Introduction to the Bootstrap, 1993.
    """
    known = np.isfinite(values)
    filled = np.where(known, values, 0.0)
    with np.errstate(invalid="ignore"):
        drawn = [weights @ filled / (weights @ known) for weights in _draws(len(values), np.random.default_rng(seed))]
    means = np.concatenate(drawn) if drawn else np.empty((0, values.shape[1]))
    return [_interval(column[has], draws) for column, has, draws in zip(values.T, known.T, means.T, strict=True)]


def _draws(patients: int, generator: np.random.Generator) -> Iterator[Float64[np.ndarray, "draw patient"]]:
    """Counts of each patient per draw, in batches of draws that fit in memory."""
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
    # A draw without any value has no mean.
    low, high = np.quantile(draws[np.isfinite(draws)], [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(mean, float(low), float(high))


def summary(
    classes: Classes,
    rows: Mapping[str, CaseScores],
    failures: Mapping[str, str],
    absent: Absent = "best",
    seed: int = 0,
) -> Json:
    """Counts, failures, absent classes, and the mean of each column with its interval.

    Args:
        classes: The scored classes.
        rows: Scores by id.
        failures: Reasons by id, of patients without scores.
        absent: Score of a class that is in neither mask.
        seed: Seed of the bootstrap.
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
    metric_of = {f"{name}_{metric}": metric for name, scored in classes.items() for metric in scored.metrics}
    values = np.array([[row.scores[column] for column in metric_of] for row in rows], dtype=np.float64)
    values = values.reshape(len(rows), len(metric_of))
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
        for place, ((column, metric), interval) in enumerate(
            zip(metric_of.items(), intervals(values, seed), strict=True)
        )
    }
