"""The difference between two methods: estimates by hand, and error rates in simulated comparisons."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import binom, t, ttest_ind, wilcoxon

from mist_ops.comparison.difference import MOST_RUNS, compare_scores
from mist_ops.comparison.noise import Noise, Stratum, components, noise_between, pooled

PATIENTS, FOLDS = 40, 5
FOLD_OF = np.arange(PATIENTS) % FOLDS


def runs(generator: np.random.Generator, count: int, run: float, model: float, patient: float) -> np.ndarray:
    """Scores with effects of runs, of the models of their folds, and of patients, of these standard deviations."""
    return (
        generator.normal(0, run, (count, 1))
        + generator.normal(0, model, (count, FOLDS))[:, FOLD_OF]
        + generator.normal(0, patient, (count, PATIENTS))
    )


def test_estimates_by_hand() -> None:
    first = np.array([[1.0, 3.0], [3.0, 5.0]])
    second = np.array([[2.0, 5.0], [4.0, 7.0]])
    noise = pooled([first, second])
    # The means of the runs are 2 and 4, and 3.5 and 5.5; both patients follow them exactly.
    assert (noise.runs.squares, noise.runs.freedom) == (4.0, 2)
    assert noise.patients.squares == 0
    found = compare_scores(first, second, noise)
    assert found.mean == 1.5
    assert found.by_patient.tolist() == [1.0, 2.0]
    # 2 (1/2 + 1/2) of the runs, and 0.5 / 2 of the patients.
    assert found.uncertainty is not None
    assert found.uncertainty.variance(2, 2) == pytest.approx(2.25)
    assert found.uncertainty.freedom(2, 2) == pytest.approx(2.25**2 / (2**2 / 2 + 0.25**2 / 1))
    assert found.p == pytest.approx(2 * t.sf(1, found.uncertainty.freedom(2, 2)))
    assert found.interval is not None
    margin = t.isf(0.025, found.uncertainty.freedom(2, 2)) * 1.5
    assert found.interval == pytest.approx((1.5 - margin, 1.5 + margin))


def test_without_differences_of_patients_it_is_the_t_test_of_the_means_of_runs() -> None:
    """Runs that shift all patients alike, and methods that differ alike for all: only the means of runs count."""
    generator = np.random.default_rng(0)
    patients = generator.uniform(0.5, 0.9, PATIENTS)
    first, second = (patients + generator.normal(shift, 0.05, (4, 1)) for shift in (0.0, 0.1))
    found = compare_scores(first, second, pooled([first, second]))
    assert found.p == pytest.approx(ttest_ind(first.mean(axis=1), second.mean(axis=1)).pvalue, rel=1e-6)


def test_swapped_methods_and_permuted_patients_give_the_same_verdict() -> None:
    generator = np.random.default_rng(1)
    first, second = runs(generator, 3, 0.01, 0.02, 0.05), runs(generator, 2, 0.01, 0.02, 0.05) + 0.03
    found = compare_scores(first, second, pooled([first, second]))
    swapped = compare_scores(second, first, pooled([second, first]))
    order = generator.permutation(PATIENTS)
    permuted = compare_scores(first[:, order], second[:, order], pooled([first[:, order], second[:, order]]))
    assert swapped.mean == pytest.approx(-found.mean)
    assert (swapped.p, permuted.p) == (pytest.approx(found.p), pytest.approx(found.p))


def test_one_run_of_each_tells_nothing_unless_the_noise_is_known_from_elsewhere() -> None:
    generator = np.random.default_rng(2)
    first, second, other = (
        runs(generator, 1, 0, 0.01, 0.03),
        runs(generator, 1, 0, 0.01, 0.03),
        runs(generator, 5, 0, 0.01, 0.03),
    )
    unknown = compare_scores(first, second, pooled([first, second]))
    assert (unknown.p, unknown.interval, unknown.detectable(), unknown.runs_needed(0.1)) == (None, None, None, None)
    known = compare_scores(first, second, pooled([first, second, other]))
    assert known.p is not None
    assert pooled([first, second, other]) == noise_between(other)


def test_equal_scores_do_not_differ() -> None:
    same = np.tile(np.linspace(0.5, 0.9, PATIENTS), (2, 1))
    found = compare_scores(same, same, pooled([same, same]))
    assert (found.mean, found.p, found.interval) == (0.0, 1.0, (0.0, 0.0))


def test_components_are_those_of_the_simulation() -> None:
    found = components(runs(np.random.default_rng(3), 4000, 0.02, 0.04, 0.1), FOLD_OF)
    assert math.sqrt(found.run) == pytest.approx(0.02, rel=0.1)
    assert math.sqrt(found.model) == pytest.approx(0.04, rel=0.05)
    assert math.sqrt(found.patient) == pytest.approx(0.1, rel=0.02)


def test_components_of_folds_of_unequal_size() -> None:
    generator, sizes = np.random.default_rng(4), (20, 4, 12)
    folds = np.repeat(np.arange(3), sizes)
    scores = generator.normal(0, 0.05, (4000, 1)) + generator.normal(0, 0.03, (4000, 3))[:, folds]
    found = components(scores + generator.normal(0, 0.1, (4000, 36)), folds)
    assert math.sqrt(found.run) == pytest.approx(0.05, rel=0.1)
    assert math.sqrt(found.model) == pytest.approx(0.03, rel=0.15)


def rates(count: int, gain: float, run: float, repetitions: int = 300) -> tuple[float, float]:
    """How often a difference is significant for the test of runs, and for a test of patients as if independent."""
    generator, found, naive = np.random.default_rng(5), 0, 0
    for _ in range(repetitions):
        first, second = (runs(generator, count, run, 0.02, 0.03) for _ in range(2))
        second = second + gain
        found += (compare_scores(first, second, pooled([first, second])).p or 0) < 0.05
        naive += wilcoxon((second - first).mean(axis=0)).pvalue < 0.05
    return found / repetitions, naive / repetitions


@pytest.mark.parametrize("count", [2, 3, 5])
@pytest.mark.parametrize("run", [0.0, 0.02])
def test_replicas_of_one_method_are_rarely_called_different(count: int, run: float) -> None:
    """At most 5 %, up to what chance allows; a test of patients alone finds a difference several times as often."""
    false, naive = rates(count, 0.0, run)
    assert false <= binom.ppf(0.995, 300, 0.05) / 300
    assert naive > 0.2


def test_a_method_that_is_better_is_found_as_often_as_the_power_says() -> None:
    gain = 0.04
    found, _ = rates(3, gain, 0.0)
    generator = np.random.default_rng(6)
    many = [runs(generator, 200, 0.0, 0.02, 0.03) for _ in range(2)]
    planned = compare_scores(many[0], many[1] + gain, pooled(many)).uncertainty
    assert planned is not None
    known = Noise(planned_stratum(planned.noise, 4), pooled(many).patients)
    expected = compare_scores(many[0][:3], many[0][:3] + gain, known).uncertainty
    assert expected is not None
    power = expected.power(gain, 3, 3, 0.05)
    assert 0.5 < power < 1
    assert found == pytest.approx(power, abs=0.1)


def planned_stratum(variance: float, freedom: int) -> Stratum:
    return Stratum(variance * freedom, freedom)


def test_more_runs_detect_less_until_patients_limit_it() -> None:
    generator = np.random.default_rng(7)
    first, second = runs(generator, 3, 0, 0.02, 0.03), runs(generator, 3, 0, 0.02, 0.03)
    found = compare_scores(first, second, pooled([first, second]))
    large, small = found.runs_needed(0.1), found.runs_needed(0.03)
    assert large is not None
    assert small is not None
    assert large < small <= MOST_RUNS
    detectable = found.detectable()
    assert detectable is not None
    assert found.uncertainty is not None
    assert found.uncertainty.power(detectable, 3, 3, 0.05) == pytest.approx(0.8, abs=0.01)
    assert (found.detectable(4) or 0) > detectable
    suited = second + generator.normal(0, 1, PATIENTS)  # B suits some patients and not others
    assert compare_scores(first, suited, pooled([first, suited])).runs_needed(0.1) is None
