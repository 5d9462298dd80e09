"""MedNeXt, built from MONAI's blocks."""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Float
from monai.networks.blocks.mednext_block import MedNeXtBlock, MedNeXtOutBlock, MedNeXtUpBlock
from monai.networks.nets import mednext
from torch import Tensor, nn

_FILTERS = 32


class MedNeXt(mednext.MedNeXt):
    """A U-Net of ConvNeXt blocks, with four deep-supervision heads (Roy et al., MICCAI 2023).

    It differs from MONAI's network in three ways. The upsampling blocks pad inside the transposed convolutions (see
    ``UpBlock``) and the heads are plain convolutions, both as in MIST, so that weights trained there load. And the
    coarser heads are computed in training mode only.

    Args:
        in_channels: Channels of the image.
        out_channels: Classes.
        expansion: Expansion ratio of each encoder stage, from the full resolution down.
        blocks: Blocks of each encoder stage.
        bottleneck: Expansion ratio and number of blocks of the bottleneck.
        kernel_size: Edge of the depthwise convolutions.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        expansion: Sequence[int],
        blocks: Sequence[int],
        bottleneck: tuple[int, int],
        kernel_size: int,
    ) -> None:
        bottleneck_expansion, bottleneck_blocks = bottleneck
        super().__init__(
            init_filters=_FILTERS,
            in_channels=in_channels,
            out_channels=out_channels,
            encoder_expansion_ratio=expansion,
            decoder_expansion_ratio=expansion[::-1],
            bottleneck_expansion_ratio=bottleneck_expansion,
            kernel_size=kernel_size,
            use_residual_connection=True,
            blocks_down=blocks,
            blocks_bottleneck=bottleneck_blocks,
            blocks_up=blocks[::-1],
        )
        widths = [_FILTERS * 2**level for level in (4, 3, 2, 1)]
        self.up_blocks = nn.ModuleList(
            UpBlock(width, ratio, kernel_size) for width, ratio in zip(widths, expansion[::-1], strict=True)
        )
        self.out_0 = Head(_FILTERS, out_channels)
        self.out_blocks = nn.ModuleList(Head(width, out_channels) for width in widths)

    def forward(self, x: Float[Tensor, "batch channel x y z"]) -> Tensor | list[Tensor]:
        """Return logits at full resolution; in training mode a list that adds those of the four coarser levels."""
        x = self.stem(x)
        skips = []
        for stage, down in zip(self.enc_stages, self.down_blocks, strict=True):
            skips.append(stage(x))
            x = down(skips[-1])
        decoded = [self.bottleneck(x)]
        for up, stage in zip(self.up_blocks, self.dec_stages, strict=True):
            decoded.append(stage(up(decoded[-1]) + skips.pop()))
        logits: Tensor = self.out_0(decoded.pop())
        if not self.training:
            return logits
        return [logits, *reversed([head(level) for head, level in zip(self.out_blocks, decoded, strict=True)])]


class UpBlock(MedNeXtUpBlock):
    """Double the resolution and halve the channels.

    MONAI's block omits the last plane of each axis and pads zeros before the first, after the nonlinearity. Here the
    transposed convolutions produce the last plane through ``output_padding``.
    """

    def __init__(self, channels: int, expansion: int, kernel_size: int) -> None:
        super().__init__(channels, channels // 2, expansion, kernel_size, use_residual_connection=True)
        for convolution in (self.conv1, self.res_conv):
            convolution.output_padding = (1, 1, 1)

    def forward(self, x: Float[Tensor, "batch channel x y z"]) -> Tensor:
        """Return half the channels at twice the voxels along each axis."""
        features: Tensor = MedNeXtBlock.forward(self, x) + self.res_conv(x)  # type: ignore[no-untyped-call]
        return features


class Head(MedNeXtOutBlock):
    """Deep-supervision head: a plain 1x1x1 convolution instead of MONAI's transposed one."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__(channels, classes, "3d")  # type: ignore[no-untyped-call]
        self.conv_out = nn.Conv3d(channels, classes, kernel_size=1)
