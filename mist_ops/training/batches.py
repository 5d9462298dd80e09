"""Batches of random patches, each a function of the seed and its step alone.

Each patch is drawn from a generator of its own, so it is the same however many processes read ahead, whichever of
them makes it, among how many devices a step is shared out, and whether the run came there in one go or was resumed.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float32, UInt8
from torch import Generator, Tensor
from torch.utils.data import DataLoader, Dataset

from mist_ops.augmentation import Patch, augment, uniform
from mist_ops.errors import CaseError, MistError
from mist_ops.types import Size, Spacing

VOXELS_PER_CLASS = 10_000
"""Voxels of a class that are remembered per case to draw patches around: 40 kB, and denser than a patch is wide."""


class Batch(NamedTuple):
    """Patches and the cases they were cut from, in the same order."""

    cases: tuple[str, ...]
    image: Float32[Tensor, "batch channel x y z"]
    label: UInt8[Tensor, "batch 1 x y z"]
    dtm: Float32[Tensor, "batch class x y z"] | None

    def to(self, device: torch.device) -> Batch:
        """The batch on a device."""
        image, label = (tensor.to(device, non_blocking=True) for tensor in (self.image, self.label))
        return Batch(self.cases, image, label, None if self.dtm is None else self.dtm.to(device, non_blocking=True))


@dataclass(frozen=True)
class CaseArrays:
    """The preprocessed arrays of a case, memory-mapped when read, and where its classes lie.

    Attributes:
        id: Id of the case.
        image: Float32 ``(x, y, z, channel)``.
        label: Uint8 class indices ``(x, y, z, 1)``.
        dtm: Float16 or float32 ``(x, y, z, class)``, where the loss needs it.
        size: Voxels along x, y, z.
        voxels: For each class present but the background, flat indices of some of its voxels.
    """

    id: str
    image: Path
    label: Path
    dtm: Path | None
    size: Size
    voxels: tuple[np.ndarray, ...]


def index_case(case_id: str, image: Path, label: Path, dtm: Path | None, channels: int, classes: int) -> CaseArrays:
    """Check the arrays of a case and note some voxels of each class, so that no volume is searched while training.

    Which voxels are kept of a large class depends on the id alone.

    Raises:
        CaseError: Arrays that cannot be read, or that do not fit one another, the number of channels, or the number of
            classes.
    """
    labels = _opened(case_id, label, "ui")
    size = labels.shape[:3]
    others = [_opened(case_id, path, "f") for path in (image, dtm) if path is not None]
    found = [labels.shape, *(array.shape for array in others)]
    expected = [(*size, 1), (*size, channels), *([] if dtm is None else [(*size, classes)])]
    if found != expected:
        raise CaseError(
            case_id,
            f"its arrays (label, image, distance maps) have the shapes {_words(found)}, but {_words(expected)} are "
            "expected. Preprocess it again.",
        )
    where = np.flatnonzero(labels)
    values = labels.reshape(-1)[where]
    _check_classes(case_id, values, classes)
    kept = (_some(where[values == index], case_id, index) for index in range(1, classes))
    x, y, z = size
    return CaseArrays(case_id, image, label, dtm, (x, y, z), tuple(voxels for voxels in kept if len(voxels)))


def _opened(case_id: str, path: Path, kinds: str) -> np.ndarray:
    """An array on disk, memory-mapped; ``kinds`` are those of NumPy that its values may have."""
    try:
        array = np.lib.format.open_memmap(path, mode="r")
    except (OSError, ValueError) as error:
        raise CaseError(case_id, f"{path} cannot be read as an array ({error}). Preprocess it again.") from error
    if array.dtype.kind not in kinds:
        wanted = "floating-point numbers" if kinds == "f" else "whole numbers"
        raise CaseError(case_id, f"{path} holds {array.dtype.name}, but {wanted} are expected. Preprocess it again.")
    return array


def _check_classes(case_id: str, values: np.ndarray, classes: int) -> None:
    wrong = values[(values < 0) | (values >= classes)]
    if wrong.size:
        raise CaseError(
            case_id,
            f"its label array holds {wrong[0]}, but class indices are 0 to {classes - 1}. "
            "Labels of the dataset must be turned into class indices: preprocess it again.",
        )


def check_finite(case_id: str, what: str, voxels: Tensor) -> None:
    """Refuse NaN and infinite voxels, which would make the weights so too.

    Raises:
        CaseError: There are some.
    """
    if not bool(torch.isfinite(voxels).all()):
        raise CaseError(case_id, f"its {what} holds values that are not finite. Preprocess it again.")


def _words(shapes: Sequence[tuple[int, ...]]) -> str:
    return ", ".join("x".join(map(str, shape)) for shape in shapes)


def _some(voxels: np.ndarray, case_id: str, index: int) -> np.ndarray:
    if len(voxels) > VOXELS_PER_CLASS:
        drawn = torch.randperm(len(voxels), generator=seeded("voxels", case_id, index))
        voxels = np.sort(voxels[drawn[:VOXELS_PER_CLASS].numpy()])
    return voxels.astype(np.uint32)


@dataclass(frozen=True)
class PatchSampler(Dataset[Batch]):
    """The batches of a run: item ``n`` is that of its ``n``-th step, counted over all epochs.

    The cases come in shuffled passes, one after another without regard to epochs, so each is used equally often and
    every batch is full.

    Attributes:
        cases: Cases to draw from.
        patch_size: Voxels of a patch; a smaller case is padded with zeros on both sides, as the sliding window does.
        batch_size: Patches of a batch.
        foreground_probability: How often a patch is drawn around a labelled voxel.
        augmentations: Names in ``AUGMENTATIONS``.
        seed: Seed of the run.
        fold: Index of the fold.
        steps: Steps of an epoch.
        rank: Number of this process among ``ranks`` that train together.
        ranks: Processes that train together; their batches in a row are the batch that one process would make.
        spacing: Of the cases, in mm.
        flip_axes: Axes that may be mirrored.
    """

    cases: tuple[CaseArrays, ...]
    patch_size: Size
    batch_size: int
    foreground_probability: float
    augmentations: tuple[str, ...]
    seed: int
    fold: int
    steps: int
    rank: int = 0
    ranks: int = 1
    spacing: Spacing = (1.0, 1.0, 1.0)
    flip_axes: tuple[str, ...] = ("x", "y", "z")

    def __getitem__(self, step: int) -> Batch:
        places = range(self.rank * self.batch_size, (self.rank + 1) * self.batch_size)
        cases = [self._case_at(step * self.ranks * self.batch_size + place) for place in places]
        patches = [self._augmented(case, step, place) for case, place in zip(cases, places, strict=True)]
        distances = [patch.dtm for patch in patches if patch.dtm is not None]
        return Batch(
            tuple(case.id for case in cases),
            torch.stack([patch.image for patch in patches]),
            torch.stack([patch.label for patch in patches]),
            torch.stack(distances) if distances else None,
        )

    def _case_at(self, position: int) -> CaseArrays:
        number, place = divmod(position, len(self.cases))
        order = torch.randperm(len(self.cases), generator=seeded("order", self.seed, self.fold, number))
        return self.cases[int(order[place])]

    def _augmented(self, case: CaseArrays, step: int, place: int) -> Patch:
        """The patch at a place in what all processes together make of a step."""
        generator = seeded("patch", self.seed, self.fold, *divmod(step, self.steps), place)
        return augment(self._patch(case, generator), self.augmentations, generator)

    def _patch(self, case: CaseArrays, generator: Generator) -> Patch:
        start = patch_start(case, self.patch_size, self.foreground_probability, generator)
        image, label = (_cut(path, start, self.patch_size) for path in (case.image, case.label))
        dtm = None if case.dtm is None else _cut(case.dtm, start, self.patch_size).float()
        check_finite(case.id, "image array", image)
        if dtm is not None:
            check_finite(case.id, "array of distance maps", dtm)
        return Patch(image, label, dtm, self.spacing, self.flip_axes)


def patch_start(case: CaseArrays, size: Size, foreground_probability: float, generator: Generator) -> Size:
    """First voxel of a random patch: negative along an axis where the case is smaller, centred there.

    With ``foreground_probability`` a voxel is drawn, each class present being as likely as another, and the patch lies
    around it at random; otherwise, or without foreground, every patch inside the case is as likely as another.
    """
    room = [n - wanted for n, wanted in zip(case.size, size, strict=True)]
    if case.voxels and uniform(generator, 0.0, 1.0) < foreground_probability:
        voxels = case.voxels[_below(len(case.voxels), generator)]
        center = np.unravel_index(int(voxels[_below(len(voxels), generator)]), case.size)
        drawn = [int(at) - _below(wanted, generator) for at, wanted in zip(center, size, strict=True)]
    else:
        drawn = [_below(max(0, free) + 1, generator) for free in room]
    x, y, z = (min(max(at, 0), free) if free >= 0 else -(-free // 2) for at, free in zip(drawn, room, strict=True))
    return x, y, z


def _below(limit: int, generator: Generator) -> int:
    return int(torch.randint(limit, (), generator=generator))


def _cut(path: Path, start: Size, size: Size) -> Tensor:
    """Voxels ``(channel, x, y, z)`` of a memory-mapped array, zeros where the patch reaches out of it."""
    array = np.load(path, mmap_mode="r")
    inside = tuple(slice(max(at, 0), at + n) for at, n in zip(start, size, strict=True))
    voxels = np.moveaxis(array[inside], -1, 0)
    before = [max(-at, 0) for at in start]
    widths = [(low, n - low - found) for low, n, found in zip(before, size, voxels.shape[1:], strict=True)]
    return torch.from_numpy(np.ascontiguousarray(np.pad(voxels, [(0, 0), *widths])))


def seeded(*key: str | int) -> Generator:
    """A generator whose draws depend on the key alone; keys that differ give unrelated draws."""
    digest = hashlib.sha256(repr(key).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big"))


def stream(sampler: PatchSampler, steps: Sequence[int], workers: int, pin_memory: bool = False) -> Iterator[Batch]:
    """The batches of some steps, one after another; nothing starts before the first is asked for.

    One stream serves a whole run, so that workers start once and read ahead while the model is validated.

    Args:
        sampler: Makes them.
        steps: Steps to make, counted over all epochs.
        workers: Processes that read ahead; with 0, batches are made when they are asked for.
        pin_memory: Whether to put them where a GPU copies from fastest.
    """
    attempts = DataLoader(
        _Attempts(sampler),
        batch_size=None,
        sampler=steps,
        num_workers=workers,
        # Not fork: the parent may hold threads (Dagster, BLAS), which a forked child would inherit half-alive.
        multiprocessing_context=multiprocessing.get_context("forkserver") if workers else None,
        pin_memory=pin_memory,
        # The loader draws a seed for its workers; taken from here, it leaves the global generator alone.
        generator=torch.Generator().manual_seed(0),
    )
    for batch in attempts:
        if isinstance(batch, Exception):
            raise batch
        yield batch


@dataclass(frozen=True)
class _Attempts(Dataset[Batch | Exception]):
    """The batches of a sampler, or what stopped one: an error raised in a worker comes as another, with its trace."""

    sampler: PatchSampler

    def __getitem__(self, step: int) -> Batch | Exception:
        try:
            return self.sampler[step]
        except (MistError, OSError) as error:
            return error


def default_workers(wanted: int, device: torch.device) -> int:
    """Processes that read ahead when nothing else is asked for: at most one a core, and none beside a CPU.

    On a CPU the step uses every core, and a worker takes from it what it saves.
    """
    return 0 if device.type == "cpu" else min(wanted, len(os.sched_getaffinity(0)))
