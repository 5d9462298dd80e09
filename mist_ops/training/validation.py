"""How good a model is on whole volumes: what the best weights of a fold are chosen by."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

import numpy as np
import torch
from monai.inferers.inferer import SlidingWindowInferer
from torch import Tensor, nn

from mist_ops.config import StudyConfig
from mist_ops.devices import autocast
from mist_ops.losses.objective import validation_loss
from mist_ops.training.batches import CaseArrays, check_finite
from mist_ops.training.distributed import Ranks

_LARGEST_ON_DEVICE = 2**28
"""Logits of a validation volume that stay on the device (1 GiB); a larger one is put together on the CPU."""


@torch.no_grad()
def validate(
    model: nn.Module, *, cases: Sequence[CaseArrays], config: StudyConfig, device: torch.device, ranks: Ranks
) -> float:
    """Mean over whole volumes of the soft Dice loss without the background, predicted as at inference but unflipped.

    The cases are shared out among the processes that train together, and each gets the same mean, bit for bit that of
    a single process.
    """
    model.eval()
    infer = _inferer(config)
    losses = torch.zeros(len(cases), dtype=torch.float64)
    for index in range(ranks.rank, len(cases), ranks.count):
        case = cases[index]
        with autocast(device, config.training.amp):
            logits = infer(_volume(case.image, device), model)
        assert isinstance(logits, Tensor)
        losses[index] = float(validation_loss(logits, _volume(case.label, logits.device)))
        if not losses[index].isfinite():
            check_finite(case.id, "image array", _volume(case.image, device))
    return fmean(ranks.sums(losses).tolist())


def _inferer(config: StudyConfig) -> SlidingWindowInferer:
    window = config.inference.inferer.params
    return SlidingWindowInferer(
        roi_size=config.spatial_config.patch_size,
        sw_batch_size=window.sw_batch_size or 2 * config.training.batch_size_per_gpu,
        overlap=window.patch_overlap,
        mode=window.patch_blend_mode,
        cpu_thresh=_LARGEST_ON_DEVICE // config.model.params.out_channels,
    )


def _volume(path: Path, device: torch.device) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(np.load(path), -1, 0)))[None].to(device)
