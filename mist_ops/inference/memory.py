"""The main memory that a prediction needs."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch

from mist_ops.config import StudyConfig
from mist_ops.imaging.geometry import CaseGeometry
from mist_ops.inference.slabs import slab_bytes
from mist_ops.inference.sliding_window import planned_slabs, window_batch
from mist_ops.types import Size

Reservation = Callable[[int], AbstractContextManager[object]]
"""Reserves bytes of main memory while the context is open; waits until they are available."""

no_limit: Reservation = nullcontext
"""Reserves nothing."""

_LOG = logging.getLogger(__name__)
_BASELINE = 400 * 2**20
"""Bytes of a process that has loaded torch and MONAI."""

_ACTIVATIONS = 160
"""Values per voxel of a window that are in memory at once at full resolution: five tensors of 32 channels."""


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
