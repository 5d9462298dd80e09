"""A small study that went through the whole pipeline once, for all tests that inspect its results."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
from tiny import TINY

from mist_dagster import cli
from mist_dagster.instance.home import instance
from mist_dagster.instance.studies import register
from mist_ops.config import override, read_config, write_config
from mist_ops.phantoms import write_phantoms
from mist_ops.study import Study


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty_home: Path) -> Path:
    """A Dagster home for one test."""
    shutil.copytree(empty_home, tmp_path / "dagster_home")
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "dagster_home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "dagster_home"


def preprocessed(folder: Path, name: str, folds: int, epochs: int) -> Study:
    """A preprocessed study with two patients per fold."""
    data = write_phantoms(folder / "data", patients=2 * folds, tests=0, size=(24, 26, 22))
    where = ["--results", str(folder / "results"), "--study", name]
    assert cli.analyze(["--data", str(data), "--nfolds", str(folds), *where]) == 0
    study = register(folder / "results", numpy=folder / "numpy")
    write_config(study.config, override(read_config(study.config), {**TINY, "training.epochs": epochs}))
    assert cli.preprocess([*where, "--numpy", str(study.numpy)]) == 0
    return study


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Study]:
    """A study of six patients in two folds and one test patient, run from dataset.json to results.csv."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DAGSTER_HOME", str(folder / "dagster_home"))
        data = write_phantoms(folder / "data", patients=6, tests=1, size=(24, 26, 22))
        where = ["--results", str(folder / "results"), "--study", "phantoms"]
        assert cli.analyze(["--data", str(data), "--nfolds", "2", "--data-dump", *where]) == 0
        study = register(folder / "results", numpy=folder / "numpy")
        write_config(study.config, override(read_config(study.config), TINY))
        assert cli.run_all(["--data", str(data), "--numpy", str(folder / "numpy"), "--resume", *where]) == 0
        assert cli.choose_postprocessing(["--results", str(study.results)]) == 0
        yield study


@pytest.fixture
def records(finished: Study, monkeypatch: pytest.MonkeyPatch) -> Iterator[dg.DagsterInstance]:
    """The instance with the records of the finished study."""
    monkeypatch.setenv("DAGSTER_HOME", str(finished.results.parent / "dagster_home"))
    with instance() as opened:
        yield opened


@pytest.fixture
def copied_study(finished: Study, home: Path, tmp_path: Path) -> Study:
    """A copy of the finished study's files that a test may change, in a new home."""
    shutil.copytree(finished.results, tmp_path / "results")
    shutil.copytree(finished.numpy, tmp_path / "numpy")
    (tmp_path / "data").symlink_to(finished.data.parent)  # the tables have relative paths to it
    return Study("copy", numpy=tmp_path / "numpy", results=tmp_path / "results", data=finished.data)
