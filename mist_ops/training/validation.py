"""The loss on whole validation volumes, which selects the best weights of a fold."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from statistics import fmean

import torch
from monai.inferers.inferer import SlidingWindowInferer
from torch import Tensor, nn

from mist_ops.config import StudyConfig
from mist_ops.losses.objective import validation_loss
from mist_ops.records.passport import Windows
from mist_ops.training.cases import CaseArrays, check_finite
from mist_ops.training.distributed import Ranks

_LARGEST_ON_DEVICE = 2**28
"""Most logits of a volume that are stitched on the device (1 GiB of float32); others are stitched on the CPU."""


WINDOWS = Windows(overlap=0.5, blend_mode="gaussian")
"""Of the validation, so that what is set for predictions does not select other weights."""


@torch.no_grad()
def validate(
    model: nn.Module,
    *,
    cases: Sequence[CaseArrays],
    config: StudyConfig,
    device: torch.device,
    ranks: Ranks,
    bf16: bool,
) -> float:
    """Mean soft Dice loss over whole volumes, without the background and without test-time flips.

    Processes that train together share the cases, and all return the same mean, bit for bit that of one process.
    """
    model.eval()
    infer, own = _inferer(config), cases[ranks.rank :: ranks.count]
    # Fetched together, since each fetch waits for the device.
    found = []
    for image, label in _read_ahead(own):
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16):
            logits = infer(_batched(image, device), model)
        assert isinstance(logits, Tensor)
        found.append(validation_loss(logits, _batched(label, logits.device)))
    losses = torch.zeros(len(cases), dtype=torch.float64)
    losses[ranks.rank :: ranks.count] = torch.tensor([float(loss) for loss in found], dtype=torch.float64)
    for case, loss in zip(own, found, strict=True):
        if not loss.isfinite():
            check_finite(case.id, case.image, case.volumes.image)
    return fmean(ranks.sums(losses).tolist())


def _read_ahead(cases: Sequence[CaseArrays]) -> Iterator[tuple[Tensor, Tensor]]:
    """Images and labels of cases, each read while the one before it is predicted."""
    with ThreadPoolExecutor(1) as pool:
        begun = [pool.submit(_read, case) for case in cases[:1]]
        for following in [*cases[1:], None] if cases else []:
            volumes = begun.pop().result()
            begun = [] if following is None else [pool.submit(_read, following)]
            yield volumes


def _read(case: CaseArrays) -> tuple[Tensor, Tensor]:
    image, label, _ = case.volumes
    return image.contiguous(), label.contiguous()


def _inferer(config: StudyConfig) -> SlidingWindowInferer:
    return SlidingWindowInferer(
        roi_size=config.spatial_config.patch_size,
        sw_batch_size=2 * config.training.batch_size_per_gpu,
        overlap=WINDOWS.overlap,
        mode=WINDOWS.blend_mode,
        cpu_thresh=_LARGEST_ON_DEVICE // config.model.params.out_channels,
    )


def _batched(volume: Tensor, device: torch.device) -> Tensor:
    return volume.to(device)[None]
