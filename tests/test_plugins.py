"""A package of one file adds an entry to each registry and uses it through the commands."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mist_ops.imaging.nifti import read_labels
from mist_ops.imaging.vectors import write_vectors
from mist_ops.phantoms import write_phantoms
from mist_ops.registry import LABEL_ENSEMBLERS
from mist_ops.study import Study

PLUGIN = """
from torch import nn, optim
from mist_ops.augmentation import Augmentation
from mist_ops.losses import Loss
from mist_ops.metrics import Metric
from mist_ops.models import Architecture
from mist_ops.postprocessing import Transform
from mist_ops.registry import (
    AUGMENTATIONS, BLENDINGS, LABEL_ENSEMBLERS, LOSSES, METRICS, MODELS, OPTIMIZERS, PROBABILITY_ENSEMBLERS,
    SCHEDULERS, TRANSFORMS
)

class Network(nn.Conv3d):
    def forward(self, image):
        logits = super().forward(image)
        return [logits] if self.training else logits

def build(in_channels, out_channels, patch_size, target_spacing):
    return Network(in_channels, out_channels, 1)

def double(patches, factors):
    patches.image.mul_(patches.column(factors))

def blending(epoch, epochs, *, value=0.25):
    return value

MODELS.register("mine")(Architecture(build, lambda patch, spacing: None, lambda patch, spacing: patch))
LOSSES.register("mine")(Loss(lambda prediction: prediction.logits.square().mean(), blended_with="dice_ce"))
BLENDINGS.register("mine")(blending)
OPTIMIZERS.register("mine")(lambda parameters, rate, decay: optim.SGD(parameters, lr=rate))
SCHEDULERS.register("mine")(lambda progress: 0.5)
AUGMENTATIONS.register("mine")(Augmentation(lambda info, generator: (2.0,), double, order=90, probability=1.0))
METRICS.register("mine")(Metric(lambda pair: 0.75, 0.0, 1.0, "", True, True))
TRANSFORMS.register("mine")(Transform(lambda region: region.relabeled(region.mask, 7), "Relabel to 7."))
LABEL_ENSEMBLERS.register("mine")(lambda raters: raters[-1])
PROBABILITY_ENSEMBLERS.register("mine")(lambda volumes: [*volumes][-1])
"""

FLAGS = ("model", "loss", "composite-loss-weighting", "optimizer", "lr-scheduler")


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the installed package, which is the working folder of the commands."""
    installed = tmp_path / "plugin-1.0.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: plugin\nVersion: 1.0\n")
    (installed / "entry_points.txt").write_text("[mist_ops.plugins]\nmine = plugin\n")
    (tmp_path / "plugin.py").write_text(PLUGIN)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "dagster_home"))
    return tmp_path


def run(site: Path, *commands: str) -> None:
    """Run commands in one process, which stops at the first that fails."""
    code = "import sys; from mist_dagster import cli; sys.exit(any(getattr(cli, c)(a) for c, *a in COMMANDS))"
    code = code.replace("COMMANDS", repr([command.split() for command in commands]))
    done = subprocess.run([sys.executable, "-c", code], cwd=site, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_entries_of_a_plugin_train_score_postprocess_and_combine(site: Path) -> None:
    study = Study("mine", numpy=site / "numpy", results=site / "results", data=site / "data" / "dataset.json")
    write_phantoms(site / "data", patients=4, tests=0, size=(24, 26, 22))
    run(site, "analyze --data data/dataset.json --nfolds 2")
    config = json.loads(study.config.read_text())
    config["spatial_config"]["patch_size"] = [16, 16, 16]
    config["training"] |= {"augmentation": {"transforms": {"mine": True}}, "min_steps_per_epoch": 1}
    config["evaluation"] = {"lesion": {"labels": [1, 2], "metrics": {"mine": {}}}}
    study.config.write_text(json.dumps(config))
    run(site, "preprocess", f"train --folds 0 --epochs 1 --device cpu {' '.join(f'--{flag} mine' for flag in FLAGS)}")
    trained = json.loads(study.passport(0).read_text())["config"]
    assert trained["model"]["architecture"] == "mine"
    scores = study.results_csv.read_text().splitlines()
    assert scores[0] == "id,lesion_mine"
    assert "0.75" in scores[1]

    for mask in (site / "data" / "train").glob("*/mask.nii.gz"):
        labels, grid = read_labels(mask)
        for folder, vectors in (("likely", np.eye(3)[labels]), ("unlikely", 1 - np.eye(3)[labels])):
            path = site / folder / f"{mask.parent.name}.nii.gz"
            write_vectors(path, np.moveaxis(vectors, -1, 0).astype(np.float32), grid)
        (site / "raw").mkdir(exist_ok=True)
        shutil.copy(mask, site / "raw" / path.name)
    (site / "strategy.json").write_text(
        json.dumps([{"transform": "mine", "apply_to_labels": [1, 2], "per_label": False}])
    )
    run(
        site,
        "postprocess --base-predictions raw --output post --postprocess-strategy strategy.json",
        "ensemble --predictions raw post/predictions --output combined --ensemble-backend mine",
        "ensemble --predictions unlikely likely --output most --input-type probabilities --config results/config.json "
        "--probability-ensemble-backend mine",
    )
    for path in (site / "raw").iterdir():
        truth = read_labels(path)[0]
        np.testing.assert_array_equal(read_labels(site / "combined" / path.name)[0], np.where(truth > 0, 7, 0))
        np.testing.assert_array_equal(read_labels(site / "most" / path.name)[0], truth)
    assert "mine" not in LABEL_ENSEMBLERS
