from __future__ import annotations

import numpy as np
import pytest

from mist_ops.calibration.reliability import top_curve
from mist_ops.calibration.voxels import Voxels, most_voxels, sample

SIZE = (30, 20, 24)


def patient(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Probabilities of a blurred cube, its truth and its prediction."""
    generator = np.random.default_rng(seed)
    foreground = np.full(SIZE, 1e-5)
    foreground[10:18, 6:12, 8:16] = generator.uniform(0.3, 0.9, (8, 6, 8))
    probabilities = np.stack([1 - foreground, foreground]).astype(np.float32)
    truth = (generator.random(SIZE) < foreground).astype(np.uint8)
    return probabilities, truth, (foreground > 0.5).astype(np.uint8)


def test_a_small_box_is_taken_whole_with_its_margin() -> None:
    probabilities, truth, predicted = patient()
    truth[:] = predicted

    found = sample(probabilities, truth, predicted, (1.0, 2.0, 5.0), 10**6, np.random.default_rng(0))

    assert found is not None
    # 5 mm are 5, 3 and 1 voxels.
    box = (slice(5, 23), slice(3, 15), slice(7, 17))
    assert found.truth.size == truth[box].size
    assert sorted(found.probabilities[1].tolist()) == sorted(probabilities[1][box].ravel().tolist())
    assert found.weights.sum() == pytest.approx(1)
    np.testing.assert_allclose(found.weights, found.weights[0])


def test_a_sample_has_the_measures_of_the_whole_box() -> None:
    probabilities, truth, predicted = patient()
    whole = sample(probabilities, truth, predicted, (1.0, 1.0, 1.0), 10**6, np.random.default_rng(0))
    assert whole is not None

    errors, foregrounds = [], []
    for seed in range(40):
        some = sample(probabilities, truth, predicted, (1.0, 1.0, 1.0), 150, np.random.default_rng(seed))
        assert some is not None
        assert len(some.truth) == 300
        errors.append(some.weights @ (some.probabilities.argmax(axis=0) != some.truth))
        foregrounds.append(some.weights @ some.probabilities[1])

    expected = whole.weights @ (whole.probabilities.argmax(axis=0) != whole.truth)
    for values, value in ((errors, expected), (foregrounds, whole.weights @ whole.probabilities[1])):
        assert abs(np.mean(values) - value) < 4 * np.std(values) / np.sqrt(len(values))


def test_the_same_seed_draws_the_same_voxels() -> None:
    first, second = (sample(*patient(), (1.0, 1.0, 1.0), 100, np.random.default_rng(7)) for _ in range(2))
    assert first is not None
    assert second is not None
    np.testing.assert_array_equal(first.probabilities, second.probabilities)


def test_without_labels_there_is_no_sample() -> None:
    empty = np.zeros(SIZE, dtype=np.uint8)
    assert sample(patient()[0], empty, empty, (1.0, 1.0, 1.0), 100, np.random.default_rng(0)) is None


def test_each_patient_counts_the_same() -> None:
    right = Voxels(np.array([[0.0, 0.0], [1.0, 1.0]]), np.array([1, 1]), np.array([0.5, 0.5]))
    wrong = Voxels(np.array([[0.0], [1.0]]), np.array([0]), np.array([9.0]))

    assert top_curve(Voxels.joined([right, wrong])).error == pytest.approx(0.5)


@pytest.mark.parametrize("classes, patients, expected", [(3, 38, 10_000), (118, 1000, 200), (4, 500, 5000)])
def test_the_sample_of_all_patients_fits_into_memory(classes: int, patients: int, expected: int) -> None:
    assert most_voxels(classes, patients) == expected
