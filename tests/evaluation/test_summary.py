from __future__ import annotations

import json
import math

import numpy as np
import pytest
from scipy.stats import bootstrap

from mist_ops.config import EvaluationClass
from mist_ops.evaluation.score import CaseScores
from mist_ops.evaluation.summary import Interval, intervals, summary

CLASSES = {"C": EvaluationClass(labels=[1], metrics={"dice": {}, "haus95": {}})}


def column(*values: float) -> np.ndarray:
    return np.array(values, dtype=np.float64)[:, None]


def test_intervals_equal_those_of_scipy() -> None:
    values = np.random.default_rng(0).normal(0.8, 0.1, 60)
    expected = bootstrap((values,), np.mean, method="percentile", rng=np.random.default_rng(1)).confidence_interval
    [found] = intervals(values[:, None])
    assert found.mean == pytest.approx(values.mean())
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=2e-3)


def test_the_same_seed_gives_the_same_interval() -> None:
    values = np.random.default_rng(0).random((20, 2))
    assert intervals(values, seed=3) == intervals(values, seed=3)
    assert intervals(values, seed=3) != intervals(values, seed=4)


def test_missing_values_are_excluded() -> None:
    sparse = np.concatenate([column(*np.linspace(0, 1, 30)), np.full((30, 1), np.nan)])
    [found], [whole] = intervals(sparse), intervals(sparse[:30])
    assert found.mean == whole.mean == pytest.approx(0.5)
    assert (found.low, found.high) == pytest.approx((whole.low, whole.high), abs=0.02)


def test_few_patients_have_no_interval() -> None:
    assert intervals(column(0.5, math.nan)) == [Interval(0.5, None, None)]
    assert intervals(column(math.nan)) == [Interval(None, None, None)]
    assert intervals(np.empty((0, 1))) == [Interval(None, None, None)]


def test_thousands_of_patients_are_drawn_in_batches() -> None:
    [found] = intervals(np.random.default_rng(0).normal(0.0, 1.0, (3000, 1)))
    assert found.low is not None
    assert found.high is not None
    assert found.high - found.low == pytest.approx(2 * 1.96 / math.sqrt(3000), rel=0.05)


def test_the_summary_without_patients_is_valid_json() -> None:
    found = json.loads(json.dumps(summary(CLASSES, {}, {"a": "gone"}), allow_nan=False))
    assert found["patients"] == {"given": 1, "scored": 0, "failed": 1}
    assert found["columns"]["C_haus95"]["mean"] is None


def test_each_column_has_its_unit_and_direction() -> None:
    rows = {case_id: CaseScores({"C_dice": 0.5, "C_haus95": 2.0}) for case_id in "ab"}
    found = summary(CLASSES, rows, {})["columns"]["C_haus95"]
    assert (found["unit"], found["higher_is_better"], found["patients"], found["low"]) == ("mm", False, 2, 2.0)
