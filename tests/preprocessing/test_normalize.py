"""Normalization of intensities."""

from __future__ import annotations

import numpy as np
import pytest
from expect import refuses

from mist_ops.config import CtNormalization
from mist_ops.errors import ConfigError
from mist_ops.preprocessing.normalize import normalize

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
