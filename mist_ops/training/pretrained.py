"""Weights from which a training may start, as a value. Loads without torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

InputChannels: TypeAlias = Literal["average", "first", "skip"]


@dataclass(frozen=True)
class Pretrained:
    """Pretrained weights.

    Attributes:
        weights: Weights of a trained network.
        config: config.json that it was trained with.
        input_channels: How tensors that see the image are adapted to another number of channels: every channel gets the
            mean over the pretrained channels or the first of them, or keeps its random initialization.
    """

    weights: Path
    config: Path
    input_channels: InputChannels = "average"
