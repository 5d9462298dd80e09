"""The main memory that a prediction needs."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol, runtime_checkable

import torch

from mist_ops.config import StudyConfig
from mist_ops.dataset import Case
from mist_ops.imaging.geometry import CaseGeometry, Geometry
from mist_ops.imaging.nifti import read_geometry
from mist_ops.inference.sliding_window import MAIN_MEMORY, plan, window_batch
from mist_ops.study import Study
from mist_ops.types import Size, by


@runtime_checkable
class Reservation(Protocol):
    """Reserves main memory while a context is open."""

    def __call__(self, needed: int, *, wait: bool = True) -> AbstractContextManager[bool]:
        """Reserve bytes; wait until they are available, or else yield whether they are."""
        ...


@contextmanager
def no_limit(needed: int, *, wait: bool = True) -> Iterator[bool]:
    """Reserve nothing, whatever is needed."""
    yield True


_LOG = logging.getLogger(__name__)
BASELINE = 400 * 2**20
"""Bytes of a process that has loaded torch and MONAI."""

_ACTIVATIONS = 160
"""Values per voxel of a window that are in memory at once at full resolution: five tensors of 32 channels."""

_SUMS = {
    "memory": "",
    "disk": ", {:.1f} GiB of temporary files",
    "nowhere": ", windows between tiles computed more than once",
}
"""What the log says of sums by their place."""

_WHILE_RESAMPLING = 3
"""Values per voxel that are in memory while a channel is resampled, besides the channels. Peaks of scans of 128, 192
and 256 voxels cubed at 0.8, 1 and 1.25 mm: 2.0 to 3.7 values per voxel with one channel (5 estimated), and of the first
two sizes 5.5 to 10.5 with four (11 estimated)."""

_WHILE_WRITING = 8
"""Bytes per voxel that are in memory while a mask is postprocessed, compressed and written."""

_WHILE_WATCHING = 16
"""Bytes per voxel of a tile while its likeliest classes are found: an index of eight bytes, and comparisons."""

_WHILE_MEASURING = 24
"""Bytes per voxel while a scan is measured: one channel in float64, differences of it, and masks."""


def estimated_bytes(size: Size, original: Size, config: StudyConfig, device: torch.device, models: int = 1) -> int:
    """Estimate the peak main memory of predicting and restoring a volume, in bytes.

    Args:
        size: Of the preprocessed volume.
        original: Of the image files.
        config: Patch size, classes and channels.
        device: Where the networks run; logits and probabilities that are in the memory of a GPU do not count.
        models: Number of networks.
    """
    params = config.model.params
    found = plan(size, config, device, models)
    held = found.bytes_needed(params.out_channels) if found.place.type == "cpu" else 0
    image, labels = 4 * params.in_channels * math.prod(size), 2 * math.prod(original)
    values = _ACTIVATIONS + params.out_channels
    windows = window_batch(config, device) * math.prod(config.spatial_config.patch_size)
    return BASELINE + image + labels + held + (4 * values * windows if device.type == "cpu" else 0)


def estimated_for(geometry: CaseGeometry, config: StudyConfig, device: torch.device, models: int) -> int:
    """Estimate the peak main memory of predicting a case, and log it."""
    size, n_classes = geometry.preprocessed.size, config.model.params.out_channels
    needed, found = (
        estimated_bytes(size, geometry.original.size, config, device, models),
        plan(size, config, device, models),
    )
    _LOG.debug(
        "Predicting %s voxels, %d classes, %d tiles%s: about %.1f GiB of main memory, %.1f GiB for logits and "
        "probabilities on %s.",
        by(size),
        n_classes,
        math.prod(map(len, found.division.ends)),
        _SUMS[found.division.sums].format(found.division.bytes_on_disk(n_classes) / 2**30),
        needed / 2**30,
        found.bytes_needed(n_classes) / 2**30,
        found.place,
    )
    return needed


def watching_bytes(geometry: CaseGeometry, config: StudyConfig) -> int:
    """Estimate the main memory of watching a prediction, in bytes: a tile before and after a network, and the mask."""
    voxels = math.prod(geometry.preprocessed.size)
    tile = min(voxels, MAIN_MEMORY // (8 * config.model.params.out_channels))
    return (8 * config.model.params.out_channels + _WHILE_WATCHING) * tile + _WHILE_MEASURING * voxels


def reading_bytes(case: Case, study: Study | None, config: StudyConfig) -> int:
    """Estimate the peak main memory of reading and preprocessing a case from the sizes of its files, in bytes.

    Args:
        case: The patient.
        study: Whose arrays are read; the images of the case if None.
        config: Channels and target spacing.

    Raises:
        OSError: An array is missing.
        ImageError: The header of an image cannot be read.
    """
    if study is not None:
        return 2 * study.image(case.id).stat().st_size
    grid = read_geometry(next(iter(case.images.values())))
    resampled = 1 if config.preprocessing.skip else math.prod(grid.resampled(config.spatial_config.target_spacing).size)
    voxels = max(math.prod(grid.size), resampled)
    # Each channel is kept, one is resampled in float64 along an axis after the other, and all are stacked.
    return 4 * voxels * (2 * len(case.images) + _WHILE_RESAMPLING)


def writing_bytes(grid: Geometry) -> int:
    """Estimate the peak main memory of postprocessing and writing a mask, in bytes."""
    return _WHILE_WRITING * math.prod(grid.size)
