from __future__ import annotations

from dataclasses import replace
from itertools import compress

import pytest
import torch
from expect import refuses
from torch import Tensor

from mist_ops.augmentation import Patch, augment
from mist_ops.config import AugmentationConfig
from mist_ops.errors import ConfigError
from mist_ops.registry import AUGMENTATIONS
from mist_ops.types import Spacing

ALL = tuple(AUGMENTATIONS)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_patch(dtm: bool = False, spacing: Spacing = (1.0, 1.0, 1.0)) -> Patch:
    draws = generator(1)
    label = torch.randint(3, (1, 8, 10, 12), generator=draws, dtype=torch.uint8)
    image = torch.randn((2, 8, 10, 12), generator=draws)
    return Patch(image, label, label.float().repeat(3, 1, 1, 1) if dtm else None, spacing)


def tensors(patch: Patch) -> list[Tensor]:
    return [patch.image, patch.label, *([] if patch.dtm is None else [patch.dtm])]


def test_default_transforms_are_registered_and_others_are_optional() -> None:
    default = set(AugmentationConfig().transforms)
    assert default == {"zoom", "flips", "noise", "blur", "brightness", "contrast"}
    assert set(ALL) - default == {"rotation", "gamma", "low_resolution"}


@pytest.mark.parametrize("seed", range(5))
def test_the_same_generator_gives_the_same_patch(seed: int) -> None:
    first, second = (augment(random_patch(), ALL, generator(seed)) for _ in range(2))
    assert all(torch.equal(one, other) for one, other in zip(tensors(first), tensors(second), strict=True))


def test_the_order_of_the_names_does_not_matter() -> None:
    first, second = (augment(random_patch(), names, generator(3)) for names in (ALL, ALL[::-1]))
    assert torch.equal(first.image, second.image)


def test_without_names_a_patch_is_unchanged() -> None:
    assert augment(random_patch(), (), generator()).image.equal(random_patch().image)


def test_an_unknown_name_is_refused_with_a_guess() -> None:
    with refuses("unknown-augmentation", ConfigError, names="Did you mean 'noise'", found="nois"):
        augment(random_patch(), ["nois"], generator())


@pytest.mark.parametrize("name, share", [("noise", 0.15), ("contrast", 0.15), ("flips", 0.875)])
def test_each_is_applied_with_its_probability(name: str, share: float) -> None:
    patch, draws = random_patch(), generator()
    changed = sum(not augment(patch, [name], draws).image.equal(patch.image) for _ in range(1000))
    assert changed / 1000 == pytest.approx(share, abs=0.04)


def test_a_patch_with_distance_maps_is_never_zoomed() -> None:
    patch, draws = random_patch(dtm=True), generator()
    assert all(augment(patch, ["zoom"], draws).image.equal(patch.image) for _ in range(50))


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (1.0, 1.0, 6.0), (4.0, 0.5, 4.0)])
@pytest.mark.parametrize("name", ALL)
def test_shape_type_and_class_indices_are_kept_and_the_original_is_unchanged(name: str, spacing: Spacing) -> None:
    patch = random_patch(dtm=AUGMENTATIONS[name].keeps_distances, spacing=spacing)
    before = [tensor.clone() for tensor in tensors(patch)]
    changed = AUGMENTATIONS[name].change(patch, generator())
    assert [(t.shape, t.dtype) for t in tensors(changed)] == [(t.shape, t.dtype) for t in before]
    assert set(changed.label.unique().tolist()) <= {0, 1, 2}
    assert all(map(torch.equal, tensors(patch), before))


@pytest.mark.parametrize("name", ALL)
def test_the_image_is_changed_and_spacing_and_flip_axes_are_kept(name: str) -> None:
    patch = replace(random_patch(spacing=(1.0, 1.0, 6.0)), flip_axes=("x", "y"))
    changed = AUGMENTATIONS[name].change(patch, generator(2))
    assert not changed.image.equal(patch.image)
    assert (changed.spacing, changed.flip_axes) == (patch.spacing, patch.flip_axes)


@pytest.mark.parametrize(
    "spacing, fine",
    [((1.0, 1.0, 3.0), "xyz"), ((1.0, 1.0, 3.1), "xy"), ((4.0, 1.0, 4.0), "y"), ((5.0, 1.0, 1.0), "yz")],
)
def test_an_axis_is_coarse_above_three_times_the_smallest_spacing(spacing: Spacing, fine: str) -> None:
    assert "".join(compress("xyz", random_patch(spacing=spacing).fine)) == fine
