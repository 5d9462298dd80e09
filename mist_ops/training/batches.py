"""Batches of random patches. Each batch depends on the seed and its step alone.

Every patch has a random generator of its own, so it does not depend on the number of workers, on the process that
creates it, on how many devices share a step, or on whether the run was resumed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from jaxtyping import Float32, UInt8
from torch import Generator, Tensor
from torch.utils.data import Dataset

from mist_ops.augmentation import Drawn, Patches, PatchInfo, augment, draw, uniform
from mist_ops.training.cases import CaseArrays, check_finite
from mist_ops.training.distributed import Ranks
from mist_ops.training.voxels import seeded
from mist_ops.types import Size, Spacing


@dataclass(frozen=True)
class Batch:
    """Patches and the cases they come from, in the same order.

    Attributes:
        cases: Ids.
        image: Normalized intensities.
        label: Class indices.
        dtm: Distance maps, if the loss needs them.
        drawn: Augmentations to apply to each patch.
        spacing: In mm.
    """

    cases: tuple[str, ...]
    image: Float32[Tensor, "batch channel x y z"]
    label: UInt8[Tensor, "batch 1 x y z"]
    dtm: Float32[Tensor, "batch class x y z"] | None = None
    drawn: tuple[Drawn, ...] = ()
    spacing: Spacing = (1.0, 1.0, 1.0)

    def to(self, device: torch.device) -> Batch:
        """The batch on a device."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> Batch:
        """The batch in pinned memory, as the loader requests it for a GPU."""
        return self._map(Tensor.pin_memory)

    def _map(self, change: Callable[[Tensor], Tensor]) -> Batch:
        dtm = None if self.dtm is None else change(self.dtm)
        return replace(self, image=change(self.image), label=change(self.label), dtm=dtm)

    def augmented(self) -> Batch:
        """The batch after its augmentations, which change its tensors in place."""
        if any(self.drawn):
            _, channels, x, y, z = self.image.shape
            info = PatchInfo(channels, (x, y, z), self.spacing, distances=self.dtm is not None)
            augment(Patches(self.image, self.label, self.dtm, info), self.drawn)
        return replace(self, drawn=())


@dataclass(frozen=True)
class PatchSettings:
    """How patches are cropped and augmented.

    Attributes:
        size: In voxels; a smaller case is padded with zeros on both sides, as in the sliding window.
        foreground_probability: Probability that a patch is placed around a labeled voxel.
        augmentations: Names in ``AUGMENTATIONS``.
        spacing: Of the arrays, in mm.
        flip_axes: Axes that ``flips`` may mirror.
    """

    size: Size
    foreground_probability: float
    augmentations: tuple[str, ...]
    spacing: Spacing = (1.0, 1.0, 1.0)
    flip_axes: tuple[str, ...] = ("x", "y", "z")


@dataclass(frozen=True)
class PatchSampler(Dataset[Batch]):
    """The batches of a run: item ``n`` is the batch of step ``n``, counted over all epochs.

    Cases come in shuffled passes, one after another regardless of epochs, so each is used equally often and every batch
    is full.

    Attributes:
        cases: Cases to train on.
        patches: How patches are cropped and augmented.
        batch_size: Patches of a batch.
        steps: Steps of an epoch.
        seed: Seed of the run.
        fold: Index of the fold.
        ranks: The processes that train together. Their batches concatenated are the batch that one process would make.
    """

    cases: tuple[CaseArrays, ...]
    patches: PatchSettings
    batch_size: int
    steps: int
    seed: int = 0
    fold: int = 0
    ranks: Ranks = field(default_factory=Ranks)

    def __getitem__(self, step: int) -> Batch:
        first = self.ranks.rank * self.batch_size
        places = range(first, first + self.batch_size)
        cases = [self._case_at(step * self.ranks.count * self.batch_size + place) for place in places]
        patches = [self._placed(case, step, place) for case, place in zip(cases, places, strict=True)]
        starts, drawn = zip(*patches, strict=True)
        size = self.patches.size
        volumes = [case.volumes for case in cases]
        image = _crops([arrays.image for arrays in volumes], starts, size, torch.float32)
        label = _crops([arrays.label for arrays in volumes], starts, size, torch.uint8)
        distances = [arrays.dtm for arrays in volumes if arrays.dtm is not None]
        dtm = _crops(distances, starts, size, torch.float32) if distances else None
        for index, case in enumerate(cases):
            if case.cached is None:
                check_finite(case.id, case.image, image[index])
            if case.cached is None and case.dtm is not None and dtm is not None:
                check_finite(case.id, case.dtm, dtm[index])
        return Batch(tuple(case.id for case in cases), image, label, dtm, drawn, self.patches.spacing)

    def _case_at(self, position: int) -> CaseArrays:
        number, place = divmod(position, len(self.cases))
        order = torch.randperm(len(self.cases), generator=seeded("order", self.seed, self.fold, number))
        return self.cases[int(order[place])]

    def _placed(self, case: CaseArrays, step: int, place: int) -> tuple[Size, Drawn]:
        """First voxel and augmentations of the patch at a place of a step, counted over all processes."""
        settings = self.patches
        generator = seeded("patch", self.seed, self.fold, *divmod(step, self.steps), place)
        start = patch_start(case, settings.size, settings.foreground_probability, generator)
        info = PatchInfo(case.channels, settings.size, settings.spacing, settings.flip_axes, case.dtm is not None)
        return start, draw(settings.augmentations, info, generator)


def patch_start(case: CaseArrays, size: Size, foreground_probability: float, generator: Generator) -> Size:
    """First voxel of a random patch; negative along an axis where the case is smaller, so that it is centered.

    With ``foreground_probability``, a class that is present and one of its voxels are drawn, and the patch is placed
    around that voxel at random. Otherwise, or without foreground, all patches inside the case are equally likely.
    """
    room = [n - width for n, width in zip(case.size, size, strict=True)]
    if case.labeled and uniform(generator, 0.0, 1.0) < foreground_probability:
        classes = case.voxels
        voxels = classes[_below(len(classes), generator)]
        center = np.unravel_index(int(voxels[_below(len(voxels), generator)]), case.size)
        drawn = [int(at) - _below(width, generator) for at, width in zip(center, size, strict=True)]
    else:
        drawn = [_below(max(0, free) + 1, generator) for free in room]
    x, y, z = (min(max(at, 0), free) if free >= 0 else -(-free // 2) for at, free in zip(drawn, room, strict=True))
    return x, y, z


def _below(limit: int, generator: Generator) -> int:
    return int(torch.randint(limit, (), generator=generator))


def _crops(arrays: Sequence[Tensor], starts: Sequence[Size], size: Size, dtype: torch.dtype) -> Tensor:
    """Voxels ``(patch, channel, x, y, z)`` of arrays, where these are, with zeros where a patch exceeds its array."""
    crops = torch.empty((len(arrays), len(arrays[0]), *size), dtype=dtype, device=arrays[0].device)
    for crop, array, start in zip(crops, arrays, starts, strict=True):
        spans = [(max(at, 0), min(at + width, n)) for at, width, n in zip(start, size, array.shape[1:], strict=True)]
        if any(last - first < width for (first, last), width in zip(spans, size, strict=True)):
            crop.zero_()
        into = [slice(first - at, last - at) for (first, last), at in zip(spans, start, strict=True)]
        crop[:, *into].copy_(array[:, *(slice(*span) for span in spans)])
    return crops
