"""What runs are making is neither missing nor stale: in the status, in plans, and for runs of other homes."""

import socket
from collections.abc import Iterator

import dagster as dg
import pytest

from mist_dagster import cli
from mist_dagster.dagster_private import RegisteredCodeLocationOrigin, RemoteJobOrigin, RemoteRepositoryOrigin
from mist_dagster.definitions import build_definitions
from mist_dagster.freshness.status import Status, report, status
from mist_dagster.instance.home import CODE_LOCATION, heartbeats, instance
from mist_dagster.provenance import asset_key
from mist_dagster.runtime.locks import study_lock
from mist_ops.dataset import read_train_paths
from mist_ops.study import Study


@pytest.fixture
def records(copied_study: Study) -> Iterator[dg.DagsterInstance]:
    with instance() as opened:
        yield opened


def begin(
    records: dg.DagsterInstance,
    study: Study,
    stage: str,
    state: dg.DagsterRunStatus = dg.DagsterRunStatus.STARTED,
    assets: list[str] | None = None,
    parent: str | None = None,
    **tags: str,
) -> str:
    """Record a run as the queue or a worker has it, of a job or of assets that were selected in the UI."""
    job = build_definitions([study]).resolve_job_def(f"{study.key}__{stage}" if not assets else "__ASSET_JOB")
    chosen = {asset_key(study, name) for name in assets or ()}
    job = job.get_subset(asset_selection=chosen) if chosen else job
    partition = {name.replace("_to_", "/"): value for name, value in tags.items()}
    repository = RemoteRepositoryOrigin(RegisteredCodeLocationOrigin(CODE_LOCATION), "__repository__")
    run = records.create_run_for_job(
        job,
        tags=partition,
        asset_selection=chosen or None,
        status=state,
        parent_run_id=parent,
        root_run_id=parent,
        remote_job_origin=RemoteJobOrigin(repository, job.name),
    )
    return run.run_id[:8]


def untrained(study: Study) -> None:
    for path in (study.model(0), study.passport(0), study.checkpoint(0)):
        path.unlink()


RUNNING, QUEUED = dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.QUEUED


@pytest.mark.parametrize("state, word", [(RUNNING, "running"), (QUEUED, "queued")])
@pytest.mark.parametrize("assets", [None, ["training_set", "fold_model"]], ids=["a job", "assets"])
def test_a_fold_in_training_is_not_missing(
    copied_study: Study, records: dg.DagsterInstance, state: dg.DagsterRunStatus, word: str, assets: list[str] | None
) -> None:
    untrained(copied_study)
    held_out = read_train_paths(copied_study.train_paths).held_out(0)
    assert status(copied_study).of("train") == {"fold_0": "it has no model"}
    run = begin(records, copied_study, "train", state, assets, dagster_to_partition="fold_0")
    found = status(copied_study, records)
    assert found.current
    assert found.under_way["train"]["fold_0"].state == word
    # Its predictions, the scores and the test patients can only be made afterwards.
    assert set(found.waiting["predict"]) == set(held_out)
    assert set(found.waiting) == {"predict", "evaluate", "choose_postprocessing", "test"}
    first, second = report(found)
    assert first.startswith(f"Training fold 0: {word} since 20")
    assert first.endswith(f"(run {run}).")
    assert second == (
        "To do after these runs: predict 3 held-out patients; evaluate (results.csv); choose postprocessing "
        "(strategy.json); predict 1 test patient."
    )  # pinned
    assert status(copied_study, records, but=records.get_runs()[0].run_id).of("train")


def test_other_folds_and_other_studies_are_as_before(copied_study: Study, records: dg.DagsterInstance) -> None:
    untrained(copied_study)
    begin(records, copied_study, "train", dagster_to_partition="fold_1")
    found = status(copied_study, records)
    assert found.of("train") == {"fold_0": "it has no model"}
    assert list(found.under_way["train"]) == ["fold_1"]
    begin(records, Study("b", copied_study.numpy, copied_study.results), "train", dagster_to_partition="fold_0")
    assert status(copied_study, records).of("train") == {"fold_0": "it has no model"}


def test_a_range_of_patients_in_preprocessing_holds_up_what_is_made_from_them(
    copied_study: Study, records: dg.DagsterInstance
) -> None:
    ids = [case.id for case in read_train_paths(copied_study.train_paths).cases]
    for case_id in ids:
        copied_study.image(case_id).unlink()
    tags = {"dagster_to_asset_partition_range_start": ids[1], "dagster_to_asset_partition_range_end": ids[3]}
    begin(records, copied_study, "preprocess", RUNNING, ["preprocessed_case"], **tags)
    found = status(copied_study, records)
    assert set(found.under_way["preprocess"]) == set(ids[1:4])
    assert set(found.of("preprocess")) == {ids[0], *ids[4:]}
    assert set(found.waiting["train"].values()) == {"waits for preprocessing"}


def test_a_finished_run_is_not_under_way(copied_study: Study, records: dg.DagsterInstance) -> None:
    untrained(copied_study)
    begin(records, copied_study, "train", dg.DagsterRunStatus.FAILURE, dagster_to_partition="fold_0")
    begin(records, copied_study, "train", dg.DagsterRunStatus.CANCELED, dagster_to_partition="fold_0")
    found = status(copied_study, records)
    assert (found.under_way, list(found.of("train"))) == ({}, ["fold_0"])


def test_a_command_that_died_is_not_under_way_but_its_re_execution_is(
    copied_study: Study, records: dg.DagsterInstance
) -> None:
    begin(records, copied_study, "train", dagster_to_partition="fold_0")
    [command] = records.get_runs()
    heartbeats().mkdir()
    (heartbeats() / f"{command.run_id}.dead").write_text(socket.gethostname())  # of a process that holds no lock
    begin(records, copied_study, "train", parent=command.run_id, dagster_to_partition="fold_0")  # by the UI
    with instance() as opened:  # as every command opens it
        states = {run.run_id: run.status for run in opened.get_runs()}
    assert states.pop(command.run_id) == dg.DagsterRunStatus.FAILURE
    assert list(states.values()) == [RUNNING]


def test_a_run_of_another_home_is_known_by_its_lock(
    copied_study: Study, records: dg.DagsterInstance, capfd: pytest.CaptureFixture[str]
) -> None:
    untrained(copied_study)
    where = ["--results", str(copied_study.results), "--numpy", str(copied_study.numpy)]
    with study_lock("0123456789", copied_study, "training", stage="train", partitions=["fold_0"], writes=[0]):
        assert cli.status(where) == 0
        shown = capfd.readouterr().err
        assert "Training fold 0: running since" in shown
        assert "(run 01234567)" in shown
        assert "no model" not in shown
        assert cli.plan([*where, "--apply", "--device", "cpu"]) == 0  # leaves it to that run
    assert not copied_study.model(0).exists()
    assert status(copied_study, records).of("train")


def test_a_plan_does_what_no_run_is_doing(copied_study: Study, records: dg.DagsterInstance) -> None:
    untrained(copied_study)
    case_id = read_train_paths(copied_study.train_paths).held_out(1)[0]
    copied_study.cv_prediction(case_id).unlink()
    begin(records, copied_study, "train", QUEUED, dagster_to_partition="fold_0")
    found: Status = status(copied_study, records)
    assert list(found.stale) == ["predict"]
    where = ["--results", str(copied_study.results), "--numpy", str(copied_study.numpy), "--study", "copy"]
    assert cli.plan([*where, "--apply", "--device", "cpu"]) == 0
    assert copied_study.cv_prediction(case_id).exists()
    assert not copied_study.model(0).exists()
