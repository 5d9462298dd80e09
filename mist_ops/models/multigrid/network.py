"""Multigrid networks, built from MONAI's residual blocks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from monai.networks.blocks.dynunet_block import UnetResBlock
from monai.networks.nets.dynunet import DynUNet
from torch import Tensor, nn

from mist_ops.models.topology import Topology
from mist_ops.types import Size

_FILTERS = 32
_HEADS = 2


class MultigridNet(nn.Module):
    """A U-Net with spikes before its decoder: partial decoders from the bottleneck, each followed by an encoder.

    An upsampling block takes the upsampled features and the newest feature map of its level, the latter twice if the
    last spike that reached this level peaked there. The second copy carries no information. It is kept so that weights
    trained in MIST load and give the same logits: it costs 28,672 weights per block, 86,016 of the 1,464,329 of
    ``fmgnet`` and 200,704 of the 2,328,617 of ``wnet`` for a patch of 32x32x32 voxels.

    Args:
        in_channels: Channels of the image.
        out_channels: Classes.
        topology: Kernels and strides of each level.
        heights: Number of levels that each spike rises from the bottleneck.
    """

    def __init__(self, in_channels: int, out_channels: int, topology: Topology, heights: Sequence[int]) -> None:
        super().__init__()
        kernels, strides = topology.kernels, topology.strides
        bottleneck = len(strides) - 1
        *copies, last_copies = skip_copies(heights, bottleneck)
        channels = [in_channels, *[_FILTERS] * bottleneck]
        self.main_encoder = nn.ModuleList(map(_block, channels, kernels, strides))
        self.spikes = nn.ModuleList(Spike(topology, of_spike) for of_spike in copies)
        self.main_decoder_upsamples, self.main_decoder_blocks = _decoder(topology, last_copies)
        self.last_copies = last_copies
        self.final_output_conv = nn.Conv3d(_FILTERS, out_channels, kernel_size=1)
        self.deep_supervision_heads = nn.ModuleList(
            nn.Conv3d(_FILTERS, out_channels, kernel_size=1) for _ in range(_HEADS)
        )
        self.apply(DynUNet.initialize_weights)

    def forward(self, x: Float[Tensor, "batch channel x y z"]) -> Tensor | list[Tensor]:
        """Return logits at full resolution; in training mode a list that adds those of the next two levels."""
        features = []
        for down in self.main_encoder:
            x = down(x)
            features.append(x)
        for spike in self.spikes:
            features = spike(features)
        decoded = _decoded(features, self.main_decoder_upsamples, self.main_decoder_blocks, self.last_copies)
        logits: Tensor = self.final_output_conv(decoded[0])
        if not self.training:
            return logits
        coarser = decoded[1 : 1 + _HEADS]
        return [logits, *(head(level) for head, level in zip(self.deep_supervision_heads, coarser, strict=True))]


class Spike(nn.Module):
    """A partial decoder from the bottleneck and an encoder back down; ``copies`` is one list of ``skip_copies``."""

    def __init__(self, topology: Topology, copies: Sequence[int]) -> None:
        super().__init__()
        height = len(copies)
        kernels, strides = topology.kernels[-height:], topology.strides[-height:]
        self.copies = copies
        self.up_samples, self.up_blocks = _decoder(topology, copies)
        self.down_blocks = nn.ModuleList(map(_block, [_FILTERS] * height, kernels, strides))

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """Return the newest feature map of each level, finest first; those at the peak and below are replaced."""
        peak = _decoded(features, self.up_samples, self.up_blocks, self.copies)[0]
        updated = [peak]
        for down in self.down_blocks:
            updated.append(down(updated[-1]))
        return [*features[: -len(updated)], *updated]


def skip_copies(heights: Sequence[int], bottleneck: int) -> list[list[int]]:
    """Number of times that each upsampling block takes the newest feature map of its level: once or twice.

    Returns:
        A list per spike and one for the decoder, each from the bottleneck upwards.
    """
    peaks: set[int] = set()
    found = []
    for height in (*heights, bottleneck):
        peak = bottleneck - height
        found.append([2 if level in peaks else 1 for level in range(bottleneck - 1, peak - 1, -1)])
        peaks = {level for level in peaks if level < peak} | {peak}
    return found


def _decoder(topology: Topology, copies: Sequence[int]) -> tuple[nn.ModuleList, nn.ModuleList]:
    """Transposed convolutions and blocks of each level above the bottleneck, from the lowest upwards."""
    strides, kernels = topology.strides[::-1], topology.kernels[::-1]
    upsamples = [nn.ConvTranspose3d(_FILTERS, _FILTERS, step, step) for step in strides[: len(copies)]]
    blocks = [
        _block((1 + n) * _FILTERS, kernel, (1, 1, 1)) for n, kernel in zip(copies, kernels[: len(copies)], strict=True)
    ]
    return nn.ModuleList(upsamples), nn.ModuleList(blocks)


def _decoded(
    features: Sequence[Tensor], upsamples: nn.ModuleList, blocks: nn.ModuleList, copies: Sequence[int]
) -> list[Tensor]:
    """Feature map of each level above the bottleneck, finest first."""
    maps = [features[-1]]
    levels = reversed(features[-1 - len(blocks) : -1])
    for skip, up, block, n in zip(levels, upsamples, blocks, copies, strict=True):
        maps.append(block(torch.cat([up(maps[-1]), *[skip] * n], dim=1)))
    return maps[:0:-1]


def _block(in_channels: int, kernel: Size, stride: Size) -> nn.Module:
    block: nn.Module = UnetResBlock(3, in_channels, _FILTERS, kernel, stride, ("instance", {"affine": True}))
    return block
