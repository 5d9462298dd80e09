from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from scipy.ndimage import gaussian_filter

from mist_ops.augmentation import Patch, uniform
from mist_ops.augmentation.intensity import blur, brightness, contrast, gamma, low_resolution, noise
from mist_ops.types import Spacing


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def two_channels() -> Patch:
    """One channel within [0, 1], one within [10, 12]."""
    image = torch.rand((2, 9, 9, 9), generator=generator(1)) * torch.tensor([1.0, 2.0]).reshape(2, 1, 1, 1)
    image[1] += 10
    return Patch(image, torch.ones((1, 9, 9, 9), dtype=torch.uint8))


@pytest.mark.parametrize("change", [noise, blur, contrast, low_resolution])
def test_each_channel_stays_in_its_range(change) -> None:
    before, after = two_channels(), change(two_channels(), generator())
    for channel in range(2):
        assert after.image[channel].min() >= before.image[channel].min()
        assert after.image[channel].max() <= before.image[channel].max()


@pytest.mark.parametrize("change", [noise, blur, brightness, contrast, low_resolution, gamma])
def test_the_label_is_kept(change) -> None:
    assert change(two_channels(), generator()).label.equal(two_channels().label)


@pytest.mark.parametrize("change", [blur, low_resolution, gamma, contrast])
def test_a_constant_channel_stays_constant_up_to_the_border(change) -> None:
    flat = Patch(torch.full((1, 8, 8, 8), 5.0), torch.zeros((1, 8, 8, 8), dtype=torch.uint8))
    assert change(flat, generator()).image.allclose(flat.image, rtol=1e-6)


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.8, 0.8, 2.0), (0.5, 0.5, 6.0)])
def test_blurring_equals_scipy_and_is_isotropic_in_mm(spacing: Spacing) -> None:
    patch = replace(two_channels(), spacing=spacing)
    sigma = uniform(generator(), 0.5, 1.5) * min(spacing)
    widths = [sigma / width for width in spacing]
    expected = gaussian_filter(patch.image.numpy(), widths, mode="nearest", axes=(1, 2, 3))
    assert blur(patch, generator()).image.allclose(torch.from_numpy(expected), atol=1e-5)


def test_channels_are_not_blurred_into_each_other() -> None:
    assert blur(two_channels(), generator()).image[1].min() >= 10


def test_each_channel_has_its_own_brightness() -> None:
    ratio = brightness(two_channels(), generator()).image / two_channels().image
    factors = ratio.flatten(1).nanmedian(dim=1).values
    assert factors[0] != factors[1]
    assert all(0.7 <= factor <= 1.3 for factor in factors)
    assert ratio[1].std() < 1e-6


def test_contrast_keeps_the_mean() -> None:
    before, after = two_channels().image[1], contrast(two_channels(), generator()).image[1]
    assert float(after.mean()) == pytest.approx(float(before.mean()), abs=0.02)
    assert float(after.std()) != pytest.approx(float(before.std()), abs=0.01)


@pytest.mark.parametrize("seed", range(8))
def test_gamma_changes_each_channel_but_keeps_its_mean_deviation_and_order(seed: int) -> None:
    before, after = two_channels().image.flatten(1), gamma(two_channels(), generator(seed)).image.flatten(1)
    assert after.mean(dim=1).allclose(before.mean(dim=1), atol=1e-4)
    assert after.std(dim=1).allclose(before.std(dim=1), rtol=1e-3)
    for one, other in zip(before, after, strict=True):
        assert (other[one.argsort()].diff() >= 0).all()
        assert not other.allclose(one, atol=1e-3)


def test_gamma_brightens_as_often_as_it_darkens_and_is_inverted_less_often() -> None:
    ramp = torch.linspace(0, 1, 9**3, dtype=torch.float32).reshape(1, 9, 9, 9)
    slopes = [gamma(Patch(ramp, ramp.byte()), generator(seed)).image.flatten().diff() for seed in range(300)]
    # The slope diverges or vanishes at the end where the scaled intensity is 0, and hardly changes at the other.
    at_low, at_high = (sum(abs(float(slope[end] / slope[364]) - 1) for slope in slopes) for end in (0, -1))
    assert at_low > 1.5 * at_high
    assert sum(bool(slope[0] < slope[364]) for slope in slopes) / 300 == pytest.approx(0.5, abs=0.1)


def test_low_resolution_keeps_the_mean_and_removes_detail() -> None:
    ramp = torch.linspace(0, 1, 20).expand(1, 20, 20, 20)
    checkers = (torch.arange(20) % 2).float().expand(1, 20, 20, 20)
    patch = Patch(torch.cat([ramp, checkers]), torch.zeros((1, 20, 20, 20), dtype=torch.uint8))
    coarse = low_resolution(patch, generator()).image
    assert float(coarse[0].mean()) == pytest.approx(0.5, abs=0.02)
    assert coarse[0].allclose(ramp[0], atol=0.06)
    assert float(coarse[1].std()) < 0.9 * float(checkers.std())


def test_low_resolution_keeps_a_coarse_axis() -> None:
    checkers = (torch.arange(20) % 2).float().expand(1, 20, 20, 20)
    patch = Patch(checkers, torch.zeros((1, 20, 20, 20), dtype=torch.uint8), spacing=(1.0, 1.0, 4.0))
    assert low_resolution(patch, generator()).image.allclose(checkers, atol=1e-5)
    assert not low_resolution(replace(patch, spacing=(1.0, 1.0, 1.0)), generator()).image.allclose(checkers, atol=0.1)
