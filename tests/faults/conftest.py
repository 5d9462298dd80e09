"""A small real study, taken once through the whole pipeline, and a copy of it for every fault."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from mist_ops.study import record_dataset

from .harness import Sandbox, save, voxels

PLANNED = ("config.json", "fingerprint.json", "train_paths.csv", "test_paths.csv", "fg_bboxes.csv")
"""What the analysis writes."""


@pytest.fixture
def bare(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], empty_home: Path
) -> Sandbox:
    """A sandbox with nothing in it but an empty home, which is the current folder."""
    shutil.copytree(empty_home, tmp_path / "dagster_home")
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "dagster_home"))
    monkeypatch.chdir(tmp_path)
    return Sandbox(tmp_path, capfd)


@pytest.fixture
def described(bare: Sandbox, sound: Path) -> Sandbox:
    """A sandbox with a dataset alone."""
    shutil.copytree(sound / "data", bare.folder / "data")
    return bare


@pytest.fixture
def predicted(described: Sandbox) -> Sandbox:
    """A sandbox with a dataset and, beside it, a prediction of each training patient that is off by a voxel."""
    for number in (1, 2, 3, 4):
        path = described.prediction(number)
        path.parent.mkdir(exist_ok=True)
        shutil.copy(described.mask(number), path)
        save(path, np.roll(voxels(path), 1, axis=0))
    return described


@pytest.fixture
def analyzed(described: Sandbox, sound: Path) -> Sandbox:
    """A sandbox whose study is analyzed."""
    described.study.results.mkdir()
    for name in PLANNED:
        shutil.copy(sound / "results" / name, described.study.results)
    record_dataset(described.study.results, described.folder / "data" / "dataset.json")
    return described


@pytest.fixture
def preprocessed(analyzed: Sandbox, sound: Path) -> Sandbox:
    """A sandbox whose study is analyzed and preprocessed."""
    shutil.copytree(sound / "numpy", analyzed.study.numpy)
    return analyzed


@pytest.fixture
def trained(described: Sandbox, sound: Path) -> Sandbox:
    """A sandbox whose study is finished."""
    for name in ("numpy", "results"):
        shutil.copytree(sound / name, described.folder / name)
    record_dataset(described.study.results, described.folder / "data" / "dataset.json")
    return described
