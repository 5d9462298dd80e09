from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import binom

from mist_ops.calibration.conformal import Interval, interval, ranks


@pytest.mark.parametrize(
    "count, expected", [(18, None), (19, (1, 19)), (38, (1, 37)), (99, (5, 95)), (1000, (50, 951))]
)
def test_ranks_leave_as_many_errors_outside_as_the_coverage_allows(
    count: int, expected: tuple[int, int] | None
) -> None:
    assert ranks(count) == expected


@pytest.mark.parametrize("count", [19, 30, 38, 61])
@pytest.mark.parametrize("bias", [0.0, 0.4])
def test_intervals_contain_nine_of_ten_new_volumes(count: int, bias: float) -> None:
    """By simulation: the number of covered volumes is binomial with the exact probability of the ranks."""
    generator = np.random.default_rng([count, round(10 * bias)])
    low, high = ranks(count) or (0, 0)
    exact, trials = (high - low) / (count + 1), 3000
    assert 0.9 <= exact < 0.9 + 1 / (count + 1) + 1e-12

    covered = 0
    for _ in range(trials):
        predictions = np.exp(generator.normal(0.5, 0.3, count + 1))
        # Heavy tails: nothing is assumed of the distribution of errors.
        truths = predictions * np.exp(bias + 0.1 * generator.standard_t(3, count + 1))
        found = interval(truths[:-1].tolist(), predictions[:-1].tolist())
        assert found is not None
        covered += found.contains(truths[-1], predictions[-1])

    least, most = binom.ppf([0.0005, 0.9995], trials, exact)
    assert least <= covered <= most


def test_an_interval_by_hand() -> None:
    truths = [1.0 + 0.01 * index for index in range(19)]
    found = interval(truths, [1.0] * 19)

    assert found is not None
    assert found.offset == pytest.approx(0.01 * 1.09)
    low, high = found.around(2.0)
    assert low == pytest.approx((2 + found.offset) * 1.0 - found.offset)
    assert high == pytest.approx((2 + found.offset) * (1.18 + found.offset) / (1 + found.offset) - found.offset)


def test_a_bias_is_corrected() -> None:
    generator = np.random.default_rng(0)
    truths = generator.uniform(2, 4, 50)
    found = interval(truths.tolist(), (1.3 * truths * generator.uniform(0.98, 1.02, 50)).tolist())

    assert found is not None
    low, high = found.around(1.3)
    assert 0.95 < low < 1 < high < 1.05


def test_a_missing_structure_has_an_interval_from_zero() -> None:
    assert Interval(-0.5, 0.5, 0.02).around(0.0)[0] == 0.0
    assert Interval(-0.5, 0.5, 0.02).around(0.0)[1] == pytest.approx(0.02 * (math.exp(0.5) - 1))


def test_classes_that_no_mask_has_and_few_patients_have_no_interval() -> None:
    assert interval([0.0] * 30, [0.0] * 30) is None
    assert interval([1.0] * 18, [1.0] * 18) is None
