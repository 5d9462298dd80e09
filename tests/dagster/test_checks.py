"""Checks on data, folds and models: what they find, and that training does not begin on a leak."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import dagster as dg
import numpy as np
import pandas as pd
import pytest

from mist_dagster import cli
from mist_dagster.definitions import build_definitions
from mist_dagster.instance.home import instance
from mist_dagster.provenance import asset_key
from mist_ops.dataset import find_training_cases, read_description, read_train_paths
from mist_ops.files import write_json
from mist_ops.imaging.nifti import read_image, read_labels, write_image, write_labels
from mist_ops.study import Study

NAMES = ("usable_cases", "no_leakage", "labels_kept", "finite_losses", "no_worse_than_accepted")


def checked(study: Study) -> dict[str, dg.AssetCheckEvaluation]:
    keys = [key for key in build_definitions([study]).resolve_asset_graph().asset_check_keys if key.name in NAMES]
    job = dg.define_asset_job("checks", selection=dg.AssetSelection.checks(*keys))
    defs = dg.Definitions.merge(build_definitions([study]), dg.Definitions(jobs=[job]))
    with instance() as opened:
        result = defs.resolve_job_def("checks").execute_in_process(instance=opened)
    return {made.check_name: made for made in result.get_asset_check_evaluations()}


@pytest.fixture
def leaking(copied_study: Study) -> Study:
    """A study in which a patient of fold 0 has the image of one of fold 1."""
    held_out = [read_train_paths(copied_study.train_paths).held_out(fold)[0] for fold in (0, 1)]
    found = json.loads(copied_study.fingerprint.read_text())
    found["cases"][held_out[0]]["content"] = found["cases"][held_out[1]]["content"]
    write_json(copied_study.fingerprint, found)
    return copied_study


def test_nothing_is_found_in_a_sound_study(copied_study: Study) -> None:
    found = checked(copied_study)
    assert {name: found[name].passed for name in NAMES} == dict.fromkeys(NAMES, True)


def test_a_leak_is_shown_and_training_does_not_begin(leaking: Study, capfd: pytest.CaptureFixture[str]) -> None:
    assert not checked(leaking)["no_leakage"].passed
    before = leaking.model(0).stat().st_mtime_ns
    where = ["--results", str(leaking.results), "--numpy", str(leaking.numpy)]
    assert cli.train([*where, "--overwrite", "--device", "cpu"]) == 1
    assert "have the same image" in capfd.readouterr().err
    assert leaking.model(0).stat().st_mtime_ns == before


@pytest.mark.parametrize("names", [["training_set"], ["fold_model"], ["training_set", "fold_model"]], ids="+".join)
def test_training_from_the_ui_stops_with_the_reason_of_the_check(leaking: Study, names: list[str]) -> None:
    before = leaking.model(0).read_bytes()
    failed = failure_of(leaking, names, "fold_0")
    assert "have the same image" in failed
    assert "[folds-leak]" in failed
    assert leaking.model(0).read_bytes() == before


def test_preprocessing_from_the_ui_stops_with_the_reason_of_the_check(copied_study: Study) -> None:
    table, case = copied_study.train_paths, read_train_paths(copied_study.train_paths).cases[0]
    labels, grid = read_labels(case.mask)
    moved = table.parent / "mask.nii.gz"
    write_labels(moved, labels, replace(grid, origin=(9.0, 9.0, 9.0)))
    table.write_text(table.read_text().replace(os.path.relpath(case.mask, table.parent), "mask.nii.gz"))
    assert "[grid-mismatch]" in failure_of(copied_study, ["preprocessed_case"], case.id)


def failure_of(study: Study, names: list[str], partition: str) -> str:
    """Why a run of some assets for a partition failed."""
    chosen = dg.AssetSelection.assets(*(asset_key(study, name) for name in names))
    job = dg.define_asset_job("selected", selection=chosen)
    whole = dg.Definitions.merge(build_definitions([study]), dg.Definitions(jobs=[job]))
    with instance() as opened:
        tags = {"dagster/partition": partition}
        result = whole.resolve_job_def("selected").execute_in_process(instance=opened, tags=tags, raise_on_error=False)
    assert not result.success
    [failure] = [event.step_failure_data for event in result.all_events if event.is_step_failure]
    described = failure.user_failure_data.metadata["failed"].value if failure.user_failure_data else ""
    return f"{failure.error_display_string} {described}"


def test_every_check_has_a_description(copied_study: Study) -> None:
    graph = build_definitions([copied_study]).resolve_asset_graph()
    specs = [graph.get_check_spec(key) for key in graph.asset_check_keys]
    assert len(specs) > 10
    assert [spec.name for spec in specs if not spec.description] == []


def test_patients_of_one_image_in_one_fold_may_train(leaking: Study) -> None:
    first = read_train_paths(leaking.train_paths).held_out(0)[0]
    lines = leaking.train_paths.read_text().splitlines()
    moved = [line.replace(f"{first},0,", f"{first},1,") for line in lines]
    leaking.train_paths.write_text("\n".join(moved) + "\n")
    assert checked(leaking)["no_leakage"].passed


def test_a_label_that_resampling_removed_is_shown(copied_study: Study) -> None:
    case_id = read_train_paths(copied_study.train_paths).cases[0].id
    record = json.loads(copied_study.geometry(case_id).read_text())
    record["volumes"] = {"1": [100.0, 51.0], "2": [3.84, 0.0]}
    copied_study.geometry(case_id).write_text(json.dumps(record))
    found = checked(copied_study)["labels_kept"]
    assert not found.passed
    [row] = found.metadata["found"].records
    assert row.data == {"case": case_id, "label": 2, "mm³ in the mask": 3.84, "mm³ in the arrays": 0.0}


def test_a_loss_that_is_no_number_is_shown(copied_study: Study) -> None:
    passport = json.loads(copied_study.passport(1).read_text())
    passport["history"][0]["training_loss"] = float("inf")
    copied_study.passport(1).write_text(json.dumps(passport))
    found = checked(copied_study)["finite_losses"]
    assert not found.passed
    [row] = found.metadata["found"].records
    assert row.data == {"fold": 1, "epoch": 1, "because": "training_loss is inf"}


def test_scores_worse_than_accepted_are_told(copied_study: Study, capfd: pytest.CaptureFixture[str]) -> None:
    study = copied_study
    where = ["--results", str(study.results)]
    assert cli.accept(where) == 0
    assert study.accepted_csv.read_bytes() == study.results_csv.read_bytes()
    assert checked(study)["no_worse_than_accepted"].passed
    better = pd.read_csv(study.accepted_csv, dtype={"id": str})
    better["core_haus95"] -= 1
    better.to_csv(study.accepted_csv, index=False)
    found = checked(study)["no_worse_than_accepted"]
    assert not found.passed
    assert [row.data["column"] for row in found.metadata["found"].records] == ["core_haus95"]
    assert cli.finalize([*where, "--device", "cpu"]) == 0
    assert "Worse than accepted: core_haus95 by 1 over 6 patients" in capfd.readouterr().err


def test_every_patient_can_be_verified_gate_by_gate(finished: Study, home: Path, tmp_path: Path) -> None:
    shutil.copytree(finished.data.parent, tmp_path / "data")
    study = replace(finished, data=tmp_path / "data" / "dataset.json")
    first, second, *_ = find_training_cases(read_description(study.data))
    labels, grid = read_labels(first.mask)
    write_labels(first.mask, labels + 7, grid)
    image = next(iter(second.images.values()))
    voxels, grid = read_image(image)
    voxels[0, 0, 0] = np.nan
    write_image(image, voxels, replace(grid, origin=(9.0, 9.0, 9.0)))
    job = build_definitions([study]).resolve_job_def(f"{study.key}__verify")
    with instance() as opened:
        result = job.execute_in_process(instance=opened)
    found = {made.check_name: made for made in result.get_asset_check_evaluations()}
    failed = {
        name: [row.data["case"] for row in made.metadata["found"].records]
        for name, made in found.items()
        if not made.passed
    }
    assert failed == {"known_labels": [first.id], "one_grid": [second.id]}
    assert found["readable"].passed
