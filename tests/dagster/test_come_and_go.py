"""Three of 200 patients come, or go: what that costs is known before the analysis is updated, and is no more."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from training.small_study import TINY

import mist_ops
from mist_dagster.freshness.status import report, status
from mist_ops.dataset import read_train_paths
from mist_ops.files import write_json
from mist_ops.inference.study import predict_held_out
from mist_ops.phantoms import write_phantoms
from mist_ops.registry import MODELS
from mist_ops.study import Study

pytestmark = pytest.mark.slow

SETTINGS = {
    "model.architecture": "tiny",
    "spatial_config.patch_size": [8, 8, 8],
    "training.val_percent": 0.2,
    "training.epochs": 1,
    "training.min_steps_per_epoch": 1,
    "training.batch_size_per_gpu": 16,
    "training.hardware.num_cpu_workers": 0,
    "inference.tta.enabled": False,
    "inference.inferer.params.patch_overlap": 0.0,
    "evaluation": {"lesion": {"labels": [1, 2], "metrics": {"dice": {}}}},
}
COMERS = ("new_1", "new_2", "new_3")
FOLDS = 5


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Study]:
    """A study of 200 patients in five folds, with all of its results."""
    MODELS._load()["tiny"] = TINY
    folder = tmp_path_factory.mktemp("many")
    data = write_phantoms(folder / "data", patients=200, size=(12, 12, 12), varied=False)
    study = Study("many", folder / "numpy", folder / "results", data)
    mist_ops.analyze(study, SETTINGS)
    mist_ops.preprocess(study)
    for fold in range(FOLDS):
        mist_ops.train(study, fold, device="cpu")
    patients = read_train_paths(study.train_paths).fold_of
    assert not [outcome for outcome in predict_held_out(study, patients, torch.device("cpu")) if outcome.error]
    mist_ops.evaluate(study)
    yield study
    del MODELS._load()["tiny"]


@pytest.fixture
def study(made: Study, tmp_path: Path) -> Study:
    """A copy with files of its own, and the times of the original."""
    shutil.copytree(made.results.parent, tmp_path / "copy")
    copy = Study("copy", tmp_path / "copy/numpy", tmp_path / "copy/results", tmp_path / "copy/data/dataset.json")
    assert status(copy).stale == {}
    return copy


def arrays(study: Study) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in study.arrays.rglob("*.npy")}


def add(study: Study) -> None:
    """Add three scans of one person, who stay together in the smallest fold."""
    assert study.data is not None
    train = study.data.parent / "train"
    extra = write_phantoms(study.results.parent / "extra", patients=3, seed=7, size=(14, 12, 13), varied=False)
    for name, source in zip(COMERS, sorted((extra.parent / "train").iterdir()), strict=True):
        shutil.copytree(source, train / name)
    (study.data.parent / "patients.csv").write_text("id,group\n" + "".join(f"{name},twin\n" for name in COMERS))
    write_json(study.data, {**json.loads(study.data.read_text()), "patients": "patients.csv"})


def test_three_added_patients_cost_three_arrays_and_the_folds_that_they_enter(study: Study) -> None:
    add(study)
    before, kept = read_train_paths(study.train_paths).fold_of, arrays(study)
    found = status(study)
    assert set(found.stale["analyze"]) == set(COMERS)
    assert set(found.stale["preprocess"]) == set(COMERS)
    assert "Analyze 3 new patients (new_1, new_2, new_3) with mist_analyze --update." in report(found)
    mist_ops.analyze(study)
    assigned = read_train_paths(study.train_paths).fold_of
    assert {case_id: assigned[case_id] for case_id in before} == before
    (own,) = {assigned[case_id] for case_id in COMERS}
    entered = {fold for fold in range(FOLDS) if fold != own}  # the fold that holds them out neither trains on them ...
    assert set(found.stale["train"]) == {f"fold_{fold}" for fold in entered}
    predicted = {case_id for case_id, fold in assigned.items() if fold in entered or case_id in COMERS}
    assert set(found.stale["predict"]) == predicted
    assert set(found.stale["evaluate"]) == {"results.csv"}
    assert status(study).stale == {stage: reasons for stage, reasons in found.stale.items() if stage != "analyze"}
    mist_ops.preprocess(study)
    made = arrays(study)
    assert {name: made[name] for name in kept} == kept
    assert {Path(name).stem for name in made.keys() - kept.keys()} == set(COMERS)
    assert "preprocess" not in status(study).stale
    assert set(status(study).stale["train"]) == set(found.stale["train"])


def test_three_patients_who_are_gone_cost_the_folds_that_they_trained_and_the_scores(study: Study) -> None:
    assert study.data is not None
    before = read_train_paths(study.train_paths)
    gone = before.held_out(2)[:3]
    for case_id in gone:
        shutil.rmtree(study.data.parent / "train" / case_id)
    found = status(study)
    assert found.stale["analyze"] == dict.fromkeys(gone, "gone")
    assert "preprocess" not in found.stale
    assert set(found.stale["train"]) == {"fold_0", "fold_1", "fold_3", "fold_4"}
    assert all("gone: " in reason for reason in found.stale["train"].values())
    assert set(found.stale["predict"]) == {case_id for case_id, fold in before.fold_of.items() if fold != 2}
    lines = list(report(found))
    assert f"Analyze: {', '.join(gone)} are gone; mist_analyze --update removes them from the study." in lines
    kept = arrays(study)
    mist_ops.analyze(study)
    assert arrays(study) == kept
    assert status(study).stale == {stage: reasons for stage, reasons in found.stale.items() if stage != "analyze"}
    after = read_train_paths(study.train_paths).fold_of
    assert after == {case_id: fold for case_id, fold in before.fold_of.items() if case_id not in gone}


def test_a_patient_who_is_gone_from_a_fold_that_was_not_trained_costs_the_scores_of_the_others(study: Study) -> None:
    """Nothing but the scores: with one fold to train, whose models did not see the patient."""
    assert study.data is not None
    mist_ops.configure(study, {"training.folds": [2]})
    mist_ops.evaluate(study)
    gone = read_train_paths(study.train_paths).held_out(2)[0]
    shutil.rmtree(study.data.parent / "train" / gone)
    found = status(replace(study))
    assert found.stale == {"analyze": {gone: "gone"}, "evaluate": {"results.csv": f"{gone} is gone"}}
    mist_ops.analyze(study)
    mist_ops.evaluate(study)
    assert status(study).stale == {}
