"""Percentiles of many voxels."""

from __future__ import annotations

import numpy as np
import pytest

from mist_ops.imaging.percentiles import percentiles

GENERATOR = np.random.default_rng(0)
MANY = 300_000
KINDS = {
    "normal": GENERATOR.normal(size=MANY),
    "integers": GENERATOR.integers(0, 50, MANY),
    "mostly zero": np.where(GENERATOR.random(MANY) < 0.6, 0, GENERATOR.integers(1, 900, MANY)),
    "outliers": np.where(GENERATOR.random(MANY) < 1e-4, 1e9, GENERATOR.normal(size=MANY)),
    "sorted": np.sort(GENERATOR.normal(size=MANY)),
    # A sample of every n-th value holds only zeros, and none of the values at the percentiles.
    "periodic": np.where(np.arange(MANY) % 15, np.arange(MANY), 0),
    "constant": np.full(MANY, 7),
    "few": GENERATOR.normal(size=5),
    "one": np.ones(1),
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int32])
@pytest.mark.parametrize("kind", KINDS)
def test_percentiles_are_those_of_numpy_to_the_last_digit(kind: str, dtype: type) -> None:
    values = KINDS[kind].astype(dtype)
    for percents in ((0.5, 99.5), (33.0, 99.5), (0.0, 50.0, 100.0)):
        np.testing.assert_array_equal(percentiles(values, percents), np.percentile(values, percents))


def test_the_order_of_axes_does_not_matter() -> None:
    values = KINDS["normal"].reshape(100, 60, 50).astype(np.float32)
    part = values[3:98, 1:, :-2]
    for order in (values, np.asfortranarray(values), part, part[::-1].transpose(2, 0, 1)):
        np.testing.assert_array_equal(percentiles(order, (1.0, 99.0)), np.percentile(order, (1.0, 99.0)))
