"""Paired differences of two tables of scores."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import wilcoxon

from mist_ops.evaluation.paired import paired_differences
from mist_ops.evaluation.standings import Column


def columns(dice: dict[str, float], distance: dict[str, float] | None = None) -> dict[str, Column]:
    found = {"lesion_dice": Column("lesion", "dice", dice)}
    return found if distance is None else {**found, "lesion_haus95": Column("lesion", "haus95", distance)}


def test_the_difference_is_of_the_patients_with_both_scores() -> None:
    one = columns({"a": 0.5, "b": 0.6, "c": math.nan, "only_a": 0.1})
    other = columns({"a": 0.75, "b": 0.6, "c": 0.9, "only_b": 0.2})
    (found,) = paired_differences(one, other)
    assert found.by_patient == {"a": 0.25, "b": 0.0}
    assert (found.difference, found.patients, found.better, found.worse) == (0.125, 2, 1, 0)


def test_lower_distances_are_better() -> None:
    one = columns({"a": 0.5, "b": 0.5}, {"a": 4.0, "b": 4.0})
    other = columns({"a": 0.5, "b": 0.5}, {"a": 3.0, "b": 2.0})
    dice, distance = paired_differences(one, other)
    assert (dice.better, dice.worse, dice.p) == (0, 0, 1.0)
    assert (distance.better, distance.worse, distance.difference) == (2, 0, -1.5)


def test_interval_and_p_value_are_those_of_bootstrap_and_scipy() -> None:
    generator = np.random.default_rng(0)
    ids = [f"p{place}" for place in range(60)]
    one = dict(zip(ids, generator.uniform(0.4, 0.9, 60).tolist(), strict=True))
    other = {case_id: value + float(generator.normal(0.03, 0.05)) for case_id, value in one.items()}
    (found,) = paired_differences(columns(one), columns(other))
    differences = np.array([other[case_id] - one[case_id] for case_id in ids])
    assert found.difference == pytest.approx(differences.mean())
    error = differences.std(ddof=1) / math.sqrt(60)
    assert found.low == pytest.approx(differences.mean() - 1.96 * error, abs=0.3 * error)
    assert found.high == pytest.approx(differences.mean() + 1.96 * error, abs=0.3 * error)
    assert found.p == pytest.approx(wilcoxon(differences).pvalue)


def test_columns_without_a_common_patient_or_of_another_metric_are_excluded() -> None:
    assert paired_differences(columns({"a": 0.5}), columns({"b": 0.5})) == []
    other = {"lesion_dice": Column("lesion", "haus95", {"a": 1.0})}
    assert paired_differences(columns({"a": 0.5}), other) == []
