"""The multigrid family: ``fmgnet`` and ``wnet``, which go up and down between resolutions more than once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from mist_ops.models import Architecture, refuse_unknown_params
from mist_ops.models.topology import check_patch_size, fit_patch_size, topology
from mist_ops.registry import MODELS
from mist_ops.types import Size, Spacing

if TYPE_CHECKING:
    from torch import nn


def full_multigrid(bottleneck: int) -> list[int]:
    """How high each spike rises from a bottleneck that many levels down: each one level more, up to the top."""
    return list(range(1, bottleneck + 1))


def w_cycles(bottleneck: int) -> list[int]:
    """As ``full_multigrid``, but up to the top and down again, and with a spike of height 1 around each."""
    taller = [*range(2, bottleneck + 1), *range(bottleneck - 1, 1, -1)]
    return [1, *(height for tall in taller for height in (tall, 1))]


_SPIKES: Mapping[str, Callable[[int], list[int]]] = {"fmgnet": full_multigrid, "wnet": w_cycles}


def _builder(name: str) -> Callable[..., nn.Module]:
    def build(
        in_channels: int, out_channels: int, patch_size: Size, target_spacing: Spacing, **unknown: object
    ) -> nn.Module:
        from mist_ops.models.networks.multigrid import MultigridNet

        refuse_unknown_params(name, unknown)
        check_patch_size(patch_size, target_spacing)
        shape = topology(patch_size, target_spacing)
        return MultigridNet(in_channels, out_channels, shape, _SPIKES[name](len(shape.strides) - 1))

    return build


for _name in _SPIKES:
    MODELS.register(_name)(
        Architecture(
            _builder(_name),
            check_patch_size,
            fit_patch_size,
            encoder=("main_encoder.",),
            topology=topology,
        )
    )
