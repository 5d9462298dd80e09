"""Studies of ``import mist_ops`` and of the commands are the same."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from tiny import TINY

import mist_ops
from mist_dagster import cli
from mist_dagster.freshness.status import status
from mist_ops.study import Study

TIMES = {"seconds", "waiting", "validating", "hardware", "stamps"}
"""Keys of records that differ from run to run."""

NOT_COMPARED = ("data_dump.json", "data_dump.md", "records", "postprocessing", "logs", ".")
"""Beginnings of files that other commands of the fixture write, of TensorBoard's and of locks."""


@pytest.fixture(scope="module")
def study(finished: Study, tmp_path_factory: pytest.TempPathFactory) -> Study:
    """The finished study, made without Dagster from the same dataset."""
    folder = tmp_path_factory.mktemp("api")
    assert finished.data is not None
    shutil.copytree(finished.data.parent, folder / "data")
    study = mist_ops.open_study(folder / "results", numpy=folder / "numpy", data=folder / "data" / "dataset.json")
    mist_ops.analyze(study, {"training.nfolds": 2})
    mist_ops.configure(study, TINY)
    mist_ops.preprocess(study).raise_for_failures()
    for fold in (0, 1):
        mist_ops.train(study, fold)
    mist_ops.predict(study).raise_for_failures()
    mist_ops.predict_tests(study).raise_for_failures()
    mist_ops.evaluate(study).raise_for_failures()
    return study


def files(folder: Path) -> dict[str, Path]:
    found = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    return {name: path for name, path in found.items() if not name.startswith(NOT_COMPARED)}


def timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: timeless(item) for key, item in value.items() if key not in TIMES}
    return [timeless(item) for item in value] if isinstance(value, list) else value


def content(path: Path, folder: Path) -> Any:
    """What must be the same of a file, wherever its study is."""
    if path.suffix == ".json":
        return timeless(json.loads(path.read_text()))
    return path.read_bytes().replace(str(folder).encode(), b"")


@pytest.mark.parametrize("part", ["results", "numpy"])
def test_the_files_are_those_of_the_commands(study: Study, finished: Study, part: str) -> None:
    ours, theirs = files(getattr(study, part)), files(getattr(finished, part))
    folder, other = study.results.parent, finished.results.parent
    assert ours.keys() == theirs.keys()
    compared = [name for name in ours if not name.startswith(("checkpoints", "voxels"))]  # they hold times
    assert [name for name in compared if content(ours[name], folder) != content(theirs[name], other)] == []


def test_every_artifact_is_current(study: Study) -> None:
    assert status(study).current


def test_the_commands_continue_a_study_of_the_api(study: Study, home: Path, tmp_path: Path) -> None:
    shutil.copytree(study.results, tmp_path / "results")
    assert study.data is not None
    (tmp_path / "data").symlink_to(study.data.parent)
    assert cli.status(["--results", str(tmp_path / "results"), "--numpy", str(study.numpy), "--rebuild"]) == 0


def test_new_patients_get_the_masks_and_scores_of_the_commands(study: Study, home: Path, tmp_path: Path) -> None:
    table = study.train_paths  # its images and masks serve as those of new patients
    models, config = ["--models-dir", str(study.models)], ["--config", str(study.config)]
    assert cli.predict([*models, *config, "--paths-csv", str(table), "--output", str(tmp_path / "theirs")]) == 0
    assert len(mist_ops.predict_files(study, table, tmp_path / "ours").raise_for_failures().done) == 6
    for mask in (tmp_path / "theirs").iterdir():
        assert (tmp_path / "ours" / mask.name).read_bytes() == mask.read_bytes()
    pairs = str(study.evaluation_paths)
    assert cli.evaluate([*config, "--paths-csv", pairs, "--output-csv", str(tmp_path / "theirs.csv")]) == 0
    mist_ops.evaluate_files(study, pairs, tmp_path / "ours.csv")
    for name in (".csv", "_summary.json"):
        assert (tmp_path / f"ours{name}").read_bytes() == (tmp_path / f"theirs{name}").read_bytes()
