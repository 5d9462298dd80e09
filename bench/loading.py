"""Time from the start of training to its first batches, and what a batch costs afterwards.

python bench/loading.py --cases 500 --workers 0 1 8

Phantom arrays with five classes are linked under as many names as there are cases. Every number of workers runs in a
process of its own, as a new run does.
"""

from __future__ import annotations

import argparse
import os
import pickle
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from mist_ops.files import write_array
from mist_ops.study import Study

CLASSES, STEPS = 6, 20
CONFIG = {
    "mist_version": "bench",
    "dataset_info": {"task": "loading", "modality": "mr", "images": ["t1"], "labels": list(range(CLASSES))},
    "spatial_config": {"patch_size": [32] * 3, "target_spacing": [1.0] * 3},
    "preprocessing": {"median_resampled_image_size": [64] * 3},
    "model": {"params": {"in_channels": 1, "out_channels": CLASSES}},
    "training": {},
    "evaluation": {},
}


def main() -> None:
    """Print seconds to the first batch and milliseconds per batch for each number of workers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=500)
    parser.add_argument("--size", type=int, default=64, help="edge of the arrays in voxels")
    parser.add_argument("--patch", type=int, default=32, help="edge of the patches in voxels")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 8])
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        _measure(options)
        return
    table = Table("workers", "dataset, KiB", "index, s", "first batch, s", "each of the next 20, ms")
    with tempfile.TemporaryDirectory() as folder:
        _write(Path(folder), options.cases, options.size)
        for run in [options.workers[0], *options.workers]:  # The first run writes the index.
            command = [sys.executable, *sys.argv, "--child", folder, "--workers", str(run)]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            table.add_row(str(run), *done.stdout.split())
    Console().print(table)


def _write(folder: Path, cases: int, size: int) -> None:
    study, generator = Study("bench", folder, folder), np.random.default_rng(0)
    labels = generator.integers(0, CLASSES, (size, size, size, 1), dtype=np.uint8)
    write_array(study.image("case_00000"), generator.standard_normal(labels.shape, dtype=np.float32))
    write_array(study.label("case_00000"), labels)
    for number in range(1, cases):
        for locate in (study.image, study.label):
            os.link(locate("case_00000"), locate(f"case_{number:05}"))


def _measure(options: argparse.Namespace) -> None:
    from mist_ops.config import StudyConfig
    from mist_ops.dataset import Fold
    from mist_ops.registry import LOSSES
    from mist_ops.training.batches import PatchSampler, PatchSettings
    from mist_ops.training.cases import index_fold
    from mist_ops.training.loading import stream

    study, (workers,) = Study("bench", options.child, options.child), options.workers
    ids = tuple(f"case_{number:05}" for number in range(options.cases))
    config = StudyConfig.model_validate(CONFIG)
    LOSSES["dice_ce"]  # Imports MONAI.
    started = time.perf_counter()
    cases, _ = index_fold(study, config, Fold(0, ids[1:], ids[:1], ids[:1]))
    indexed = time.perf_counter()
    sampler = PatchSampler(cases, PatchSettings((options.patch,) * 3, 0.6, ()), 2, 250)
    batches = stream(sampler, range(STEPS * (workers + 2)), workers)
    next(batches)
    first = time.perf_counter()
    for _ in range(STEPS):
        next(batches)
    took = (time.perf_counter() - first) / STEPS * 1000
    sizes = f"{len(pickle.dumps(sampler)) / 2**10:.1f} {indexed - started:.2f} {first - indexed:.2f} {took:.1f}"
    sys.stdout.write(sizes)


if __name__ == "__main__":
    main()
