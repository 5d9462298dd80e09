"""Compiled networks for prediction."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mist_ops.config import StudyConfig
from mist_ops.devices import autocast
from mist_ops.inference.sliding_window import window_batch

_LOG = logging.getLogger(__name__)


class Compiled(nn.Module):
    """A compiled network. Batches are padded with zeros to the size that it was compiled for."""

    def __init__(self, network: nn.Module, batch: int, backend: str) -> None:
        super().__init__()
        self.network, self._batch = network, batch
        self._compiled = torch.compile(network.forward, dynamic=False, backend=backend)

    def forward(self, windows: Float[Tensor, "window channel x y z"]) -> Float[Tensor, "window class x y z"]:
        """Logits of at most as many windows as were compiled for."""
        missing = self._batch - len(windows)
        if missing:
            windows = torch.cat([windows, windows.new_zeros((missing, *windows.shape[1:]))])
        logits = cast(Tensor, self._compiled(windows))
        return logits[: self._batch - missing]


def compile_networks(
    models: Sequence[nn.Module], config: StudyConfig, device: torch.device, backend: str = "inductor"
) -> list[nn.Module]:
    """Compile networks if ``training.hardware.compile`` is true; one that cannot be compiled stays as it is.

    By default they are not compiled, as compiling takes longer than the windows of a few cases, and masks would differ
    in a few voxels between a short and a long list of cases.

    Args:
        models: Networks in evaluation mode.
        config: Patch size, channels, precision and batch of windows.
        device: Where they will run; they are moved there to be compiled.
        backend: Of ``torch.compile``.
    """
    if not config.training.hardware.compile:
        return list(models)
    return [_compiled(model, config, device, backend) for model in models]


@torch.inference_mode()
def _compiled(model: nn.Module, config: StudyConfig, device: torch.device, backend: str) -> nn.Module:
    batch = window_batch(config, device)
    shape = (batch, config.model.params.in_channels, *config.spatial_config.patch_size)
    try:
        made = Compiled(model, batch, backend).eval().to(device)
        # Compilation is lazy.
        with autocast(device, config.training.amp):
            made(torch.zeros(shape, device=device))
    except Exception as error:  # each backend raises its own: for a missing compiler, for an unsupported operation
        # The first line of torch's message names the backend, the second what went wrong there.
        reason = " ".join((str(error).strip() or type(error).__name__).splitlines()[:2])
        _LOG.warning("The network cannot be compiled and predicts uncompiled: %s", reason)
        return model
    _LOG.info("Predicting with a compiled network, %d windows at a time.", batch)
    return made
