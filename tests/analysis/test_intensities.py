from __future__ import annotations

from functools import reduce

import numpy as np
import pytest

from mist_ops.analysis.intensities import PERCENTILES, measure_intensities, percentiles, pooled, summary


def test_pooled_integers_have_the_statistics_of_all_voxels():
    generator = np.random.default_rng(0)
    parts = [generator.integers(-1024, 3072, size).astype(np.float32) for size in (1000, 0, 1, 4321)]
    found = reduce(pooled, map(measure_intensities, parts))
    together = np.concatenate(parts).astype(np.float64)
    assert percentiles(found, PERCENTILES) == np.percentile(together, PERCENTILES).tolist()
    assert found.mean == pytest.approx(together.mean(), rel=1e-14)
    assert found.m2 / found.count == pytest.approx(together.var(), rel=1e-12)
    assert len(found.values) <= 4096


@pytest.mark.parametrize("scale, shift", [(1.0, 0.0), (1e-6, 0.0), (30.0, 1e5)])
def test_percentiles_of_other_values_are_within_the_documented_error(scale: float, shift: float):
    samples = (np.random.default_rng(1).standard_normal(20_000) * scale + shift).astype(np.float32)
    expected = np.percentile(samples.astype(np.float64), PERCENTILES)
    np.testing.assert_allclose(percentiles(measure_intensities(samples), PERCENTILES), expected, rtol=2**-16)


def test_integers_up_to_65536_are_exact():
    samples = np.arange(-65536, 65537, 7, dtype=np.float32)
    np.testing.assert_array_equal(measure_intensities(samples).values, samples)


def test_bins_are_bounded_however_many_values_there_are():
    samples = np.random.default_rng(2).uniform(1.0, 2.0, 200_000).astype(np.float32)
    found = reduce(pooled, map(measure_intensities, np.split(samples, 4)))
    assert len(found.values) <= 2**15 + 1
    assert found.count == 200_000


def test_the_deviation_is_accurate_far_from_zero():
    samples = (np.arange(1000) % 2 + 16_000_000).astype(np.float32)
    found = pooled(measure_intensities(samples[:300]), measure_intensities(samples[300:]))
    assert summary(found).std == 0.5


def test_a_summary_names_its_percentiles_and_rounds_to_four_decimals():
    found = summary(measure_intensities(np.array([0.0, 1.0, 2.0], dtype=np.float32)))
    assert found.model_dump() == {
        "mean": 1.0,
        "std": 0.8165,
        "p01": 0.02,
        "p05": 0.1,
        "p25": 0.5,
        "p50": 1.0,
        "p75": 1.5,
        "p95": 1.9,
        "p99": 1.98,
    }


def test_statistics_without_voxels_can_be_pooled():
    nothing = measure_intensities(np.zeros(0, dtype=np.float32))
    assert pooled(nothing, nothing).count == 0
    one = measure_intensities(np.ones(1, dtype=np.float32))
    assert summary(pooled(nothing, one)) == summary(one)
