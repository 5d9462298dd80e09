"""The MedNeXt, on MONAI's blocks."""

from __future__ import annotations

from jaxtyping import Float
from monai.networks.blocks.mednext_block import MedNeXtBlock, MedNeXtOutBlock, MedNeXtUpBlock
from monai.networks.nets import mednext
from torch import Tensor, nn

from mist_ops.models.mednext import Variant

_FILTERS = 32


class MedNeXt(mednext.MedNeXt):
    """A U-Net of ConvNeXt blocks, with four deep-supervision heads (Roy et al., MICCAI 2023).

    Departs from MONAI's network in three ways. Its blocks that go up pad the transposed convolutions inside (see
    ``UpBlock``) and its heads are plain convolutions, both as in MIST, so that weights trained there fit. And the
    coarser heads are computed in training only.
    """

    def __init__(self, in_channels: int, out_channels: int, variant: Variant, kernel_size: int) -> None:
        expansion, blocks = variant.bottleneck
        super().__init__(
            init_filters=_FILTERS,
            in_channels=in_channels,
            out_channels=out_channels,
            encoder_expansion_ratio=variant.expansion,
            decoder_expansion_ratio=variant.expansion[::-1],
            bottleneck_expansion_ratio=expansion,
            kernel_size=kernel_size,
            use_residual_connection=True,
            blocks_down=variant.blocks,
            blocks_bottleneck=blocks,
            blocks_up=variant.blocks[::-1],
        )
        widths = [_FILTERS * 2**level for level in (4, 3, 2, 1)]
        self.up_blocks = nn.ModuleList(
            UpBlock(width, ratio, kernel_size) for width, ratio in zip(widths, variant.expansion[::-1], strict=True)
        )
        self.out_0 = Head(_FILTERS, out_channels)
        self.out_blocks = nn.ModuleList(Head(width, out_channels) for width in widths)

    def forward(self, x: Float[Tensor, "batch channel x y z"]) -> Tensor | list[Tensor]:
        """Logits at full resolution; in training mode followed by those of the four levels below, each at its own."""
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
    """Doubles the resolution and halves the channels.

    MONAI's block leaves the last plane of each axis away and puts a plane of zeros before the first, after the
    nonlinearity. Here the transposed convolutions make the last plane themselves.
    """

    def __init__(self, channels: int, expansion: int, kernel_size: int) -> None:
        super().__init__(channels, channels // 2, expansion, kernel_size, use_residual_connection=True)
        for convolution in (self.conv1, self.res_conv):
            convolution.output_padding = (1, 1, 1)

    def forward(self, x: Float[Tensor, "batch channel x y z"]) -> Tensor:
        """Features of half the channels on twice the voxels along each axis."""
        features: Tensor = MedNeXtBlock.forward(self, x) + self.res_conv(x)  # type: ignore[no-untyped-call]
        return features


class Head(MedNeXtOutBlock):
    """Logits of one resolution, by a plain convolution in place of MONAI's transposed one."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__(channels, classes, "3d")  # type: ignore[no-untyped-call]
        self.conv_out = nn.Conv3d(channels, classes, kernel_size=1)
