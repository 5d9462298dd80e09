"""Dagster's records lost or corrupted, and studies that were moved: the files are the source of truth."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import dagster as dg
import pytest
from expect import refuses

from mist_dagster.definitions import build_definitions
from mist_dagster.instance.home import instance
from mist_dagster.instance.studies import register, registered_studies
from mist_dagster.provenance import asset_key
from mist_dagster.stages import job_name
from mist_ops import api
from mist_ops.config import override, read_config, write_config
from mist_ops.dataset import read_train_paths
from mist_ops.errors import DatasetError
from mist_ops.evaluation.table import read_pairs
from mist_ops.files import read_object
from mist_ops.phantoms import write_phantoms
from mist_ops.study import Study
from mist_ops.types import Json

from .harness import Sandbox, edit_json

TABLE = [
    ("records/lost", "records that were deleted", "0: mist_status --rebuild restores them"),
    ("records/damaged", "corrupted records", "1: [records-unusable]; no file of the study changes"),
    ("records/moved", "a study that was moved with its data", "0: works in the new place"),
    ("records/moved-alone", "results that were moved away from their data", "0: finds the data"),
    ("records/copied", "training, evaluating and predicting in a copy of the results", "0: with the original dataset"),
    ("records/copied-alone", "training in a copy, without the dataset", "1: [dataset-missing] before the first epoch"),
    ("records/copied-beside", "a copy of the results beside another dataset", "1: [dataset-differs]"),
    ("records/arrays-beside-analyzed", "--rebuild without models beside another study's arrays", "1: [arrays-unknown]"),
    ("records/models-of-two", "averaging models of two studies", "1: [training-mismatch]"),
    ("records/arrays-foreign", "training with --numpy of another study", "1: [arrays-foreign]"),
    ("records/arrays-beside", "--rebuild in another folder, without --numpy", "0: finds the arrays by their hashes"),
    ("records/arrays-of-another", "--rebuild beside the arrays of another study", "1: [arrays-unknown]"),
]
"""Key, fault and how the command ends, for the tests below."""


def test_lost_records_are_rebuilt_from_the_files(trained: Sandbox) -> None:
    ended = trained.run("status", "--rebuild")
    assert ended.status == 0, ended.said
    assert "Everything is current." in ended.said
    [study] = registered_studies()
    assert study.data == trained.study.data
    patients = {path.name for path in (trained.folder / "data" / "train").iterdir()}
    with instance() as records:
        for name, partitions in {
            "preprocessed_case": patients,
            "cv_prediction": patients,
            "test_prediction": {"phantom_001"},
            "fold_model": {"fold_0", "fold_1"},
        }.items():
            assert records.get_materialized_partitions(asset_key(study, name)) == partitions
        made = records.get_latest_materialization_event(asset_key(study, "evaluation"))
        assert made is not None
        assert made.asset_materialization.tags[f"dagster/input_data_version/{study.key}/cv_prediction"]
        assert records.get_runs_count(dg.RunsFilter(statuses=[dg.DagsterRunStatus.FAILURE])) == 0
    assert trained.run("train", "--resume", "--folds", "0", "--device", "cpu").status == 0


def test_a_study_that_was_moved_with_its_data_works_in_the_new_place(trained: Sandbox) -> None:
    elsewhere = trained.folder / "another place"
    elsewhere.mkdir()
    for name in ("data", "numpy", "results"):
        (trained.folder / name).rename(elsewhere / name)
    where = ["--results", elsewhere / "results", "--numpy", elsewhere / "numpy"]
    ended = trained.run("status", *where)
    assert ended.status == 0
    assert "Everything is current." in ended.said
    (elsewhere / "numpy" / "images" / "phantom_002.npy").unlink()
    assert trained.run("preprocess", *where).status == 0


def test_results_moved_away_find_their_dataset_or_report_that_it_is_missing(analyzed: Sandbox) -> None:
    away = analyzed.folder / "far" / "away"
    away.mkdir(parents=True)
    assert analyzed.run("status").status == 0  # records where the dataset is
    shutil.move(analyzed.study.results, away / "results")
    arguments = ["--results", away / "results"]
    assert analyzed.run("preprocess", *arguments).status == 0
    elsewhere = (analyzed.folder / "data").rename(analyzed.folder / "renamed") / "dataset.json"
    ended = analyzed.run("preprocess", *arguments)
    assert ended.status == 1
    assert "[dataset-missing]" in ended.said
    assert analyzed.run("analyze", "--update", "--data", elsewhere, *arguments).status == 0
    assert analyzed.run("preprocess", *arguments).status == 0


def copied(sandbox: Sandbox) -> Study:
    """A copy of the results at another depth, with a folder of arrays and models of its own."""
    away = sandbox.folder / "far" / "away"
    shutil.copytree(sandbox.study.results, away / "results")
    return replace(sandbox.study, results=away / "results")


def test_a_copy_of_results_trains_evaluates_and_predicts_with_the_dataset_of_the_original(trained: Sandbox) -> None:
    copy = copied(trained)
    before = {path: content for path, content in trained.files().items() if not path.is_relative_to(copy.results)}
    where = ["--results", copy.results, "--numpy", copy.numpy]
    ended = trained.run("train", *where, "--epochs", "1", "--overwrite", "--device", "cpu")
    assert ended.status == 0, ended.said
    config, scores = ["--config", copy.config], trained.folder / "scores.csv"
    ended = trained.run("evaluate", *config, "--paths-csv", copy.evaluation_paths, "--output-csv", scores)
    assert ended.status == 0, ended.said
    assert scores.read_text() == copy.results_csv.read_text()
    tests = [*config, "--paths-csv", copy.test_paths, "--output", trained.folder / "masks", "--device", "cpu"]
    ended = trained.run("predict", "--models-dir", copy.models, *tests)
    assert ended.status == 0, ended.said
    assert trained.run("status", *where).said.count("Everything is current.") == 1
    for path in (scores, scores.with_name("scores_summary.json"), scores.with_name("scores_scores.png")):
        path.unlink()
    shutil.rmtree(trained.folder / "masks")
    after = trained.files()
    changed = {path for path in before if after.get(path) != before[path]}
    assert {path.parent.name for path in changed} <= {"geometry"}  # new times of the same files
    for pair in read_pairs(copy.evaluation_paths):
        assert pair.prediction.is_relative_to(copy.results)
        assert pair.mask == trained.patient(int(pair.id[-3:])) / "mask.nii.gz"


def test_a_copy_of_a_copy_finds_the_dataset(trained: Sandbox) -> None:
    copy = copied(trained)
    assert trained.run("finalize", "--results", copy.results).status == 0
    again = trained.folder / "copy"
    shutil.copytree(copy.results, again)
    cases = read_train_paths(again / "train_paths.csv").cases
    assert all(path.is_relative_to(trained.folder / "data") and path.is_file() for case in cases for path in case.files)
    assert [pair.mask for pair in read_pairs(again / "evaluation_paths.csv")] == [case.mask for case in cases]


def test_a_copy_of_results_names_the_dataset_that_is_gone_before_it_trains(trained: Sandbox) -> None:
    copy = copied(trained)
    (trained.folder / "data").rename(trained.folder / "renamed")
    before = trained.files()
    for command, arguments in (("train", ["--overwrite", "--device", "cpu"]), ("finalize", [])):
        ended = trained.run(command, "--results", copy.results, *arguments)
        assert ended.status == 1
        assert "[dataset-missing]" in ended.said
        assert "mist_analyze --update --data DATASET.json" in " ".join(ended.said.split())
        assert trained.files() == before


def other_dataset(sandbox: Sandbox, beside: Path) -> None:
    """Another dataset with the same ids, where relative paths of a copy lead."""
    write_phantoms(beside / "data", patients=4, tests=1, size=(24, 26, 22), seed=9)


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        ("train", ["--overwrite", "--device", "cpu"]),
        ("preprocess", ["--overwrite"]),
        ("finalize", []),
    ],
)
def test_a_copy_beside_another_dataset_with_the_same_ids_is_refused(
    trained: Sandbox, command: str, arguments: list[str]
) -> None:
    copy = copied(trained)
    other_dataset(trained, copy.results.parent)
    before = trained.files()
    ended = trained.run(command, "--results", copy.results, *arguments)
    assert ended.status == 1
    assert "[dataset-differs]" in ended.said
    assert f"mist_analyze --update --data {trained.study.data}" in " ".join(ended.said.split())
    assert trained.files() == before


def test_tables_of_a_copy_beside_another_dataset_are_refused(trained: Sandbox) -> None:
    copy = copied(trained)
    other_dataset(trained, copy.results.parent)
    config = ["--config", copy.config]
    ended = trained.run("evaluate", *config, "--paths-csv", copy.evaluation_paths, "--output-csv", "scores.csv")
    assert (ended.status, "[dataset-differs]" in ended.said) == (1, True)
    tests = ["--paths-csv", copy.test_paths, "--output", "masks", "--device", "cpu"]
    ended = trained.run("predict", "--models-dir", copy.models, *config, *tests)
    assert (ended.status, "[dataset-differs]" in ended.said) == (1, True)


def test_a_fold_launched_in_the_ui_on_a_copy_fails_as_the_command_does(trained: Sandbox) -> None:
    copy = copied(trained)
    (trained.folder / "data").rename(trained.folder / "renamed")
    study = register(copy.results, numpy=copy.numpy)
    before = trained.files()
    job = build_definitions([study]).resolve_job_def(job_name(study, "train"))
    with instance() as records:
        ended = job.execute_in_process(instance=records, partition_key="fold_0", raise_on_error=False)
        assert not ended.success
        events = records.all_logs(ended.run_id)
    failed = next(
        event.dagster_event for event in events if event.dagster_event and event.dagster_event.is_step_failure
    )
    assert failed.step_key == f"{study.key}__training_set"
    assert "[dataset-missing]" in str(failed.step_failure_data.error)
    assert {path: content for path, content in trained.files().items() if "studies" not in path.parts} == before


def other_arrays(sandbox: Sandbox) -> Study:
    """Another registered study of patients with the same ids, preprocessed."""
    beside = sandbox.folder / "other"
    other_dataset(sandbox, beside)
    where = ["--results", beside / "results"]
    assert sandbox.run("analyze", "--data", beside / "data" / "dataset.json", *where, "--nfolds", "2").status == 0
    assert sandbox.run("preprocess", *where, "--numpy", beside / "numpy").status == 0
    return Study("other", numpy=beside / "numpy", results=beside / "results")


def test_arrays_of_another_study_are_named_before_training(trained: Sandbox) -> None:
    other = other_arrays(trained)
    before = trained.files()
    arguments = ["--numpy", other.numpy, "--overwrite", "--device", "cpu"]
    ended = trained.run("train", *arguments)
    assert ended.status == 1
    assert "[arrays-foreign]" in ended.said
    assert str(other.results) in ended.said
    for path in (other.numpy / "geometry").glob("*.json"):
        path.rename(path.with_name(f"other_{path.name}"))
    ended = trained.run("train", *arguments)
    assert (ended.status, "[arrays-foreign]" in ended.said) == (1, True)
    assert "other_phantom_001" in ended.said
    for path in (other.numpy / "geometry").glob("*.json"):
        path.rename(path.with_name(path.name.removeprefix("other_")))
    assert trained.files() == before


def test_models_of_two_studies_are_not_averaged(trained: Sandbox) -> None:
    def of_another_study(config: Json) -> Json:
        return {**config, "dataset_info": {**config["dataset_info"], "task": "livers", "labels": [0, 1, 3]}}

    passport = read_object(trained.study.passport(1))
    edit_json(trained.study.passport(1), config=of_another_study(passport["config"]))
    models = [trained.study.model(fold) for fold in (0, 1)]
    ended = trained.run("average_weights", "--weights", *models, "--output", "mean.pt")
    assert (ended.status, "[training-mismatch]" in ended.said) == (1, True)
    assert "models of two studies, 'phantoms' and 'livers'" in " ".join(ended.said.split())
    edit_json(trained.study.config, **of_another_study(read_object(trained.study.config)))
    edit_json(trained.study.passport(1), **passport)
    tests = ["--config", trained.study.config, "--paths-csv", trained.study.test_paths, "--output", "masks"]
    ended = trained.run("predict", "--models-dir", trained.study.models, *tests, "--device", "cpu")
    assert (ended.status, "[training-mismatch]" in ended.said) == (1, True)
    assert "a model of another study: of the task 'phantoms', not 'livers'" in " ".join(ended.said.split())


def test_python_refuses_to_train_a_copy_whose_dataset_is_gone(trained: Sandbox) -> None:
    copy = copied(trained)
    (trained.folder / "data").rename(trained.folder / "renamed")
    with refuses("dataset-missing", DatasetError, file=copy.train_paths):
        api.train(api.open_study(copy.results, numpy=copy.numpy), 0, overwrite=True, device="cpu")


def test_a_study_without_models_is_not_paired_with_the_arrays_of_another(
    preprocessed: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = other_arrays(preprocessed)
    monkeypatch.chdir(other.results.parent)  # where ./numpy is that of the other study
    shutil.rmtree(preprocessed.study.numpy)
    ended = preprocessed.run("status", "--rebuild", "--results", preprocessed.study.results)
    assert (ended.status, "[arrays-unknown]" in ended.said) == (1, True)
    assert f"({other.results})" in " ".join(ended.said.split())
    assert [study.results for study in registered_studies()] == [other.results]


def test_a_study_without_models_is_paired_with_its_own_arrays(
    preprocessed: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = other_arrays(preprocessed)
    monkeypatch.chdir(other.results.parent)
    assert preprocessed.run("status", "--rebuild", "--results", preprocessed.study.results).status == 0
    found = {study.results: study.numpy for study in registered_studies()}
    assert found == {preprocessed.study.results: preprocessed.study.numpy, other.results: other.numpy}


def test_arrays_that_another_study_made_with_other_settings_are_refused(trained: Sandbox) -> None:
    assert trained.run("status").status == 0  # registers it with its arrays
    copy = copied(trained)
    config = override(read_config(copy.config), {"preprocessing.resampling": "reference"})
    write_config(copy.config, config)
    ended = trained.run("train", "--results", copy.results, "--numpy", copy.numpy, "--overwrite", "--device", "cpu")
    assert (ended.status, "[arrays-foreign]" in ended.said) == (1, True)
    assert f"{trained.study.results})" in " ".join(ended.said.split())
    assert "resampling" in ended.said


def test_a_rebuild_finds_the_arrays_by_their_hashes(trained: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    other = trained.folder / "other"
    shutil.copytree(trained.study.numpy, other / "numpy")
    for path in (other / "numpy" / "geometry").glob("*.json"):
        edit_json(path, content="0" * 64, arrays={})
    monkeypatch.chdir(other)
    ended = trained.run("status", "--rebuild", "--results", trained.study.results)
    assert ended.status == 0, ended.said
    assert [study.numpy for study in registered_studies()] == [trained.study.numpy]


def test_a_rebuild_never_takes_the_arrays_of_another_study(trained: Sandbox) -> None:
    for path in (trained.study.numpy / "geometry").glob("*.json"):
        edit_json(path, content="0" * 64, arrays={})
    ended = trained.run("status", "--rebuild")
    assert ended.status == 1
    assert "[arrays-unknown]" in ended.said
    assert str(trained.study.numpy) in ended.said
    assert registered_studies() == []


def corrupt(home: Path) -> None:
    for path in home.rglob("*.db"):
        path.write_bytes(b"not a database" * 200)


def test_corrupted_records_are_an_error_and_leave_the_files_of_the_study_alone(preprocessed: Sandbox) -> None:
    before = preprocessed.files()
    home = preprocessed.folder / "dagster_home"
    corrupt(home)
    ended = preprocessed.run("status")
    assert ended.status == 1
    assert "[records-unusable]" in ended.said
    assert "mist_status --rebuild" in ended.said
    assert "Traceback" not in ended.said
    assert preprocessed.files() == before
    home.rename(preprocessed.folder / "old_home")
    assert preprocessed.run("status", "--rebuild").status == 0
