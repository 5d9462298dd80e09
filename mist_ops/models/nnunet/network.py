"""nnU-Net, built on MONAI's DynUNet."""

from __future__ import annotations

from jaxtyping import Float
from monai.networks.nets.dynunet import DynUNet
from torch import Tensor

from mist_ops.models.topology import Topology


class UNet(DynUNet):
    """A U-Net with residual encoder blocks and two deep-supervision heads (Isensee et al., Nature Methods 2021).

    It differs from ``DynUNet`` in two ways. Each head keeps its own resolution, where its loss is cheaper to compute
    than on upsampled logits. And every weight has one name: the recursive ``skip_layers``, which register each weight
    a second time, are removed, so that a weights file is half as large and loads strictly.
    """

    def __init__(self, in_channels: int, out_channels: int, topology: Topology, filters: list[int]) -> None:
        super().__init__(
            spatial_dims=3,
            in_channels=in_channels,
            out_channels=out_channels,
            kernel_size=topology.kernels,
            strides=topology.strides,
            upsample_kernel_size=topology.strides[1:],
            filters=filters,
            deep_supervision=True,
            deep_supr_num=2,
            res_block=True,
            trans_bias=True,
        )
        del self.skip_layers

    def forward(self, x: Float[Tensor, "batch channel x y z"]) -> Tensor | list[Tensor]:
        """Return logits at full resolution; in training mode a list that adds those of the next two levels."""
        skips = [self.input_block(x)]
        for down in self.downsamples:
            skips.append(down(skips[-1]))
        features = self.bottleneck(skips[-1])
        decoded = []
        for up in self.upsamples:
            features = up(features, skips.pop())
            decoded.append(features)
        logits: Tensor = self.output_block(features)
        if not self.training:
            return logits
        coarser = reversed(decoded[-1 - len(self.deep_supervision_heads) : -1])
        return [logits, *(head(level) for head, level in zip(self.deep_supervision_heads, coarser, strict=True))]
