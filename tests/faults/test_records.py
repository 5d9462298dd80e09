"""Dagster's records locked, lost or damaged, and studies that were moved: the files remain the truth."""

from __future__ import annotations

import shutil
from pathlib import Path

import dagster as dg

from mist_dagster.instance.home import instance
from mist_dagster.instance.studies import registered_studies
from mist_dagster.provenance import asset_key

from .harness import Sandbox

TABLE = [
    ("records/lost", "records that were deleted", "0: mist_status --rebuild restores them"),
    ("records/damaged", "records that are damaged", "1: The records in ... cannot be used; files are not touched"),
    ("records/moved", "a study that was moved with its data", "0: goes on where it is"),
    ("records/moved-alone", "results that were moved away from their data", "1: [image-missing]; --update finds it"),
]
"""The faults below: key, fault, and how a command ends."""


def test_lost_records_are_made_again_from_the_files(trained: Sandbox) -> None:
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


def test_a_study_that_moved_with_its_data_goes_on_where_it_is(trained: Sandbox) -> None:
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


def test_results_that_moved_away_from_their_data_say_which_file_is_missing(analyzed: Sandbox) -> None:
    away = analyzed.folder / "far" / "away"
    away.mkdir(parents=True)
    shutil.move(analyzed.study.results, away / "results")
    ended = analyzed.run("preprocess", "--results", away / "results")
    assert ended.status == 1
    assert "[image-missing]" in ended.said
    data = analyzed.study.data
    assert analyzed.run("analyze", "--update", "--data", data, "--results", away / "results").status == 0
    assert analyzed.run("preprocess", "--results", away / "results").status == 0


def damage(home: Path) -> None:
    for path in home.rglob("*.db"):
        path.write_bytes(b"no database, whatever its name says" * 100)


def test_damaged_records_are_told_and_cost_no_file(preprocessed: Sandbox) -> None:
    before = preprocessed.files()
    home = preprocessed.folder / "dagster_home"
    damage(home)
    ended = preprocessed.run("status")
    assert ended.status == 1
    assert "The records in" in ended.said
    assert "mist_status --rebuild" in ended.said
    assert "Traceback" not in ended.said
    assert preprocessed.files() == before
    home.rename(preprocessed.folder / "old_home")
    assert preprocessed.run("status", "--rebuild").status == 0
