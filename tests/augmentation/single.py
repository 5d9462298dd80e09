"""Patches, and a single augmentation of one of them."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Generator, Tensor

from mist_ops.augmentation import Parameters, Patches, PatchInfo, augment
from mist_ops.registry import AUGMENTATIONS
from mist_ops.types import Spacing


def generator(seed: int = 0) -> Generator:
    return torch.Generator().manual_seed(seed)


def patch_of(
    image: Tensor,
    label: Tensor | None = None,
    dtm: Tensor | None = None,
    spacing: Spacing = (1.0, 1.0, 1.0),
    flip_axes: tuple[str, ...] = ("x", "y", "z"),
) -> Patches:
    """A batch of one patch, given ``(channel, x, y, z)``."""
    x, y, z = image.shape[1:]
    label = torch.zeros((1, x, y, z), dtype=torch.uint8) if label is None else label
    info = PatchInfo(len(image), (x, y, z), spacing, flip_axes, dtm is not None)
    return Patches(image[None], label[None], None if dtm is None else dtm[None], info)


def random_patches(count: int, spacing: Spacing = (1.0, 1.0, 1.0), distances: bool = False) -> Patches:
    """Patches of 8×10×12 voxels, two channels of noise and three classes."""
    draws = generator(1)
    label = torch.randint(3, (count, 1, 8, 10, 12), generator=draws, dtype=torch.uint8)
    image = torch.randn((count, 2, 8, 10, 12), generator=draws)
    dtm = torch.randn((count, 3, 8, 10, 12), generator=draws) if distances else None
    return Patches(image, label, dtm, PatchInfo(2, (8, 10, 12), spacing, distances=distances))


def copied(patches: Patches) -> Patches:
    dtm = None if patches.dtm is None else patches.dtm.clone()
    return replace(patches, image=patches.image.clone(), label=patches.label.clone(), dtm=dtm)


def tensors(patches: Patches) -> list[Tensor]:
    return [patches.image, patches.label, *([] if patches.dtm is None else [patches.dtm])]


def drawn_for(name: str, patches: Patches, draws: Generator) -> Parameters:
    return AUGMENTATIONS[name].draw(patches.info, draws)


def changed(patches: Patches, name: str, seed: int = 0) -> Patches:
    """A copy after one augmentation, with its parameters drawn from a seed."""
    draws, copy = generator(seed), copied(patches)
    augment(copy, [{name: drawn_for(name, copy, draws)} for _ in copy.image])
    return copy


def with_parameters(patches: Patches, name: str, parameters: Parameters) -> Patches:
    """A copy after one augmentation."""
    copy = copied(patches)
    augment(copy, [{name: parameters} for _ in copy.image])
    return copy
