"""Settings that take a fold through all of its stages in a second or two."""

from __future__ import annotations

TINY = {
    "model.architecture": "nnunet-pocket",
    "spatial_config.patch_size": [32, 32, 32],
    "training.epochs": 1,
    "training.min_steps_per_epoch": 2,
    "inference.tta.enabled": False,
    "inference.inferer.params.patch_overlap": 0.0,
}
