"""The Swin UNETR, which is MONAI's."""

from __future__ import annotations

from jaxtyping import Float
from monai.networks.nets import swin_unetr
from torch import Tensor


class SwinUNETR(swin_unetr.SwinUNETR):
    """A U-Net whose encoder is a Swin transformer, with a residual convolution before each stage.

    This is its second version (He et al., MICCAI 2023). It has no deep supervision: in training mode its list has one
    element.
    """

    def __init__(self, in_channels: int, out_channels: int, features: int) -> None:
        super().__init__(in_channels=in_channels, out_channels=out_channels, feature_size=features, use_v2=True)

    def forward(self, x: Float[Tensor, "batch channel x y z"]) -> Tensor | list[Tensor]:
        """Logits at full resolution, in training mode as a list."""
        logits: Tensor = super().forward(x)  # type: ignore[no-untyped-call]
        return [logits] if self.training else logits
