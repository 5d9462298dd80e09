"""Fixtures that more than one package's tests use."""

from __future__ import annotations

import fcntl
import os
import shutil
from pathlib import Path

import hypothesis
import pytest

from mist_ops.phantoms import write_phantoms

# Tests run in a process per core. More threads than cores wait for each other by spinning.
os.environ.setdefault("OMP_NUM_THREADS", "1")

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


@pytest.fixture(scope="session")
def empty_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Dagster home without runs, to be copied: creating its tables takes most of a second."""
    from mist_dagster.instance.home import instance  # importing Dagster takes a second, and most tests need none

    home = tmp_path_factory.mktemp("homes") / "empty"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DAGSTER_HOME", str(home))
        with instance():
            pass
    return home


@pytest.fixture(scope="session")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished study of four patients in two folds and a test patient. Tests copy it.

    ``MIST_SOUND_STUDY`` names a folder that keeps it from one run of the tests to the next.
    """
    kept = os.environ.get("MIST_SOUND_STUDY")
    # With several workers, in the folder above those of each.
    base = tmp_path_factory.getbasetemp()
    folder = Path(kept) if kept else (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "sound"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "complete").exists():
            _build_sound(folder)
            (folder / "complete").touch()
    return folder


def _build_sound(folder: Path) -> None:
    from tiny import TINY

    from mist_dagster import cli
    from mist_ops.config import override, read_config, write_config

    for part in ("data", "numpy", "results", "home_of_the_study"):  # of an attempt that failed
        shutil.rmtree(folder / part, ignore_errors=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DAGSTER_HOME", str(folder / "home_of_the_study"))
        patch.chdir(folder)
        data = write_phantoms(folder / "data", patients=4, tests=1, size=(24, 26, 22))
        assert cli.analyze(["--data", str(data), "--nfolds", "2"]) == 0
        config = folder / "results" / "config.json"
        write_config(config, override(read_config(config), TINY))
        assert cli.run_all(["--data", str(data), "--resume", "--device", "cpu"]) == 0
