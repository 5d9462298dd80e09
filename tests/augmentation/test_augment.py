from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import compress

import pytest
import torch
from augmentation.reference import augmented
from augmentation.single import (
    changed,
    copied,
    drawn_for,
    generator,
    patch_of,
    random_patches,
    tensors,
    with_parameters,
)
from expect import refuses

from mist_ops.augmentation import Augmentation, Parameters, Patches, PatchInfo, SpatialAugmentation, augment, draw
from mist_ops.augmentation.resampling import Coordinates
from mist_ops.config import AugmentationConfig
from mist_ops.errors import ConfigError
from mist_ops.registry import AUGMENTATIONS
from mist_ops.types import Spacing

ALL = tuple(AUGMENTATIONS)
INFO = PatchInfo(2, (8, 10, 12))
SPACINGS: list[Spacing] = [(1.0, 1.0, 1.0), (1.0, 1.0, 6.0), (4.0, 0.5, 4.0)]


def smooth_patches(count: int, size: tuple[int, int, int], spacing: Spacing, distances: bool) -> Patches:
    """Images and distance maps without noise between voxels, which would magnify the rounding of a coordinate."""
    x, y, z = torch.meshgrid(*(torch.linspace(0, 3, n) for n in size), indexing="ij")
    image = torch.stack([torch.stack([(x + k * y).sin() * z.cos(), 10 + x * y - k * z]) for k in range(count)])
    label = torch.stack([((x * y + k + z) % 3).byte()[None] for k in range(count)])
    dtm = torch.stack([torch.stack([x - k, y + z, z * x]) for k in range(count)]) if distances else None
    return Patches(image, label, dtm, PatchInfo(2, size, spacing, distances=distances))


def assert_close(found: Patches, expected: Patches) -> None:
    for one, other in zip(tensors(found), tensors(expected), strict=True):
        torch.testing.assert_close(one, other, rtol=0.0, atol=1e-5)


def test_default_transforms_are_registered_and_others_are_optional() -> None:
    default = set(AugmentationConfig().transforms)
    assert default == {"zoom", "flips", "noise", "blur", "brightness", "contrast"}
    assert set(ALL) - default == {"rotation", "gamma", "low_resolution"}


@pytest.mark.parametrize("size", [(8, 10, 12), (9, 7, 16), (32, 20, 24)])
@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("name", ALL)
def test_a_batch_equals_single_patches(name: str, spacing: Spacing, size: tuple[int, int, int]) -> None:
    patches = smooth_patches(3, size, spacing, distances=AUGMENTATIONS[name].keeps_distances)
    draws = generator(5)
    drawn = [{name: drawn_for(name, patches, draws)} for _ in range(3)]
    found = copied(patches)
    augment(found, drawn)
    for index in range(3):
        one = slice(index, index + 1)
        assert_close(found.part(one), augmented(patches.part(one), drawn[index]))


@pytest.mark.parametrize("distances", [False, True])
def test_a_batch_of_mixed_augmentations_equals_single_patches(distances: bool) -> None:
    patches, draws = smooth_patches(12, (16, 18, 14), (1.0, 1.0, 1.0), distances), generator(4)
    names = [name for name in ALL if name != "zoom"]  # Rotated and zoomed at once, patches are interpolated only once.
    drawn = [draw(names, patches.info, draws) for _ in range(12)]
    assert len({tuple(patch) for patch in drawn}) > 6
    found = copied(patches)
    augment(found, drawn)
    for index in range(12):
        one = slice(index, index + 1)
        assert_close(found.part(one), augmented(patches.part(one), drawn[index]))


def test_a_patch_does_not_depend_on_the_others_in_its_batch() -> None:
    patches, draws = random_patches(9), generator(3)
    drawn = [draw(ALL, patches.info, draws) for _ in range(9)]
    together, alone = copied(patches), copied(patches)
    augment(together, drawn)
    for index in range(9):
        augment(alone.part(slice(index, index + 1)), drawn[index : index + 1])
    assert all(map(torch.equal, tensors(together), tensors(alone)))


def test_rotation_and_zoom_are_one_interpolation_in_their_order() -> None:
    """Interpolating a linear image is exact, so one interpolation equals two."""
    ramps = torch.stack(torch.meshgrid(*[torch.arange(17.0)] * 3, indexing="ij"))
    drawn = {"rotation": (0.2, -0.3, 0.4), "zoom": (0.6,)}
    once = patch_of(ramps.clone(), ramps[:1].byte())
    augment(once, [drawn])
    twice = augmented(patch_of(ramps, ramps[:1].byte()), drawn)
    inside = (..., *[slice(5, 12)] * 3)
    assert once.image[inside].allclose(twice.image[inside], atol=1e-4)


@pytest.mark.parametrize("seed", range(5))
def test_draws_depend_on_the_generator_alone_and_not_on_the_order_of_names(seed: int) -> None:
    assert draw(ALL, INFO, generator(seed)) == draw(ALL[::-1], INFO, generator(seed))


def test_without_names_patches_are_unchanged() -> None:
    patches = random_patches(2)
    augment(patches, [draw((), INFO, generator())] * 2)
    assert all(map(torch.equal, tensors(patches), tensors(random_patches(2))))


def test_an_unknown_name_is_refused_with_a_guess() -> None:
    with refuses("unknown-augmentation", ConfigError, names="Did you mean 'noise'", found="nois"):
        draw(["nois"], INFO, generator())


@pytest.mark.parametrize("name, share", [("noise", 0.15), ("contrast", 0.15), ("flips", 1.0), ("gamma", 0.4)])
def test_each_is_drawn_with_its_probability(name: str, share: float) -> None:
    draws = generator()
    assert sum(name in draw(ALL, INFO, draws) for _ in range(1000)) / 1000 == pytest.approx(share, abs=0.04)


def test_patches_with_distance_maps_are_never_zoomed() -> None:
    draws = generator()
    assert not any("zoom" in draw(ALL, replace(INFO, distances=True), draws) for _ in range(100))


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("name", ALL)
def test_shape_type_and_class_indices_are_kept(name: str, spacing: Spacing) -> None:
    patches = random_patches(2, spacing, AUGMENTATIONS[name].keeps_distances)
    found = changed(patches, name)
    assert [(t.shape, t.dtype) for t in tensors(found)] == [(t.shape, t.dtype) for t in tensors(patches)]
    assert set(found.label.unique().tolist()) <= {0, 1, 2}


@pytest.mark.parametrize("name", ALL)
def test_only_patches_that_are_drawn_are_changed(name: str) -> None:
    patches, draws = random_patches(4, spacing=(1.0, 1.0, 6.0)), generator(2)
    drawn = [{name: drawn_for(name, patches, draws)} if index in (1, 3) else {} for index in range(4)]
    found = copied(patches)
    augment(found, drawn)
    same = [one.equal(other) for one, other in zip(found.image, patches.image, strict=True)]
    assert same == [True, False, True, False]


@pytest.mark.parametrize("name", ALL)
def test_whole_numbers_among_parameters_are_exact_as_float(name: str) -> None:
    for seed in range(20):
        assert all(abs(value) < 2**53 for value in drawn_for(name, random_patches(1), generator(seed)))


@pytest.mark.parametrize(
    "spacing, fine",
    [((1.0, 1.0, 3.0), "xyz"), ((1.0, 1.0, 3.1), "xy"), ((4.0, 1.0, 4.0), "y"), ((5.0, 1.0, 1.0), "yz")],
)
def test_an_axis_is_coarse_above_three_times_the_smallest_spacing(spacing: Spacing, fine: str) -> None:
    assert "".join(compress("xyz", replace(INFO, spacing=spacing).fine)) == fine


def test_a_new_augmentation_is_a_draw_and_a_change(monkeypatch: pytest.MonkeyPatch) -> None:
    def shift(patches: Patches, amounts: Sequence[Parameters]) -> None:
        patches.image.add_(patches.column(amounts))

    entry = Augmentation(lambda info, draws: (1.0,) * info.channels, shift, order=90, probability=1.0)
    monkeypatch.setitem(AUGMENTATIONS._load(), "shift", entry)
    patches = random_patches(3)
    assert with_parameters(patches, "shift", (1.0, 2.0)).image[:, 1].equal(patches.image[:, 1] + 2.0)


def test_a_new_spatial_augmentation_is_a_draw_and_a_map_of_coordinates(monkeypatch: pytest.MonkeyPatch) -> None:
    def moved(coordinates: Coordinates, steps: Sequence[Parameters], info: PatchInfo) -> Coordinates:
        x, y, z = coordinates
        return x, y + torch.tensor(steps)[..., None, None], z

    entry = SpatialAugmentation(lambda info, draws: (1.0,), moved, order=1, probability=1.0)
    monkeypatch.setitem(AUGMENTATIONS._load(), "moved", entry)
    patches = random_patches(3)
    found = with_parameters(patches, "moved", (2.0,))
    assert found.image[..., :8, :].equal(patches.image[..., 2:, :])
    assert found.image[..., 8, :].equal(patches.image[..., 9, :])  # The edge is repeated.
    assert found.label[..., :8, :].equal(patches.label[..., 2:, :])


def bend(coordinates: Coordinates, amounts: Sequence[Parameters], info: PatchInfo) -> Coordinates:
    x, y, z = coordinates
    return x + torch.tensor(amounts)[..., None, None] * y.square(), y, z


@pytest.mark.parametrize("order", [1, 7, 15])
def test_nonlinear_maps_are_interpolated_with_the_others(order: int, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = SpatialAugmentation(lambda info, draws: (0.05,), bend, order=order, probability=1.0)
    monkeypatch.setitem(AUGMENTATIONS._load(), "bend", entry)
    patches, names = random_patches(2), ("rotation", "zoom", "bend")
    ordered = sorted(names, key=lambda name: AUGMENTATIONS[name].order)
    augment(patches, [{name: drawn_for(name, patches, generator(1)) for name in ordered}] * 2)
    assert patches.image.isfinite().all()
