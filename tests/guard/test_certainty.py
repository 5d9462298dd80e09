from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from mist_ops.guard.certainty import Certainty
from mist_ops.types import Box


def volume(*first: float) -> torch.Tensor:
    """Probabilities of background and one class in a row of voxels."""
    one = torch.tensor(first)
    return torch.stack([1 - one, one])[:, :, None, None]


def test_certainty_is_the_dice_by_the_probabilities_averaged_over_networks() -> None:
    seen = Certainty((4, 1, 1))
    seen.alone(0, volume(0.9, 0.8, 0.2, 0.0))
    seen.alone(1, volume(1.0, 1.0, 0.0, 0.0))
    assert seen.of_classes() == {1: pytest.approx((2 * 1.7 / (1.9 + 2) + 1) / 2)}


def test_tiles_add_up_to_the_whole_volume() -> None:
    whole, tiled = Certainty((4, 1, 1)), Certainty((4, 1, 1))
    probabilities = volume(0.9, 0.6, 0.4, 0.7)
    whole.alone(0, probabilities)
    whole.together(Box((0, 0, 0), (4, 1, 1)), probabilities)
    for box in (Box((0, 0, 0), (3, 1, 1)), Box((3, 0, 0), (4, 1, 1))):
        tiled.alone(0, probabilities[:, box.slices[0]])
        tiled.together(box, probabilities[:, box.slices[0]])
    assert tiled.of_classes() == pytest.approx(whole.of_classes())
    assert np.array_equal(tiled.classes, whole.classes)
    assert whole.classes.ravel().tolist() == [1, 1, 0, 1]


def test_a_class_that_no_network_predicts_has_no_certainty() -> None:
    seen = Certainty((2, 1, 1))
    seen.alone(0, volume(0.1, 0.2))
    assert math.isnan(seen.of_classes()[1])
    seen.alone(1, volume(0.9, 0.2))
    assert seen.of_classes()[1] == pytest.approx(1.8 / 2.1)
