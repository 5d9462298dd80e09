"""Sensors: marks and runs after an edit, and nothing while nothing changes."""

import os
import shutil

import dagster as dg

from mist_dagster import cli
from mist_dagster.definitions import build_definitions
from mist_dagster.instance.home import instance
from mist_dagster.instance.studies import register
from mist_ops.config import override, read_config, write_config
from mist_ops.dataset import read_train_paths
from mist_ops.study import Study


def tick(study: Study, name: str, cursor: str | None) -> tuple[list[dg.RunRequest], str | None]:
    """The runs that a sensor requests, and its next cursor."""
    repository = build_definitions([study]).get_repository_def()
    context = dg.build_sensor_context(cursor=cursor, repository_def=repository)
    found = repository.get_sensor_def(f"{study.key}__{name}").evaluate_tick(context)
    return list(found.run_requests or []), found.cursor


def test_an_edit_requests_one_run(copied_study: Study) -> None:
    study, name, job = copied_study, "keep_current", "make_current"
    sensor = build_definitions([study]).get_repository_def().get_sensor_def(f"{study.key}__{name}")
    assert sensor.default_status == dg.DefaultSensorStatus.STOPPED
    assert sensor.job_name == f"{study.key}__{job}"
    requested, cursor = tick(study, name, None)
    assert requested == []
    write_config(study.config, override(read_config(study.config), {"training.epochs": 9}))
    requested, later = tick(study, name, cursor)
    assert len(requested) == 1
    assert later != cursor
    assert tick(study, name, later) == ([], later)


def test_an_edited_mask_requests_a_run(copied_study: Study) -> None:
    study = copied_study
    mask = read_train_paths(study.train_paths).cases[0].mask
    copy = study.results / "mask.nii.gz"
    shutil.copy2(mask, copy)
    study.train_paths.write_text(study.train_paths.read_text().replace(os.path.relpath(mask, study.results), str(copy)))
    _, cursor = tick(study, "keep_current", None)
    copy.write_bytes(copy.read_bytes())
    requested, _ = tick(study, "keep_current", cursor)
    assert len(requested) == 1


def test_a_study_with_missing_files_is_skipped(copied_study: Study) -> None:
    copied_study.config.unlink()
    for name in ("watch", "keep_current"):
        assert tick(copied_study, name, "before")[0] == []


def test_deleted_and_altered_outputs_are_marked_within_a_minute(copied_study: Study) -> None:
    study = register(copied_study.results, numpy=copied_study.numpy, data=copied_study.data)
    assert cli.status(["--results", str(study.results), "--numpy", str(study.numpy), "--rebuild"]) == 0
    repository = build_definitions([study]).get_repository_def()
    sensor = repository.get_sensor_def(f"{study.key}__watch")
    assert (sensor.default_status, sensor.minimum_interval_seconds) == (dg.DefaultSensorStatus.RUNNING, 60)

    def watch(cursor: str | None) -> tuple[int, str | None]:
        found = sensor.evaluate_tick(dg.build_sensor_context(opened, cursor, repository_def=repository))
        return len(found.run_requests or ()), found.cursor

    with instance() as opened:
        requested, cursor = watch(None)
        assert requested == 0  # --rebuild has just marked everything
        assert watch(cursor) == (0, cursor)
        patient = read_train_paths(study.train_paths).held_out(0)[0]
        study.cv_prediction(patient).unlink()
        requested, cursor = watch(cursor)
        assert requested == 1
        assert repository.get_job(sensor.job_name).execute_in_process(instance=opened).success
        assert watch(cursor) == (0, cursor)
        study.model(0).touch()
        requested, cursor = watch(cursor)
        assert requested == 0
        study.image(patient).write_bytes(b"cut short")
        assert watch(cursor)[0] == 1


def test_new_predictions_request_an_evaluation_once(copied_study: Study) -> None:
    study = copied_study
    definitions = build_definitions([study])
    predicted, scores = dg.AssetKey([study.key, "cv_prediction"]), dg.AssetKey([study.key, "evaluation"])
    with dg.DagsterInstance.ephemeral() as records:
        before = dg.evaluate_automation_conditions(definitions, records)
        assert before.total_requested == 0
        patient = read_train_paths(study.train_paths).cases[0].id
        records.report_runless_asset_event(dg.AssetMaterialization(predicted, partition=patient))
        after = dg.evaluate_automation_conditions(definitions, records, cursor=before.cursor)
        assert after.get_num_requested(scores) == after.total_requested == 1
        again = dg.evaluate_automation_conditions(definitions, records, cursor=after.cursor)
        assert again.total_requested == 0
