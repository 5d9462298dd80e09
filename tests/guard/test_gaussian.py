from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from guard.scans import GRID, SIZE, measured, patients, scan

from mist_ops.guard.gaussian import population, shrunk
from mist_ops.imaging.geometry import Geometry
from mist_ops.types import Image


def test_a_covariance_of_few_rows_is_close_to_that_of_many_and_has_an_inverse() -> None:
    true = np.array([[1.0, 0.6, 0.0], [0.6, 1.0, 0.0], [0.0, 0.0, 1.0]])
    rows = np.random.default_rng(0).multivariate_normal(np.zeros(3), true, 400)
    np.testing.assert_allclose(shrunk(rows), true, atol=0.15)
    wide = np.random.default_rng(0).normal(size=(5, 40))
    assert np.linalg.eigvalsh(shrunk(wide)).min() > 0.1
    assert np.linalg.eigvalsh(shrunk(np.zeros((5, 3)))).min() > 0


def test_patients_are_nearer_to_each_other_than_changed_scans() -> None:
    usual = population(patients(20))
    image, labels = scan(100)
    like = usual.distances(measured(image, labels))
    changed = {
        "grid": measured(image, labels, grid=scaled(2.0)),
        "intensities": measured(image + noise(40), labels),
        "layout": measured(-image, labels),
        "orientation": measured(np.flip(image, 1).copy(), np.flip(labels, 1).copy()),
        "structures": measured(image, np.where(labels == 1, 2, 0).astype(np.uint8)),
        "certainty": measured(image, labels, certainty=0.3),
    }
    for group, scan_of in changed.items():
        assert usual.distances(scan_of)[group] > 2 * like[group], group


def scaled(factor: float) -> Geometry:
    return replace(GRID, spacing=(1.0, 1.0, 1.5 * factor))


def noise(deviation: float) -> Image:
    return np.random.default_rng(1).normal(0, deviation, SIZE).astype(np.float32)


def test_equal_patients_leave_a_tolerance_and_no_division_by_zero() -> None:
    same = [measured(*scan(0))] * 6
    usual = population(same)
    assert all(np.isfinite(value) for value in usual.distances(same[0]).values())
    assert usual.distances(same[0])["grid"] == pytest.approx(0, abs=1e-6)


def test_a_missing_label_is_unusual_only_if_the_patients_have_it() -> None:
    image, labels = scan(50)
    without = measured(image, np.where(labels == 2, 0, labels).astype(np.uint8))
    name = "volume of label 2"
    assert population(patients(10)).ranges[name].deviations(without.features[name]) > 5
    half = population([*patients(5), *[without] * 5])
    assert half.ranges[name].missing == pytest.approx(0.5)
    assert half.ranges[name].deviations(without.features[name]) == 0
    assert population([without] * 5).ranges[name].deviations(patients(1)[0].features[name]) == 0


@pytest.mark.parametrize("axis", range(3))
def test_a_mirrored_scan_resembles_the_patients_when_it_is_mirrored_again(axis: int) -> None:
    patterns = population(patients(10)).patterns
    image, labels = scan(60)
    as_is, _ = patterns.likeness(measured(image, labels).layout)
    now, flipped = patterns.likeness(measured(np.flip(image, axis).copy(), np.flip(labels, axis).copy()).layout)
    assert as_is > 0.8
    assert flipped[axis] == pytest.approx(as_is, abs=0.08)  # cells of 3 and 4 voxels
    assert now < as_is - 0.1
