"""Normalization of intensities."""

from __future__ import annotations

import numpy as np
import pytest
from expect import refuses

from mist_ops.config import CtNormalization
from mist_ops.errors import ConfigError
from mist_ops.preprocessing.normalize import Rules, normalize

NONE = CtNormalization()
IMAGE = np.arange(1000, dtype=np.float32).reshape(10, 10, 10)


def test_an_mr_image_is_clipped_after_its_statistics_are_computed() -> None:
    found = normalize(IMAGE, None, None)
    assert found.dtype == np.float32
    assert found.max() == pytest.approx((np.percentile(IMAGE, 99.5) - IMAGE.mean()) / IMAGE.std())
    assert found[5, 0, 0] == pytest.approx((500 - IMAGE.mean()) / IMAGE.std())


def test_statistics_are_those_of_the_mask_and_other_voxels_are_zero() -> None:
    mask = IMAGE >= 500
    found = normalize(IMAGE, mask, None)
    assert (found[~mask] == 0).all()
    assert found[mask].mean() == pytest.approx(0, abs=1e-3)


def test_an_empty_mask_gives_zeros() -> None:
    assert not normalize(IMAGE, np.zeros(IMAGE.shape, dtype=bool), None).any()


def test_a_constant_image_becomes_zero() -> None:
    assert not normalize(np.full((2, 2, 2), 7, np.float32), None, None).any()


def test_ct_uses_the_settings() -> None:
    ct = CtNormalization(window_min=-100.0, window_max=300.0, z_score_mean=50.0, z_score_std=25.0)
    hounsfield = np.array([[[-1000, 50, 100, 3000]]], dtype=np.float32)
    assert normalize(hounsfield, None, ct).ravel().tolist() == [-6, 0, 2, 10]


@pytest.mark.parametrize("deviation", [None, 0.0])
def test_ct_without_a_deviation_is_refused(deviation: float | None) -> None:
    ct = CtNormalization(window_min=0.0, window_max=0.0, z_score_mean=0.0, z_score_std=deviation)
    with refuses("ct-normalization-missing", ConfigError, field="preprocessing.ct_normalization"):
        normalize(IMAGE, None, ct)


def exactly(image: np.ndarray, clipped: bool = False) -> np.ndarray:
    """The normalized image in 128 bits or so, from the formula."""
    values = image.astype(np.longdouble)
    low, high = np.percentile(values, (0.5, 99.5))
    inside = np.clip(values, low, high)
    of = inside if clipped else values
    return ((inside - of.mean()) / of.std()).astype(np.float64)


@pytest.mark.parametrize("rules", ["reference", "accurate"])
@pytest.mark.parametrize("scale", [1e-41, 1e-30, 1e-20, 1.0, 1e12, 1e20, 1e36])
def test_units_far_from_one_do_not_change_the_result(scale: float, rules: Rules) -> None:
    image = (np.random.default_rng(0).normal(100, 20, (12, 13, 14)) * scale).astype(np.float32)
    np.testing.assert_allclose(normalize(image, None, None, rules), exactly(image), atol=1e-5)


@pytest.mark.parametrize("hot", [1e9, 1e30, -3e38])
def test_a_hot_voxel_leaves_the_others_their_spread(hot: float) -> None:
    image = np.random.default_rng(0).normal(100, 20, (12, 13, 14)).astype(np.float32)
    image[3, 4, 5] = hot
    found = normalize(image, None, None, "accurate")
    np.testing.assert_allclose(found, exactly(image, clipped=True), atol=1e-5)
    assert found.std() == pytest.approx(1.0, abs=1e-3)
    as_mist = normalize(image, None, None, "reference")
    np.testing.assert_allclose(as_mist, exactly(image), atol=1e-6)
    assert np.ptp(as_mist) < 1e-3


def test_arrays_of_usual_images_are_those_of_float32() -> None:
    image = np.random.default_rng(0).normal(100, 20, (12, 13, 14)).astype(np.float32)
    low, high = np.percentile(image, (0.5, 99.5))
    expected = (np.clip(image, np.float32(low), np.float32(high)) - image.mean()) / image.std()
    for rules in ("reference", "accurate"):
        np.testing.assert_array_equal(normalize(image, None, None, rules), expected)
