"""Swin UNETR, MONAI's implementation."""

from __future__ import annotations

from contextlib import nullcontext

import torch
from jaxtyping import Float
from monai.networks.nets import swin_unetr
from torch import Tensor


class SwinUNETR(swin_unetr.SwinUNETR):
    """A U-Net whose encoder is a Swin transformer, with a residual convolution before each stage.

    This is the second version (He et al., MICCAI 2023). It has no deep supervision: in training mode the list has one
    element.
    """

    def __init__(self, in_channels: int, out_channels: int, features: int) -> None:
        super().__init__(in_channels=in_channels, out_channels=out_channels, feature_size=features, use_v2=True)

    def forward(self, x: Float[Tensor, "batch channel x y z"]) -> Tensor | list[Tensor]:
        """Return logits at full resolution, in training mode as a list."""
        # In BF16 on a CPU the gradients of the attention overflow within ten steps; in FP32 their norm stays near 1.5.
        full_precision = x.device.type == "cpu"
        with torch.autocast("cpu", enabled=False) if full_precision else nullcontext():
            halved = full_precision and x.dtype in (torch.bfloat16, torch.float16)
            logits: Tensor = super().forward(x.float() if halved else x)  # type: ignore[no-untyped-call]
        return [logits] if self.training else logits
