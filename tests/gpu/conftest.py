"""The device of these tests, and a study whose networks train on it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import jaxtyping
import numpy as np
import pytest
import torch
from training.small_study import small_config, small_study

from mist_ops.config import StudyConfig, override
from mist_ops.files import write_array
from mist_ops.study import Study


@pytest.fixture
def device() -> torch.device:
    """The first GPU; with ``MIST_GPU_TESTS=cpu`` the CPU, to see that the tests run."""
    if torch.cuda.is_available():
        return torch.device("cuda:0")
    if os.environ.get("MIST_GPU_TESTS") != "cpu":
        pytest.skip("there is no GPU; MIST_GPU_TESTS=cpu runs these tests on the CPU")
    return torch.device("cpu")


@pytest.fixture(autouse=True)
def unchecked_shapes() -> Iterator[None]:
    """The compiler cannot trace the checks of shapes that tests add to every function."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture
def study(tmp_path: Path) -> Study:
    """Four cases of noise with two boxes, each large enough for a patch of 32 voxels cubed."""
    return enlarged(small_study(tmp_path))


def enlarged(study: Study) -> Study:
    """Repeat the arrays of the small study along each axis."""
    for case_id in "abcd":
        for path in (study.image(case_id), study.label(case_id)):
            write_array(path, np.tile(np.load(path), (3, 4, 3, 1)))
    return study


def config(**training: object) -> StudyConfig:
    """Two epochs of a real network, with every augmentation of the defaults."""
    changes = {"model.architecture": "nnunet-pocket", "spatial_config.patch_size": (32, 32, 32)}
    return override(small_config(epochs=2, **training), changes)
