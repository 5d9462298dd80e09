from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mist_ops.augmentation import Patch, augment
from mist_ops.registry import AUGMENTATIONS, UnknownName

ALL = tuple(AUGMENTATIONS)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_patch(dtm: bool = False) -> Patch:
    draws = generator(1)
    label = torch.randint(3, (1, 8, 10, 12), generator=draws, dtype=torch.uint8)
    image = torch.randn((2, 8, 10, 12), generator=draws)
    return Patch(image, label, label.float().repeat(3, 1, 1, 1) if dtm else None)


def tensors(patch: Patch) -> list[Tensor]:
    return [patch.image, patch.label, *([] if patch.dtm is None else [patch.dtm])]


def test_all_six_of_the_configuration_exist() -> None:
    assert set(ALL) == {"zoom", "flips", "noise", "blur", "brightness", "contrast"}


@pytest.mark.parametrize("seed", range(5))
def test_the_same_generator_gives_the_same_patch(seed: int) -> None:
    first, second = (augment(random_patch(), ALL, generator(seed)) for _ in range(2))
    assert all(torch.equal(one, other) for one, other in zip(tensors(first), tensors(second), strict=True))


def test_the_order_of_the_names_does_not_matter() -> None:
    first, second = (augment(random_patch(), names, generator(3)) for names in (ALL, ALL[::-1]))
    assert torch.equal(first.image, second.image)


def test_nothing_named_changes_nothing() -> None:
    assert augment(random_patch(), (), generator()).image.equal(random_patch().image)


def test_an_unknown_name_is_refused_with_a_guess() -> None:
    with pytest.raises(UnknownName, match=r"'nois'\. Did you mean 'noise'"):
        augment(random_patch(), ["nois"], generator())


@pytest.mark.parametrize("name, share", [("noise", 0.15), ("contrast", 0.15), ("flips", 0.875)])
def test_each_is_applied_as_often_as_it_says(name: str, share: float) -> None:
    patch, draws = random_patch(), generator()
    changed = sum(not augment(patch, [name], draws).image.equal(patch.image) for _ in range(1000))
    assert changed / 1000 == pytest.approx(share, abs=0.04)


def test_a_patch_with_distance_maps_is_never_zoomed() -> None:
    patch, draws = random_patch(dtm=True), generator()
    assert all(augment(patch, ["zoom"], draws).image.equal(patch.image) for _ in range(50))


@pytest.mark.parametrize("name", ALL)
def test_shape_and_type_stay(name: str) -> None:
    changed = AUGMENTATIONS[name].change(random_patch(), generator())
    assert [(t.shape, t.dtype) for t in tensors(changed)] == [(t.shape, t.dtype) for t in tensors(random_patch())]
