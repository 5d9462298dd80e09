"""The loss of a batch in a training step: network, precision, compilation and the other processes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mist_ops.config import StudyConfig
from mist_ops.devices import compiled
from mist_ops.losses.objective import make_objective
from mist_ops.records.passport import Computing
from mist_ops.registry import LOSSES
from mist_ops.training.batches import Batch
from mist_ops.training.distributed import Ranks

STEPS_TO_COMPILE = 5000
"""Fewest steps that make up for the minute that compiling takes, if each becomes 10 to 30 ms faster."""


@dataclass(frozen=True)
class BatchLoss:
    """The loss of a model on a batch.

    Attributes:
        compute: Loss of images, labels and distance maps, given the alpha of a blended loss.
        device: Where it is computed.
        bf16: Whether convolutions are computed in BF16.
        uncompiled: Why it is not compiled; None if it is.
    """

    compute: Callable[[Tensor, Tensor, Tensor | None, float | None], Tensor]
    device: torch.device
    bf16: bool
    uncompiled: str | None

    def __call__(self, batch: Batch, alpha: float | None) -> Tensor:
        """Move a batch to the device, augment it there, and return its loss."""
        batch = batch.to(self.device).augmented()
        return self.compute(batch.image, batch.label, batch.dtm, alpha)


def batch_loss(
    config: StudyConfig, model: nn.Module, device: torch.device, ranks: Ranks, steps: int, computing: Computing
) -> BatchLoss:
    """Prepare the loss of a model for a number of steps.

    Network and loss are compiled together, so that the logits are read once. With several processes or a blended loss,
    whose alpha changes, only the network is compiled.
    """
    training = config.training
    objective = make_objective(training.loss.name, spacing=config.spatial_config.target_spacing)
    bf16, uncompiled = computing.precision == "bf16", _why_uncompiled(training.hardware.compile, device, steps)
    together = ranks.count == 1 and LOSSES[training.loss.name].blended_with is None
    network = model
    if uncompiled is None and not together:
        network, uncompiled = compiled(network, model, example_batch(config, device)[:1], bf16=bf16)
    network = ranks.wrap(network, device)

    def compute(image: Tensor, label: Tensor, dtm: Tensor | None, alpha: float | None) -> Tensor:
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16):
            outputs = network(image)
        return objective(outputs, label, dtm, **({} if alpha is None else {"alpha": alpha}))

    if uncompiled is None and together:
        whole, uncompiled = compiled(compute, model, (*example_batch(config, device), None), bf16=bf16)
        return BatchLoss(whole, device, bf16, uncompiled)
    return BatchLoss(compute, device, bf16, uncompiled)


def _why_uncompiled(requested: bool | None, device: torch.device, steps: int) -> str | None:
    if requested is not None:
        return None if requested else "training.hardware.compile is false"
    if device.type == "cpu":
        return "on a CPU it does not pay off"
    return None if steps >= STEPS_TO_COMPILE else f"for fewer than {STEPS_TO_COMPILE} steps it does not pay off"


def example_batch(config: StudyConfig, device: torch.device) -> tuple[Tensor, Tensor, Tensor | None]:
    """A batch of zeros: image, label and, if the loss needs them, distance maps."""
    batch, size = config.training.batch_size_per_gpu, config.spatial_config.patch_size
    channels, classes = config.model.params.in_channels, config.model.params.out_channels
    image, label = (
        torch.zeros((batch, depth, *size), dtype=dtype, device=device)
        for depth, dtype in ((channels, torch.float32), (1, torch.uint8))
    )
    needed = "dtm" in LOSSES[config.training.loss.name].needs
    return image, label, torch.zeros((batch, classes, *size), device=device) if needed else None
