"""nnU-Net (Isensee et al., Nature Methods 2021) and PocketNet (Celaya et al., IEEE TMI 2022), with 32 channels."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

from mist_ops.models import Architecture, refuse_unknown_params
from mist_ops.models.topology import check_patch_size, fit_patch_size, topology
from mist_ops.registry import MODELS
from mist_ops.types import Size, Spacing

if TYPE_CHECKING:
    from torch import nn

MAX_FILTERS: Mapping[str, int] = {"nnunet": 320, "nnunet-pocket": 32}
"""Filters start at 32 and double at each level up to this number."""


def _build(
    name: str, in_channels: int, out_channels: int, patch_size: Size, target_spacing: Spacing, **unknown: object
) -> nn.Module:
    from mist_ops.models.nnunet.network import UNet

    refuse_unknown_params(name, unknown)
    check_patch_size(patch_size, target_spacing)
    shape = topology(patch_size, target_spacing)
    filters = [min(32 * 2**level, MAX_FILTERS[name]) for level in range(len(shape.strides))]
    return UNet(in_channels, out_channels, shape, filters)


for _name in MAX_FILTERS:
    MODELS.register(_name)(
        Architecture(
            partial(_build, _name),
            check_patch_size,
            fit_patch_size,
            encoder=("input_block.", "downsamples.", "bottleneck."),
            topology=topology,
        )
    )
