from __future__ import annotations

import pytest
import torch

from mist_ops.augmentation import Patch
from mist_ops.augmentation.intensity import blur, brightness, contrast, noise


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def two_channels() -> Patch:
    """One channel within [0, 1], one within [10, 12]."""
    image = torch.rand((2, 9, 9, 9), generator=generator(1)) * torch.tensor([1.0, 2.0]).reshape(2, 1, 1, 1)
    image[1] += 10
    return Patch(image, torch.ones((1, 9, 9, 9), dtype=torch.uint8))


@pytest.mark.parametrize("change", [noise, blur, contrast])
def test_each_channel_keeps_to_its_own_range(change) -> None:
    before, after = two_channels(), change(two_channels(), generator())
    for channel in range(2):
        assert after.image[channel].min() >= before.image[channel].min()
        assert after.image[channel].max() <= before.image[channel].max()


@pytest.mark.parametrize("change", [noise, blur, brightness, contrast])
def test_the_label_stays(change) -> None:
    assert change(two_channels(), generator()).label.equal(two_channels().label)


def test_blurring_does_not_darken_the_border() -> None:
    flat = Patch(torch.full((1, 8, 8, 8), 5.0), torch.zeros((1, 8, 8, 8), dtype=torch.uint8))
    assert blur(flat, generator()).image.equal(flat.image)


def test_channels_are_not_blurred_into_one_another() -> None:
    assert blur(two_channels(), generator()).image[1].min() >= 10


def test_each_channel_has_its_own_brightness() -> None:
    ratio = brightness(two_channels(), generator()).image / two_channels().image
    factors = ratio.flatten(1).nanmedian(dim=1).values
    assert factors[0] != factors[1]
    assert all(0.7 <= factor <= 1.3 for factor in factors)
    assert ratio[1].std() < 1e-6


def test_contrast_is_about_the_mean_and_so_differs_from_brightness() -> None:
    before, after = two_channels().image[1], contrast(two_channels(), generator()).image[1]
    assert float(after.mean()) == pytest.approx(float(before.mean()), abs=0.02)
    assert float(after.std()) != pytest.approx(float(before.std()), abs=0.01)
