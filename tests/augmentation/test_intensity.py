from __future__ import annotations

import pytest
import torch
from augmentation.single import changed, drawn_for, generator, patch_of, with_parameters
from scipy.ndimage import gaussian_filter

from mist_ops.augmentation import Patches
from mist_ops.types import Spacing


def two_channels(spacing: Spacing = (1.0, 1.0, 1.0)) -> Patches:
    """One channel within [0, 1], one within [10, 12]."""
    image = torch.rand((2, 9, 9, 9), generator=generator(1)) * torch.tensor([1.0, 2.0]).reshape(2, 1, 1, 1)
    image[1] += 10
    return patch_of(image, torch.ones((1, 9, 9, 9), dtype=torch.uint8), spacing=spacing)


@pytest.mark.parametrize("name", ["noise", "blur", "contrast", "low_resolution"])
def test_each_channel_stays_in_its_range(name: str) -> None:
    before, after = two_channels().image[0], changed(two_channels(), name).image[0]
    for channel in range(2):
        assert after[channel].min() >= before[channel].min()
        assert after[channel].max() <= before[channel].max()


@pytest.mark.parametrize("name", ["noise", "blur", "brightness", "contrast", "low_resolution", "gamma"])
def test_the_label_is_kept(name: str) -> None:
    assert changed(two_channels(), name).label.equal(two_channels().label)


@pytest.mark.parametrize("name", ["blur", "low_resolution", "gamma", "contrast"])
def test_a_constant_channel_stays_constant_up_to_the_border(name: str) -> None:
    flat = patch_of(torch.full((1, 8, 8, 8), 5.0))
    assert changed(flat, name).image.allclose(flat.image, rtol=1e-6)


def test_noise_depends_on_the_seed_that_was_drawn() -> None:
    first, same, other = (with_parameters(two_channels(), "noise", (0.3, seed)).image for seed in (1.0, 1.0, 2.0))
    assert first.equal(same)
    assert not first.allclose(other)


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.8, 0.8, 2.0), (0.5, 0.5, 6.0)])
def test_blurring_equals_scipy_and_is_isotropic_in_mm(spacing: Spacing) -> None:
    patch = two_channels(spacing)
    (sigma,) = drawn_for("blur", patch, generator())
    assert 0.5 <= sigma / min(spacing) <= 1.5
    widths = [sigma / width for width in spacing]
    expected = gaussian_filter(patch.image.numpy(), widths, mode="nearest", axes=(2, 3, 4))
    assert with_parameters(patch, "blur", (sigma,)).image.allclose(torch.from_numpy(expected), atol=1e-5)


def test_channels_are_not_blurred_into_each_other() -> None:
    assert changed(two_channels(), "blur").image[:, 1].min() >= 10


def test_each_channel_has_its_own_brightness() -> None:
    ratio = changed(two_channels(), "brightness").image[0] / two_channels().image[0]
    factors = ratio.flatten(1).nanmedian(dim=1).values
    assert factors[0] != factors[1]
    assert all(0.7 <= factor <= 1.3 for factor in factors)
    assert ratio[1].std() < 1e-6


def test_contrast_keeps_the_mean() -> None:
    before, after = two_channels().image[0, 1], changed(two_channels(), "contrast").image[0, 1]
    assert float(after.mean()) == pytest.approx(float(before.mean()), abs=0.02)
    assert float(after.std()) != pytest.approx(float(before.std()), abs=0.01)


@pytest.mark.parametrize("seed", range(8))
def test_gamma_changes_each_channel_but_keeps_its_mean_deviation_and_order(seed: int) -> None:
    before, after = (patch.image[0].flatten(1) for patch in (two_channels(), changed(two_channels(), "gamma", seed)))
    assert after.mean(dim=1).allclose(before.mean(dim=1), atol=1e-4)
    assert after.std(dim=1).allclose(before.std(dim=1), rtol=1e-3)
    for one, other in zip(before, after, strict=True):
        assert (other[one.argsort()].diff() >= 0).all()
        assert not other.allclose(one, atol=1e-3)


def test_gamma_brightens_as_often_as_it_darkens_and_is_inverted_less_often() -> None:
    ramp = patch_of(torch.linspace(0, 1, 9**3, dtype=torch.float32).reshape(1, 9, 9, 9))
    slopes = [changed(ramp, "gamma", seed).image.flatten().diff() for seed in range(300)]
    # The slope diverges or vanishes at the end where the scaled intensity is 0, and hardly changes at the other.
    at_low, at_high = (sum(abs(float(slope[end] / slope[364]) - 1) for slope in slopes) for end in (0, -1))
    assert at_low > 1.5 * at_high
    assert sum(bool(slope[0] < slope[364]) for slope in slopes) / 300 == pytest.approx(0.5, abs=0.1)


def test_low_resolution_keeps_the_mean_and_removes_detail() -> None:
    ramp = torch.linspace(0, 1, 20).expand(1, 20, 20, 20)
    checkers = (torch.arange(20) % 2).float().expand(1, 20, 20, 20)
    coarse = changed(patch_of(torch.cat([ramp, checkers])), "low_resolution").image[0]
    assert float(coarse[0].mean()) == pytest.approx(0.5, abs=0.02)
    assert coarse[0].allclose(ramp[0], atol=0.06)
    assert float(coarse[1].std()) < 0.9 * float(checkers.std())


def test_low_resolution_keeps_a_coarse_axis() -> None:
    checkers = (torch.arange(20) % 2).float().repeat(1, 20, 20, 1)
    thick = changed(patch_of(checkers, spacing=(1.0, 1.0, 4.0)), "low_resolution").image[0]
    assert thick.allclose(checkers, atol=1e-5)
    assert not changed(patch_of(checkers), "low_resolution").image[0].allclose(checkers, atol=0.1)
