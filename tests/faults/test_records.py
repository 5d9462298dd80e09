"""Dagster's records lost or corrupted, and studies that were moved: the files are the source of truth."""

from __future__ import annotations

import shutil
from pathlib import Path

import dagster as dg
import pytest

from mist_dagster.instance.home import instance
from mist_dagster.instance.studies import registered_studies
from mist_dagster.provenance import asset_key
from mist_ops.dataset import read_train_paths

from .harness import Sandbox, edit_json

TABLE = [
    ("records/lost", "records that were deleted", "0: mist_status --rebuild restores them"),
    ("records/damaged", "corrupted records", "1: [records-unusable]; no file of the study changes"),
    ("records/moved", "a study that was moved with its data", "0: works in the new place"),
    ("records/moved-alone", "results that were moved away from their data", "1: [image-missing]; --update finds it"),
    ("records/copied", "training in a copy of the results", "1: [dataset-missing] before the first epoch"),
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


def test_results_moved_away_from_their_data_report_the_missing_file(analyzed: Sandbox) -> None:
    away = analyzed.folder / "far" / "away"
    away.mkdir(parents=True)
    shutil.move(analyzed.study.results, away / "results")
    ended = analyzed.run("preprocess", "--results", away / "results")
    assert ended.status == 1
    assert "[image-missing]" in ended.said
    data = analyzed.study.data
    assert analyzed.run("analyze", "--update", "--data", data, "--results", away / "results").status == 0
    assert analyzed.run("preprocess", "--results", away / "results").status == 0


def test_a_copy_of_results_names_the_dataset_before_it_trains(trained: Sandbox) -> None:
    assert trained.run("status").status == 0  # registers the original
    away = trained.folder / "far" / "away"
    shutil.copytree(trained.study.results, away / "results")
    before = trained.files()
    arguments = ["--results", away / "results", "--numpy", trained.study.numpy, "--overwrite", "--device", "cpu"]
    ended = trained.run("train", *arguments)
    assert ended.status == 1
    assert "[dataset-missing]" in ended.said
    data = trained.study.data
    assert f"mist_analyze --update --data {data}" in " ".join(ended.said.split())
    assert trained.files() == before
    assert trained.run("analyze", "--update", "--data", data, "--results", away / "results").status == 0
    table = away / "results" / "train_paths.csv"
    assert all(path.is_file() for case in read_train_paths(table).cases for path in case.files)


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
