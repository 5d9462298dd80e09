"""Main memory and voxels of predictions of many classes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from inference.settings import settings
from torch import nn

from mist_ops.config import override
from mist_ops.imaging.geometry import CaseGeometry, Geometry
from mist_ops.inference import sliding_window
from mist_ops.inference.case import Predictor, Prepared, predict_prepared
from mist_ops.inference.sliding_window import predict

CPU = torch.device("cpu")
MIB = 2**20

PEAK = """
import resource, sys
import numpy as np, torch
from inference.test_memory import many_classes
from mist_ops.inference import sliding_window
from mist_ops.inference.case import predict_prepared
from mist_ops.inference.sliding_window import plan

predictor, prepared = many_classes(40, (448, 96, 96))
predict_prepared(*many_classes(2, (20, 20, 20)))
sliding_window.MAIN_MEMORY = 160 * 2**20
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
labels = predict_prepared(predictor, prepared)
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print((after - before) * 1024, plan((448, 96, 96), predictor.config, predictor.device, 1).bytes_needed(40))
"""


def many_classes(count: int, size: tuple[int, int, int]) -> tuple[Predictor, Prepared]:
    """A network of one convolution that stands in for a large one, and an image that is resampled to a finer grid."""
    changes = {
        "dataset_info.labels": list(range(count)),
        "model.params.out_channels": count,
        "inference.tta.strategy": "none",
        "training.amp": False,
        "spatial_config.patch_size": (24, 24, 24),
    }
    torch.manual_seed(0)
    network = nn.Conv3d(1, count, 1)
    nn.init.normal_(network.weight)
    nn.init.normal_(network.bias)
    image = np.random.default_rng(0).normal(size=(*size, 1)).astype(np.float32)
    fine = Geometry((round(size[0] * 1.25), size[1], size[2]), (0.8, 1.0, 1.0))
    geometry = CaseGeometry(fine, None, Geometry(size, (1.0, 1.0, 1.0)))
    return Predictor([network.eval()], override(settings(), changes), CPU), Prepared(image, geometry)


def test_main_memory_never_holds_all_classes_of_a_volume() -> None:
    paths = os.pathsep.join(map(str, Path(__file__).parents[1:3]))
    done = subprocess.run(
        [sys.executable, "-c", PEAK],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "MALLOC_TRIM_THRESHOLD_": "0"},
    )
    added, planned = map(int, done.stdout.split())
    all_classes = 4 * 40 * 448 * 96 * 96
    assert planned <= 160 * MIB
    assert added < 1.25 * planned + 60 * MIB < all_classes / 2


def test_labels_of_tiles_are_those_of_the_untiled_path(monkeypatch: pytest.MonkeyPatch) -> None:
    predictor, prepared = many_classes(20, (60, 24, 24))
    untiled = predict(
        predictor.models, torch.from_numpy(np.moveaxis(prepared.image, -1, 0)[None]), predictor.config, CPU
    )
    # Linear interpolation in double precision; the earlier class wins ties of 1e-6.
    positions = (np.arange(75) * 0.8).clip(0, 59)
    lower = np.floor(positions).astype(int)
    beyond = (positions - lower)[:, None, None]
    values = untiled.double().numpy()
    exact = (1 - beyond) * values[:, lower] + beyond * values[:, (lower + 1).clip(max=59)]
    ordered = np.sort(exact, axis=0)
    near_ties = ordered[-1] - ordered[-2] < 2e-6
    monkeypatch.setattr(sliding_window, "MAIN_MEMORY", 0)
    found = predict_prepared(predictor, prepared)
    assert np.array_equal(found[~near_ties], exact.argmax(0)[~near_ties])
    assert near_ties.sum() <= 1e-4 * near_ties.size
