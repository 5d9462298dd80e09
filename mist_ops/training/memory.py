"""The memory that a training step needs on its device."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import suppress
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode  # tensors without values have no public name
from torch.autograd.graph import saved_tensors_hooks

from mist_ops.config import StudyConfig
from mist_ops.losses.objective import make_objective
from mist_ops.registry import LOSSES, OPTIMIZERS
from mist_ops.training.step import example_batch

_LOG = logging.getLogger(__name__)

_WORKING = 2
"""Tensors of the size of the largest activation that the backward pass holds besides: two gradients."""


class Needed(NamedTuple):
    """Bytes that a training step needs.

    Attributes:
        weights: Weights, their gradients, and the state of the optimizer.
        activations: What the forward pass keeps for the backward pass.
        working: What the backward pass holds besides.
    """

    weights: int
    activations: int
    working: int

    @property
    def total(self) -> int:
        """All of them."""
        return sum(self)


def estimate_step(
    config: StudyConfig, model: nn.Module, device: torch.device, *, bf16: bool, processes: int = 1
) -> Needed | None:
    """Estimate the memory of an uncompiled training step by a forward pass without values, which takes no memory.

    Compiled code needs less. The workspace of convolutions and the fragmentation of memory are not included.

    Args:
        config: Patch size, batch, channels, classes, loss and optimizer.
        model: In training mode; it is not changed.
        device: Where it is.
        bf16: Whether convolutions are computed in BF16.
        processes: Processes that train together; several need a second copy of the gradients.

    Returns:
        None if the network cannot run without values.
    """
    if any(isinstance(module, nn.SyncBatchNorm) for module in model.modules()):
        return None  # it would wait for the other processes
    try:
        activations = list(_saved(config, model, device, bf16).values())
    except Exception as error:  # operations whose result decides what follows
        _LOG.debug("The memory of a step is not estimated: %s", error)
        return None
    weights = sum(weight.nbytes for weight in model.parameters())
    copies = 2 + _optimizer_copies(config) + (processes > 1)
    return Needed(copies * weights, sum(activations), _WORKING * max(activations, default=0))


def _saved(config: StudyConfig, model: nn.Module, device: torch.device, bf16: bool) -> Mapping[int, int]:
    """Bytes of each block of memory that is kept for the backward pass, without the weights."""
    loss, mode = config.training.loss.name, FakeTensorMode(allow_non_fake_inputs=True)
    objective = make_objective(loss, spacing=config.spatial_config.target_spacing)
    blended = {} if LOSSES[loss].blended_with is None else {"alpha": 0.5}
    kept: dict[int, int] = {}
    tensors: list[Tensor] = []  # so that no two blocks have the same address
    with mode, torch.enable_grad():
        weights = {_block(weight) for weight in model.parameters()}  # autograd keeps them with their values

        def keep(tensor: Tensor) -> Tensor:
            if _block(tensor) not in weights:
                kept[_block(tensor)] = tensor.untyped_storage().nbytes()
                tensors.append(tensor)
            return tensor

        with saved_tensors_hooks(keep, lambda tensor: tensor):
            image, label, dtm = example_batch(config, device)
            with torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16):
                outputs = model(image)
            with suppress(Exception):  # some losses depend on values; the network needs by far the most
                objective(outputs, label, dtm, **blended)
    return kept


def _block(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _optimizer_copies(config: StudyConfig) -> int:
    """Values that the optimizer keeps for each weight."""
    weight = nn.Parameter(torch.zeros(8))
    weight.grad = torch.zeros(8)
    training = config.training
    optimizer = OPTIMIZERS[training.optimizer]([weight], training.learning_rate, training.l2_penalty)
    optimizer.step()
    return sum(isinstance(kept, Tensor) and kept.shape == weight.shape for kept in optimizer.state[weight].values())
