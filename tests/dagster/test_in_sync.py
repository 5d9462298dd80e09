"""The checks ``in_sync`` by partition: what a run evaluates, what a report marks, and how many events that takes."""

import os
from collections.abc import Iterator

import dagster as dg
import pytest

from mist_dagster import cli
from mist_dagster.definitions import build_definitions
from mist_dagster.instance.home import instance
from mist_dagster.instance.studies import register
from mist_dagster.provenance import asset_key
from mist_dagster.runtime.locks import study_lock
from mist_dagster.stages import check_keys
from mist_ops.config import override, read_config, write_config
from mist_ops.dataset import read_train_paths
from mist_ops.study import Study


@pytest.fixture
def study(copied_study: Study) -> Study:
    """A current study with records of all artifacts and no marks of patients."""
    found = register(copied_study.results, numpy=copied_study.numpy, data=copied_study.data)
    assert cli.status(["--results", str(found.results), "--numpy", str(found.numpy), "--rebuild"]) == 0
    return found


@pytest.fixture
def records(study: Study) -> Iterator[dg.DagsterInstance]:
    with instance() as opened:
        yield opened


def report_checks(records: dg.DagsterInstance, study: Study) -> int:
    """Run the job of the status; return the number of evaluations."""
    job = build_definitions([study]).resolve_job_def(f"{study.key}__status")
    return len(job.execute_in_process(instance=records).get_asset_check_evaluations())


Marks = dict[tuple[str, str | None], str]


def marks(records: dg.DagsterInstance, study: Study) -> Marks:
    """The status of each mark that holds for the latest materialization, by asset and partition."""
    found = records.event_log_storage.get_asset_check_partition_info(check_keys(study))
    return {
        (info.check_key.asset_key.path[-1], info.partition_key): info.latest_execution_status.value
        for info in found
        if info.is_current
    }


def of_patients(records: dg.DagsterInstance, study: Study) -> Marks:
    names = ("preprocessed_case", "cv_prediction", "test_prediction")
    return {mark: found for mark, found in marks(records, study).items() if mark[0] in names and mark[1]}


def test_a_patient_is_marked_when_it_becomes_stale_and_when_it_is_current_again(
    study: Study, records: dg.DagsterInstance
) -> None:
    assert of_patients(records, study) == {}
    assert {marks(records, study)["fold_model", f"fold_{fold}"] for fold in (0, 1)} == {"SUCCEEDED"}
    assert report_checks(records, study) == 0
    patient = read_train_paths(study.train_paths).held_out(0)[0]
    prediction = study.cv_prediction(patient)
    content = prediction.read_bytes()
    prediction.unlink()
    assert report_checks(records, study) == 4  # the patient, all predictions, the scores, the strategy
    assert of_patients(records, study) == {("cv_prediction", patient): "FAILED"}
    assert severity(records, study, "cv_prediction") == "ERROR"  # deleted, so the asset is red
    assert severity(records, study, "evaluation") == "WARN"
    assert report_checks(records, study) == 0
    prediction.write_bytes(content)
    assert report_checks(records, study) == 4
    assert of_patients(records, study) == {("cv_prediction", patient): "SUCCEEDED"}


def severity(records: dg.DagsterInstance, study: Study, name: str) -> str:
    key = dg.AssetCheckKey(asset_key(study, name), "in_sync")
    evaluation = records.event_log_storage.get_latest_asset_check_execution_by_key([key])[key].evaluation
    assert evaluation
    return evaluation.severity.value


def test_settings_mark_all_that_they_reach_once(study: Study, records: dg.DagsterInstance) -> None:
    before, config = marks(records, study), read_config(study.config)
    write_config(study.config, override(config, {"training.epochs": 9}))
    report_checks(records, study)
    found = marks(records, study)
    assert {mark for mark, state in found.items() if state == "FAILED" and mark[0] == "fold_model"} == {
        ("fold_model", "fold_0"),
        ("fold_model", "fold_1"),
        ("fold_model", None),
    }
    assert not any(name == "preprocessed_case" and state == "FAILED" for (name, _), state in found.items())
    write_config(study.config, config)
    report_checks(records, study)
    assert {mark: state for mark, state in marks(records, study).items() if mark in before} == before


def test_a_run_costs_a_patient_no_event_but_its_end(study: Study, records: dg.DagsterInstance) -> None:
    write_config(study.config, override(read_config(study.config), {"preprocessing.normalize_with_nonzero_mask": True}))
    ids = [case.id for case in read_train_paths(study.train_paths).cases]
    report_checks(records, study)
    stale = of_patients(records, study)
    assert {stale["preprocessed_case", case_id] for case_id in ids} == {"FAILED"}
    before = number_of_events(records, study)
    with study_lock("0123456789", study, "preprocessing", stage="preprocess", partitions=ids, exclusive=True):
        report_checks(records, study)
        assert of_patients(records, study) == stale
        after = number_of_events(records, study)
        # The folds and the assets as a whole, which now wait or are running.
        assert after["preprocessed_case"] == before["preprocessed_case"] + 1
        assert after["fold_model"] <= before["fold_model"] + 3


def number_of_events(records: dg.DagsterInstance, study: Study) -> dict[str, int]:
    history = records.event_log_storage.get_asset_check_execution_history
    return {key.asset_key.path[-1]: len(history(key, 1000)) for key in check_keys(study)}


def test_what_was_never_made_is_not_marked_for_each_patient(copied_study: Study) -> None:
    for case in read_train_paths(copied_study.train_paths).cases:
        copied_study.image(case.id).unlink()
    with instance() as opened:
        report_checks(opened, copied_study)
        assert of_patients(opened, copied_study) == {}
        assert opened.event_log_storage.get_latest_asset_check_execution_by_key(check_keys(copied_study))


@pytest.mark.parametrize("number", [1, 3])
def test_patients_materialized_in_the_ui_are_evaluated_and_none_is_skipped(
    study: Study, records: dg.DagsterInstance, number: int
) -> None:
    ids = [case.id for case in read_train_paths(study.train_paths).cases][:number]
    key = asset_key(study, "preprocessed_case")
    tags = {"dagster/partition": ids[0]}
    if number > 1:
        tags = {"dagster/asset_partition_range_start": ids[0], "dagster/asset_partition_range_end": ids[-1]}
    run = run_of(study, records, dg.AssetSelection.assets(key), tags)  # with the checks, as the UI starts it
    planned = records.all_logs(run.run_id, dg.DagsterEventType.ASSET_CHECK_EVALUATION_PLANNED)
    assert [entry.get_dagster_event().asset_check_planned_data.asset_check_key.name for entry in planned].count(
        "in_sync"
    ) == 1
    assert of_patients(records, study) == {("preprocessed_case", patient): "SUCCEEDED" for patient in ids}


def test_a_check_is_executed_by_itself_for_a_patient_or_for_all(study: Study, records: dg.DagsterInstance) -> None:
    first, second, third, *_ = [case.id for case in read_train_paths(study.train_paths).cases]
    for patient in (first, second):
        study.image(patient).write_bytes(b"cut short")
    checks = dg.AssetSelection.checks(dg.AssetCheckKey(asset_key(study, "preprocessed_case"), "in_sync"))
    run_of(study, records, checks, {"dagster/partition": third})
    assert of_patients(records, study) == {
        ("preprocessed_case", first): "FAILED",  # what changed besides
        ("preprocessed_case", second): "FAILED",
        ("preprocessed_case", third): "SUCCEEDED",
    }
    study.image(third).write_bytes(b"cut short")
    run_of(study, records, checks, {})
    assert set(of_patients(records, study).values()) == {"FAILED"}
    assert marks(records, study)["preprocessed_case", None] == "FAILED"


def run_of(
    study: Study, records: dg.DagsterInstance, selection: dg.AssetSelection, tags: dict[str, str]
) -> dg.ExecuteInProcessResult:
    job = dg.define_asset_job("selected", selection=selection)
    whole = dg.Definitions.merge(build_definitions([study]), dg.Definitions(jobs=[job]))
    result = whole.resolve_job_def("selected").execute_in_process(instance=records, tags=tags)
    assert result.success
    return result


def test_a_check_that_its_run_did_not_reach_is_evaluated_by_the_next_report(
    study: Study, records: dg.DagsterInstance
) -> None:
    case = read_train_paths(study.train_paths).cases[0]
    table = study.train_paths.read_text()
    image = os.path.relpath(next(iter(case.images.values())), study.results)
    (study.results / "broken.nii.gz").write_bytes(b"")
    study.train_paths.write_text(table.replace(image, "broken.nii.gz"))
    job = dg.define_asset_job("selected", selection=dg.AssetSelection.assets(asset_key(study, "preprocessed_case")))
    whole = dg.Definitions.merge(build_definitions([study]), dg.Definitions(jobs=[job]))
    tags = {"dagster/partition": case.id}
    result = whole.resolve_job_def("selected").execute_in_process(instance=records, tags=tags, raise_on_error=False)
    assert not result.success
    assert of_patients(records, study) == {}
    report_checks(records, study)
    assert of_patients(records, study)["preprocessed_case", case.id] == "FAILED"
