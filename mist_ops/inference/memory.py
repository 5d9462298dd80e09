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
from mist_ops.inference.slabs import slab_bytes
from mist_ops.inference.sliding_window import planned_slabs, window_batch
from mist_ops.study import Study
from mist_ops.types import Size


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
_BASELINE = 400 * 2**20
"""Bytes of a process that has loaded torch and MONAI."""

_ACTIVATIONS = 160
"""Values per voxel of a window that are in memory at once at full resolution: five tensors of 32 channels."""

_WHILE_RESAMPLING = 6
"""Values per voxel that are in memory while a channel is resampled, besides the channels."""

_WHILE_WRITING = 8
"""Bytes per voxel that are in memory while a mask is postprocessed, compressed and written."""


def estimated_bytes(size: Size, original: Size, config: StudyConfig, device: torch.device) -> int:
    """Estimate the peak main memory of predicting and restoring a volume, in bytes.

    Args:
        size: Of the preprocessed volume.
        original: Of the image files.
        config: Patch size, classes and channels.
        device: Where the networks run; activations on a GPU do not count.
    """
    params, patch = config.model.params, config.spatial_config.patch_size
    overlap = config.inference.inferer.params.patch_overlap
    held = slab_bytes(planned_slabs(size, config, device), size, patch, overlap, params.out_channels)
    image, labels = 4 * params.in_channels * math.prod(size), 2 * math.prod(original)
    batch = config.inference.inferer.params.sw_batch_size or window_batch(config, device)
    activations = 0 if device.type == "cuda" else _ACTIVATIONS * 4 * batch * math.prod(patch)
    return _BASELINE + image + labels + held + activations


def estimated_for(geometry: CaseGeometry, config: StudyConfig, device: torch.device) -> int:
    """Estimate the peak main memory of predicting a case, and log it."""
    size = geometry.preprocessed.size
    needed = estimated_bytes(size, geometry.original.size, config, device)
    _LOG.debug(
        "Predicting %s voxels, %d classes, %d slabs: about %.1f GiB of memory.",
        "x".join(map(str, size)),
        config.model.params.out_channels,
        len(planned_slabs(size, config, device)),
        needed / 2**30,
    )
    return needed


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
