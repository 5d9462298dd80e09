"""Scores of two models on the same patients, paired."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from mist_ops.evaluation.standings import Column
from mist_ops.evaluation.summary import intervals


@dataclass(frozen=True)
class PairedDifference:
    """How a score of B differs from that of A on the patients who have both.

    Attributes:
        column: Name of the column.
        difference: Mean of B minus A.
        low: Lower bound of its 95 % bootstrap interval; None with fewer than two patients.
        high: Upper bound; None with fewer than two patients.
        p: P-value of the two-sided Wilcoxon signed-rank test, without zero differences; 1 if all are zero.
        better: Patients who are better in B.
        worse: Patients who are worse in B.
        patients: Patients with both scores.
        by_patient: B minus A of each.
    """

    column: str
    difference: float
    low: float | None
    high: float | None
    p: float
    better: int
    worse: int
    patients: int
    by_patient: Mapping[str, float]


def paired_differences(first: Mapping[str, Column], second: Mapping[str, Column]) -> list[PairedDifference]:
    """Compare the columns that two tables share, without those that no patient has in both.

    Patients are drawn with replacement for the intervals, the same for all columns. P-values are not corrected for the
    number of columns. Wilcoxon: Individual Comparisons by Ranking Methods. Biometrics Bulletin 1945;1(6):80-83.
    """
    names = [name for name in first if name in second and first[name].metric == second[name].metric]
    ids = sorted({case_id for name in names for case_id in first[name].scores.keys() & second[name].scores.keys()})
    values = np.array(
        [[_difference(first[name], second[name], case_id) for name in names] for case_id in ids], dtype=np.float64
    ).reshape(len(ids), len(names))
    found = []
    for name, interval, column in zip(names, intervals(values), values.T, strict=True):
        if interval.mean is None:
            continue
        by_patient = {
            case_id: value for case_id, value in zip(ids, column.tolist(), strict=True) if math.isfinite(value)
        }
        signed = [first[name].sign * value for value in by_patient.values()]
        found.append(
            PairedDifference(
                column=name,
                difference=interval.mean,
                low=interval.low,
                high=interval.high,
                p=_p_value(list(by_patient.values())),
                better=sum(value > 0 for value in signed),
                worse=sum(value < 0 for value in signed),
                patients=len(by_patient),
                by_patient=by_patient,
            )
        )
    return found


def _difference(first: Column, second: Column, case_id: str) -> float:
    return second.scores.get(case_id, math.nan) - first.scores.get(case_id, math.nan)


def _p_value(differences: list[float]) -> float:
    from scipy.stats import wilcoxon  # takes 0.5 s to import

    if not any(differences):
        return 1.0
    return float(wilcoxon(differences, zero_method="wilcox", correction=False).pvalue)
