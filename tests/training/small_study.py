"""A study of preprocessed noise with two boxes per case, and a tiny network that learns them quickly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from mist_ops.config import StudyConfig, override
from mist_ops.dataset import Fold
from mist_ops.files import write_array
from mist_ops.models import Architecture
from mist_ops.registry import MODELS
from mist_ops.study import Study

FOLD = Fold(0, training=("a", "b", "c"), validation=("d",), held_out=("d",))


class Tiny(nn.Module):
    """Two convolutions and a dropout, which draws from torch's global generator."""

    def __init__(self, in_channels: int, out_channels: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv3d(in_channels, 4, 3, padding=1), nn.ReLU(), nn.Dropout(dropout), nn.Conv3d(4, out_channels, 1)
        )

    def forward(self, image: Tensor) -> list[Tensor] | Tensor:
        """Logits."""
        logits: Tensor = self.layers(image)
        return [logits] if self.training else logits


TINY = Architecture(
    build=lambda in_channels, out_channels, patch_size, target_spacing, dropout=0.2: Tiny(
        in_channels, out_channels, dropout
    ),
    check_patch_size=lambda patch_size, spacing: None,
    fit_patch_size=lambda patch_size, spacing: patch_size,
    encoder=("layers.0.",),
)


def add_tiny() -> None:
    """Register the architecture ``tiny`` in another process."""
    MODELS.register("tiny")(TINY)


def small_config(**training: Any) -> StudyConfig:
    """Three epochs of four steps on patches of 8 voxels."""
    labels, channels = [0, 1, 2], ["t1"]
    config = StudyConfig.model_validate(
        {
            "mist_version": "test",
            "dataset_info": {"task": "boxes", "modality": "mr", "images": channels, "labels": labels},
            "spatial_config": {"patch_size": (8, 8, 8), "target_spacing": (1.0, 1.0, 1.0)},
            "preprocessing": {"median_resampled_image_size": (12, 10, 11)},
            "model": {"architecture": "tiny", "params": {"in_channels": 1, "out_channels": 3}},
            "training": {"epochs": 3, "min_steps_per_epoch": 4, "warmup_epochs": 1, "learning_rate": 0.01},
            "evaluation": {},
        }
    )
    return override(config, {f"training.{name}": value for name, value in training.items()})


def small_study(folder: Path) -> Study:
    """The arrays of the cases ``a`` to ``d``."""
    study = Study("boxes", numpy=folder / "numpy", results=folder / "results")
    for seed, case_id in enumerate("abcd"):
        write_case(study, case_id, seed)
    return study


def write_case(study: Study, case_id: str, seed: int) -> None:
    """A box of each class, as bright as its index, in noise."""
    labels = np.zeros((12, 10, 11, 1), np.uint8)
    labels[2:6, 3:7, 3:7] = 1
    labels[7:10, 3:7, 3:7] = 2
    noise = np.random.default_rng(seed).normal(0.0, 0.2, labels.shape)
    write_array(study.image(case_id), (labels + noise).astype(np.float32))
    write_array(study.label(case_id), labels)
