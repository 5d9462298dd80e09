"""Peak memory of prediction and training, compared with the estimate.

python bench/memory.py predict --size 512 512 400 --classes 10 --patch 128
python bench/memory.py train --model nnunet-pocket --patch 128
"""

from __future__ import annotations

import argparse
import logging
import resource
import tempfile
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from mist_ops.config import StudyConfig
from mist_ops.dataset import Case
from mist_ops.devices import autocast, prefers_bf16
from mist_ops.inference.case import Predictor, predict_case
from mist_ops.inference.memory import BASELINE, estimated_bytes
from mist_ops.losses.objective import make_objective
from mist_ops.registry import MODELS
from mist_ops.training.memory import estimate_step

CPU = torch.device("cpu")


def main() -> None:
    """Run once in this process and print its peak resident memory."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=("predict", "train"))
    parser.add_argument("--size", type=int, nargs=3, default=(512, 512, 400), help="voxels of the CT")
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--patch", type=int, default=128, help="edge of the patch")
    parser.add_argument("--overlap", type=float, default=0.5)
    parser.add_argument("--flips", action="store_true", help="average over all eight flips")
    parser.add_argument("--model", default="nnunet-pocket", help="an architecture, or 'pointwise' for one convolution")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    began = time.perf_counter()
    estimate = _predict(options) if options.task == "predict" else _train(options)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    table = Table("task", "peak, GiB", "estimate, GiB", "seconds")
    table.add_row(options.task, f"{peak / 2**30:.2f}", f"{estimate / 2**30:.2f}", f"{time.perf_counter() - began:.0f}")
    Console().print(table)


def _predict(options: argparse.Namespace) -> int:
    config = _config(options)
    with tempfile.TemporaryDirectory() as folder:
        scan = Path(folder) / "ct.nii"
        values = np.random.default_rng(0).integers(-1000, 1000, options.size, dtype=np.int16)
        nib.save(nib.Nifti1Image(values, np.eye(4)), scan)
        del values
        predictor = Predictor([_network(options, config)], config, CPU)
        predict_case(predictor, Case("ct", {"ct": scan}), Path(folder) / "mask.nii.gz")
    return estimated_bytes(tuple(options.size), tuple(options.size), config, CPU)


def _train(options: argparse.Namespace) -> int:
    config = _config(options)
    network = _network(options, config).train()
    optimizer = torch.optim.AdamW(network.parameters())
    objective = make_objective("dice_ce")
    patch = config.spatial_config.patch_size
    batch = config.training.batch_size_per_gpu
    for _ in range(2):
        optimizer.zero_grad()
        with autocast(CPU, config.training.amp):
            outputs = network(torch.randn(batch, 1, *patch))
        loss = objective(outputs, torch.randint(0, options.classes, (batch, 1, *patch)))
        loss.backward()
        optimizer.step()
    needed = estimate_step(config, network, CPU, bf16=config.training.amp and prefers_bf16(CPU))
    assert needed is not None
    return needed.total + BASELINE


def _network(options: argparse.Namespace, config: StudyConfig) -> torch.nn.Module:
    if options.model == "pointwise":
        return torch.nn.Conv3d(1, options.classes, 1).eval()
    grid = config.spatial_config
    return MODELS[options.model].build(1, options.classes, grid.patch_size, grid.target_spacing).eval()


def _config(options: argparse.Namespace) -> StudyConfig:
    ct = {"window_min": -500.0, "window_max": 500.0, "z_score_mean": 0.0, "z_score_std": 300.0}
    labels = list(range(options.classes))
    strategy = "all_flips" if options.flips else "none"
    return StudyConfig.model_validate(
        {
            "mist_version": "bench",
            "dataset_info": {"task": "ct", "modality": "ct", "images": ["ct"], "labels": labels},
            "spatial_config": {"patch_size": [options.patch] * 3, "target_spacing": [1.0, 1.0, 1.0]},
            "preprocessing": {"median_resampled_image_size": options.size, "ct_normalization": ct},
            "model": {"params": {"in_channels": 1, "out_channels": options.classes}},
            "training": {},
            "inference": {
                "inferer": {"params": {"patch_overlap": options.overlap}},
                "tta": {"strategy": strategy},
            },
            "evaluation": {},
        }
    )


if __name__ == "__main__":
    main()
