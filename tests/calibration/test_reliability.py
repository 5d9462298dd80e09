from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from calibration.synthetic import drawn

from mist_ops.calibration.reliability import BINS, class_curve, curve, top_curve


def test_a_curve_by_hand() -> None:
    found = curve(
        np.array([0.05, 0.15, 0.9, 1.0]), np.array([False, True, True, False]), np.array([1.0, 1.0, 1.0, 1.0]), bins=2
    )

    assert found.shares == (0.5, 0.5)
    assert found.confidences == pytest.approx((0.1, 0.95))
    assert found.accuracies == (0.5, 0.5)
    assert found.error == pytest.approx(0.5 * 0.4 + 0.5 * 0.45)


def test_bins_include_their_upper_ends() -> None:
    found = curve(np.array([0.0, 0.5, 0.500001, 1.0]), np.array([True] * 4), np.ones(4), bins=2)

    assert found.shares == (0.5, 0.5)


def test_weights_count_as_repeated_voxels() -> None:
    confidence, right = np.array([0.6, 0.7, 0.95]), np.array([True, False, True])

    weighted = curve(confidence, right, np.array([2.0, 1.0, 3.0]))
    repeated = curve(np.repeat(confidence, [2, 1, 3]), np.repeat(right, [2, 1, 3]), np.ones(6))

    assert weighted.error == pytest.approx(repeated.error)


def test_the_error_of_each_class_is_that_of_monai() -> None:
    binning = pytest.importorskip("monai.metrics.calibration").calibration_binning
    voxels = drawn(1, count=5000, slopes=(2.0, 2.0, 2.0))
    truth = np.arange(3)[:, None] == voxels.truth
    stated, found, counts = (
        values[0].numpy()
        for values in binning(
            torch.from_numpy(voxels.probabilities)[None], torch.from_numpy(truth)[None].float(), BINS, right=True
        )
    )

    for index in range(3):
        expected = np.nansum(np.abs(stated - found)[index] * counts[index]) / counts[index].sum()
        assert class_curve(voxels, index).error == pytest.approx(expected, rel=1e-4)


def test_the_error_of_calibrated_probabilities_is_small_and_that_of_others_is_not() -> None:
    # With 40,000 labels the error of a bin is about 0.005.
    assert top_curve(drawn(2)).error < 0.01
    assert top_curve(drawn(2, slopes=(3.0, 3.0, 3.0))).error > 0.1


def test_the_error_is_the_mean_excess_of_confidence_of_an_overconfident_model() -> None:
    voxels = drawn(3, slopes=(3.0, 3.0, 3.0))
    best = voxels.probabilities.argmax(axis=0)
    excess = voxels.probabilities.max(axis=0).mean() - (best == voxels.truth).mean()

    assert top_curve(voxels).error == pytest.approx(excess, abs=0.01)
    assert top_curve(replace(voxels, weights=voxels.weights * 7)).error == pytest.approx(top_curve(voxels).error)
