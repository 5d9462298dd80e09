"""Fixtures that more than one package's tests use."""

from __future__ import annotations

import os
from pathlib import Path

import hypothesis
import pytest

from mist_ops.phantoms import write_phantoms

TOO_SLOW = hypothesis.HealthCheck.too_slow

# The same examples in every run, however slow the machine is.
hypothesis.settings.register_profile("steady", deadline=None, derandomize=True)
hypothesis.settings.load_profile("steady")
# Of `make fuzz`: many, and others each time.
hypothesis.settings.register_profile("fuzz", deadline=None, max_examples=3000, suppress_health_check=[TOO_SLOW])


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with real scans and golden numbers: ``$MIST_SHARED``, or ``shared`` beside the repository."""
    beside = Path(__file__).resolve().parents[2] / "shared"
    folder = Path(os.environ.get("MIST_SHARED", beside))
    if not folder.is_dir():
        pytest.skip(f"there is no {folder}; set MIST_SHARED to the folder with scans and golden numbers")
    return folder


@pytest.fixture
def phantom_dataset(tmp_path: Path) -> Path:
    """The dataset.json of six training phantoms and a test one, of varied size, spacing and orientation."""
    return write_phantoms(tmp_path / "data", patients=6, tests=1, size=(24, 26, 22))
