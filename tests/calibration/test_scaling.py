from __future__ import annotations

import numpy as np
import pytest
from calibration.synthetic import softmax

from mist_ops.calibration.scaling import Scaling


def test_a_temperature_divides_logits() -> None:
    logits = np.random.default_rng(0).normal(0, 3, (4, 50))

    scaled = Scaling.of_temperature(2.5, 4)(softmax(logits))

    np.testing.assert_allclose(scaled, softmax(logits / 2.5), atol=1e-12)
    assert Scaling.of_temperature(2.5, 4).temperature == 2.5


def test_the_identity_changes_nothing() -> None:
    probabilities = softmax(np.random.default_rng(0).normal(0, 3, (3, 5, 6, 7))).astype(np.float32)

    np.testing.assert_allclose(Scaling.of_temperature(1.0, 3)(probabilities), probabilities, atol=1e-6)


def test_a_temperature_keeps_the_most_probable_class() -> None:
    probabilities = softmax(np.random.default_rng(1).normal(0, 3, (3, 500)))

    for temperature in (0.3, 4.0):
        scaled = Scaling.of_temperature(temperature, 3)(probabilities)
        np.testing.assert_array_equal(scaled.argmax(axis=0), probabilities.argmax(axis=0))


def test_outside_the_crop_everything_stays_background() -> None:
    probabilities = np.zeros((3, 2, 2, 2), dtype=np.float32)
    probabilities[0] = 1

    with np.errstate(divide="raise", over="raise", invalid="raise"):
        scaled = Scaling((0.5, 0.4, 2.0), (0.0, 0.2, 0.0), (0.0, 3.0, -1.0))(probabilities)

    np.testing.assert_array_equal(scaled, probabilities)


@pytest.mark.parametrize("size", [(3, 4, 5), (70, 130, 140)])
def test_a_volume_is_scaled_in_place_as_at_once(size: tuple[int, int, int]) -> None:
    volumes = softmax(np.random.default_rng(2).normal(0, 3, (2, *size))).astype(np.float32)
    scaling = Scaling((0.5, 0.7), (0.1, 0.0), (0.0, 0.2))
    expected = scaling(volumes)

    scaling.apply(volumes)

    np.testing.assert_array_equal(volumes, expected)
