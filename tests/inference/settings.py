"""Settings of a small study for the inference tests."""

from __future__ import annotations

from mist_ops.config import StudyConfig


def settings() -> StudyConfig:
    """One MR channel, three classes, 1 mm, nnunet-pocket."""
    return StudyConfig.model_validate(
        {
            "mist_version": "test",
            "dataset_info": {"task": "test", "modality": "mr", "images": ["mri"], "labels": [0, 1, 2]},
            "spatial_config": {"patch_size": (16, 16, 16), "target_spacing": (1.0, 1.0, 1.0)},
            "preprocessing": {"median_resampled_image_size": (40, 40, 40), "resampling": "accurate"},
            "model": {"architecture": "nnunet-pocket", "params": {"in_channels": 1, "out_channels": 3}},
            "training": {},
            "evaluation": {},
        }
    )
