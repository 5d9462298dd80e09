"""Retention of Dagster's records: what is deleted, what stays, and that nothing is lost on the way."""

import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from pydantic import Field

from mist_dagster import cli
from mist_dagster.dagster_private import (
    ASSET_PARTITION_RANGE_END_TAG,
    ASSET_PARTITION_RANGE_START_TAG,
    DATA_VERSION_TAG,
    SqliteEventLogStorage,
    SqliteRunStorage,
    passed_on,
)
from mist_dagster.definitions import build_definitions
from mist_dagster.freshness.status import status
from mist_dagster.instance.event_log import gathering
from mist_dagster.instance.home import instance
from mist_dagster.instance.retention import Retention
from mist_dagster.instance.studies import register
from mist_dagster.launch import launcher
from mist_dagster.lineage import provenance_of
from mist_dagster.provenance import RANGE_IN_ONE_RUN, asset_key
from mist_dagster.runtime.progress import LogProgress
from mist_dagster.stages import check_keys
from mist_ops.config import override, read_config, write_config
from mist_ops.dataset import read_train_paths
from mist_ops.study import Study

from .staleness import staleness

KEY = dg.AssetKey("case")
PATIENTS = [f"{number:03d}" for number in range(30)]
MATERIALIZED = dg.DagsterEventType.ASSET_MATERIALIZATION
PLANNED = dg.DagsterEventType.ASSET_MATERIALIZATION_PLANNED


class CaseRun(dg.Config):
    version: str = ""
    failing: list[str] = Field(default_factory=list)
    tidy: str = ""


@dg.asset(key=KEY, partitions_def=dg.StaticPartitionsDefinition(PATIENTS), **RANGE_IN_ONE_RUN)
def case(context: dg.AssetExecutionContext, config: CaseRun) -> Iterator[dg.Output[None]]:
    with gathering(context.instance):
        for patient in sorted(context.partition_keys):
            if patient in config.failing:
                continue
            tags = {DATA_VERSION_TAG: f"{config.version} of {patient}"}
            context.log_event(dg.AssetMaterialization(KEY, partition=patient, tags=tags))
    if config.tidy:
        Retention(Path(config.tidy), events=1, runs=1).apply()
        for kind in (PLANNED, MATERIALIZED):
            found = events(context.instance, context.run.run_id, kind)
            assert sorted(map(str, found)) == sorted(context.partition_keys)
    if config.failing:
        raise dg.Failure("some failed", allow_retries=False)
    yield passed_on()


JOB = dg.Definitions([case]).resolve_implicit_global_asset_job_def()


def make(records: dg.DagsterInstance, version: str, patients: list[str] = PATIENTS, **config: Any) -> str:
    """Run the asset for a range of patients; return the id of the run."""
    tags = {ASSET_PARTITION_RANGE_START_TAG: patients[0], ASSET_PARTITION_RANGE_END_TAG: patients[-1]}
    run_config = {"ops": {"case": {"config": {"version": version, **config}}}}
    run_id = JOB.execute_in_process(instance=records, tags=tags, run_config=run_config, raise_on_error=False).run_id
    join()
    return run_id


def join() -> None:
    """Wait for the retention that the end of a run started."""
    for thread in threading.enumerate():
        if thread.name == "retention":
            thread.join(60)


def versions(records: dg.DagsterInstance) -> dict[str, str]:
    tags = records.event_log_storage.get_latest_tags_by_partition(KEY, MATERIALIZED, [DATA_VERSION_TAG])
    return {partition: found[DATA_VERSION_TAG] for partition, found in tags.items()}


def events(records: dg.DagsterInstance, run_id: str, kind: dg.DagsterEventType) -> list[str | None]:
    found = records.all_logs(run_id, of_type=kind)
    return [entry.dagster_event.partition for entry in found if entry.dagster_event]


def status_of(records: dg.DagsterInstance, run_id: str) -> dg.DagsterRunStatus:
    run = records.get_run_by_id(run_id)
    assert run
    return run.status


def materializations(records: dg.DagsterInstance) -> list[tuple[str, str | None]]:
    """Run and partition of all materializations in the index, newest first."""
    return [(event.run_id, event.partition_key) for event in records.fetch_materializations(KEY, limit=1000).records]


def size(home: Path, name: str = "") -> int:
    """Bytes of the databases of runs, or of one, with their write-ahead logs."""
    return sum(path.stat().st_size for path in (home / "history" / "runs").glob(f"{name}*.db*"))


@pytest.fixture
def records(home: Path) -> Iterator[dg.DagsterInstance]:
    with instance() as opened:
        yield opened
        join()


def test_the_latest_events_and_the_newest_of_each_patient_stay(records: dg.DagsterInstance, home: Path) -> None:
    runs = [make(records, "first"), make(records, "second"), make(records, "third", PATIENTS[:20])]
    last = make(records, "fourth", PATIENTS[:5])
    before = versions(records)
    sizes = [size(home, run) for run in runs]
    Retention(home, events=20).apply()
    assert versions(records) == before
    assert len(before) == 30
    newest = [(last, patient) for patient in reversed(PATIENTS[:5])]
    newest += [(runs[2], patient) for patient in reversed(PATIENTS[5:20])]
    # Only the second run has made the other ten.
    assert materializations(records) == [*newest, *((runs[1], patient) for patient in reversed(PATIENTS[20:]))]
    for run, before_it in zip(runs[:2], sizes, strict=False):
        assert events(records, run, MATERIALIZED) == events(records, run, PLANNED) == []
        assert len(events(records, run, dg.DagsterEventType.STEP_SUCCESS)) == 1  # the rest of its log is there
        assert status_of(records, run) == dg.DagsterRunStatus.SUCCESS
        assert size(home, run) < 0.8 * before_it
    assert len(events(records, runs[2], MATERIALIZED)) == 15
    assert not events(records, runs[2], PLANNED)
    assert events(records, last, MATERIALIZED) == PATIENTS[:5]


def test_dagsters_own_storage_reads_what_is_left(records: dg.DagsterInstance, home: Path) -> None:
    for version in ("first", "second"):
        make(records, version)
    Retention(home, events=1).apply()
    own = SqliteEventLogStorage(str(home / "history" / "runs"))
    assert own.get_materialized_partitions(KEY) == set(PATIENTS)
    (record,) = own.get_asset_records([KEY])
    latest = record.asset_entry.last_materialization_record
    assert latest
    assert latest.storage_id == max(
        event.storage_id for event in records.fetch_materializations(KEY, limit=100).records
    )
    assert len(SqliteRunStorage.from_local(str(home / "history")).get_runs()) == 2
    for path in home.rglob("*.db"):
        with closing(sqlite3.connect(path)) as database:
            assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def test_new_events_get_new_ids_after_old_ones_are_deleted(records: dg.DagsterInstance, home: Path) -> None:
    make(records, "first")
    last = records.fetch_materializations(KEY, limit=1).records[0].storage_id
    make(records, "second", PATIENTS[:3])
    Retention(home, events=1, runs=1).apply()
    make(records, "third", PATIENTS[:3])
    ids = [record.storage_id for record in records.fetch_materializations(KEY, limit=3).records]
    assert min(ids) > last + 3


def test_plans_are_deleted_after_a_run_except_of_patients_that_failed(records: dg.DagsterInstance, home: Path) -> None:
    make(records, "first")
    failed = make(records, "second", PATIENTS[:10], failing=PATIENTS[2:4])
    attempts = records.event_log_storage.get_latest_asset_partition_materialization_attempts_without_materializations
    before = attempts(KEY)
    assert set(before) == {*PATIENTS[2:4]}
    Retention(home, events=1, runs=1).apply()
    assert attempts(KEY) == before
    with closing(sqlite3.connect(home / "history" / "runs" / "index.db")) as index:
        planned = "SELECT run_id, partition FROM event_logs WHERE dagster_event_type = ? ORDER BY partition"
        assert index.execute(planned, (PLANNED.value,)).fetchall() == [(failed, patient) for patient in PATIENTS[2:4]]
    assert status_of(records, failed) == dg.DagsterRunStatus.FAILURE


def test_a_run_under_way_keeps_everything(records: dg.DagsterInstance, home: Path) -> None:
    run = make(records, "first", tidy=str(home))
    assert status_of(records, run) == dg.DagsterRunStatus.SUCCESS
    assert events(records, run, MATERIALIZED) == PATIENTS
    tags = {ASSET_PARTITION_RANGE_START_TAG: PATIENTS[0], ASSET_PARTITION_RANGE_END_TAG: PATIENTS[-1]}
    queued = records.create_run_for_job(JOB, tags=tags).run_id
    make(records, "second", tidy=str(home))
    Retention(home, events=1, runs=1).apply()
    assert sorted(map(str, events(records, queued, PLANNED))) == PATIENTS
    assert status_of(records, queued) == dg.DagsterRunStatus.NOT_STARTED


def test_old_runs_are_deleted_except_those_with_the_newest_event_of_something(
    records: dg.DagsterInstance, home: Path
) -> None:
    first = make(records, "first")
    middle = [make(records, "second", PATIENTS[:5]) for _ in range(4)]
    failed = make(records, "third", PATIENTS[5:7], failing=PATIENTS[5:7])
    last = [make(records, "fourth", PATIENTS[:5]) for _ in range(2)]
    before = versions(records)
    Retention(home, runs=2).apply()
    assert {run.run_id for run in records.get_runs()} == {first, failed, *last}
    assert versions(records) == before
    for run in middle:
        assert not list((home / "history" / "runs").glob(f"{run}*"))
        assert not [found for found, _ in materializations(records) if found == run]
    with closing(sqlite3.connect(home / "history" / "runs.db")) as database:
        left = {run for (run,) in database.execute("SELECT DISTINCT run_id FROM run_tags")}
    assert left == {first, failed, *last}
    assert make(records, "fifth", PATIENTS[:5])


def test_a_run_that_a_retry_resumes_is_kept(records: dg.DagsterInstance, home: Path) -> None:
    root = make(records, "first", PATIENTS[:5])
    retry = records.create_run_for_job(JOB, root_run_id=root, parent_run_id=root, tags={"dagster/root_run_id": root})
    for _ in range(3):
        make(records, "second", PATIENTS[:5])
    Retention(home, runs=1).apply()
    assert {root, retry.run_id} <= {run.run_id for run in records.get_runs()}


def test_nothing_is_deleted_without_limits(records: dg.DagsterInstance, home: Path) -> None:
    runs = [make(records, "first") for _ in range(3)]
    Retention(home, events=-1, runs=-1).apply()
    assert len(materializations(records)) == 90
    assert all(events(records, run, MATERIALIZED) == PATIENTS for run in runs)


def test_it_is_applied_after_each_run_with_the_limits_of_the_home(home: Path) -> None:
    settings = home / "dagster.yaml"
    settings.write_text(settings.read_text().replace("kept_events: 5000", "kept_events: 30"))
    with instance() as records:
        runs = [make(records, version) for version in ("first", "second", "third")]
        assert {run for run, _ in materializations(records)} == {runs[-1]}
        assert events(records, runs[0], MATERIALIZED) == []
        assert versions(records) == {patient: f"third of {patient}" for patient in PATIENTS}


def test_the_size_of_the_records_does_not_grow_with_re_runs(home: Path) -> None:
    settings = home / "dagster.yaml"
    settings.write_text(settings.read_text().replace("kept_events: 5000", "kept_events: 30"))

    def again(number: int) -> int:
        with instance() as records:
            for _ in range(number):
                make(records, "again")
        return size(home)

    before = again(3)
    with instance() as records:
        small = size(home, make(records, "again", PATIENTS[:1]))
    assert again(5) < before + 7 * small  # a run without events of patients


KILLED = """
import os, signal, sys
from pathlib import Path
from mist_dagster.instance import retention

steps = int(sys.argv[2])
def counted(work):
    def counting(*arguments, **options):
        global steps
        steps -= 1
        if steps == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return work(*arguments, **options)
    return counting

class Connection(retention.sqlite3.Connection):
    execute = counted(retention.sqlite3.Connection.execute)

connect = retention.sqlite3.connect
retention.sqlite3.connect = lambda *names, **options: connect(*names, **options, factory=Connection)
retention.Retention(Path(sys.argv[1]), events=10, runs=2).apply()
"""


def test_a_retention_that_is_killed_loses_nothing_and_the_next_one_ends_it(home: Path) -> None:
    with instance() as records:
        first = make(records, "first")
        for version in ("second", "third", "fourth"):
            make(records, version, PATIENTS[:12])
        before = versions(records)
        killed = 0
        for step in range(1, 400, 3):  # every third statement
            ended = subprocess.run([sys.executable, "-c", KILLED, str(home), str(step)], check=False)
            assert versions(records) == before
            assert status_of(records, first) == dg.DagsterRunStatus.SUCCESS
            if ended.returncode == 0:
                break
            assert ended.returncode == -signal.SIGKILL
            killed += 1
        assert killed > 10
        assert len(records.get_runs()) == 3
        assert len(materializations(records)) == 30
        assert len({patient for _, patient in materializations(records)}) == 30
        assert events(records, first, MATERIALIZED) == []


WRITE = """
import sys, dagster as dg
from mist_dagster.instance.home import instance
with instance() as opened:
    for number in range(60):
        opened.report_runless_asset_event(dg.AssetMaterialization("case", partition=f"{sys.argv[1]}_{number % 20}"))
"""


def test_other_processes_write_meanwhile(records: dg.DagsterInstance, home: Path) -> None:
    writers = [subprocess.Popen([sys.executable, "-c", WRITE, str(number)]) for number in range(2)]
    while any(writer.poll() is None for writer in writers):
        Retention(home, events=5, runs=1).apply()
    assert [writer.wait() for writer in writers] == [0, 0]
    assert records.get_materialized_partitions(KEY) == {f"{one}_{two}" for one in range(2) for two in range(20)}
    Retention(home, events=5, runs=1).apply()
    assert len(records.fetch_materializations(KEY, limit=1000).records) == 40


def test_only_one_process_at_a_time_deletes(records: dg.DagsterInstance, home: Path) -> None:
    for version in ("first", "second"):
        make(records, version)
    hold = f"import fcntl, sys; lock = open({str(home / '.retention.lock')!r}, 'a'); fcntl.flock(lock, fcntl.LOCK_EX)"
    command = [sys.executable, "-c", f"{hold}; print(flush=True); sys.stdin.read()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout
        other.stdout.readline()
        Retention(home, events=1).apply()
        assert len(materializations(records)) == 60
        other.communicate()
    Retention(home, events=1).apply()
    assert len(materializations(records)) == 30


def facts(study: Study, records: dg.DagsterInstance) -> dict[str, Any]:
    """What commands, the UI and checks read of the records of a study."""
    log, found, resolver = records.event_log_storage, status(study, records), staleness(study, records)
    names = ("preprocessed_case", "cv_prediction", "test_prediction", "fold_model", "evaluation")
    keys = {name: asset_key(study, name) for name in names}
    files = [study.results_csv, *study.cv_predictions.glob("*.nii.gz"), *study.models.glob("*.pt")]
    return {
        "partitions": {name: records.get_materialized_partitions(key) for name, key in keys.items()},
        "versions": {
            name: log.get_latest_tags_by_partition(key, MATERIALIZED, [DATA_VERSION_TAG]) for name, key in keys.items()
        },
        "latest": {name: records.get_latest_materialization_event(key) for name, key in keys.items()},
        "marks": {
            (info.check_key, info.partition_key): (info.latest_execution_status, info.is_current)
            for info in log.get_asset_check_partition_info(check_keys(study))
        },
        "status": (found.stale, found.under_way, found.hours.keys()),
        "staleness": {
            (name, partition): resolver.get_status(key, partition)
            for name, key in keys.items()
            for partition in records.get_materialized_partitions(key) or [None]
        },
        "lineage": provenance_of(records, files),
    }


def test_status_staleness_lineage_and_marks_of_a_study_do_not_change(copied_study: Study, home: Path) -> None:
    study = register(copied_study.results, numpy=copied_study.numpy, data=copied_study.data)
    where = ["--results", str(study.results), "--numpy", str(study.numpy)]
    assert cli.status([*where, "--rebuild"]) == 0
    config, cases = read_config(study.config), read_train_paths(study.train_paths).cases
    with launcher(LogProgress(), build_definitions) as opened:
        for skip in (True, False, True):
            write_config(study.config, override(config, {"preprocessing.skip": skip != config.preprocessing.skip}))
            opened.run_stage(study, "status")
            opened.run_stage(study, "preprocess", {}, [case.id for case in cases])
            opened.run_stage(study, "evaluate")
    with instance() as records:
        join()
        before = facts(study, records)
        rows = _rows(home)
        Retention(home, events=1, runs=1).apply()
        assert _rows(home) < 0.6 * rows
        assert facts(study, records) == before
        assert before["marks"]
        assert before["lineage"]
    assert cli.status([*where, "--rebuild"]) == 0


def _rows(home: Path) -> int:
    with closing(sqlite3.connect(home / "history" / "runs" / "index.db")) as index:
        tables = ("event_logs", "asset_check_executions")
        return sum(index.execute(f"SELECT COUNT(*) FROM {table}").fetchone()[0] for table in tables)


def test_an_unreadable_database_does_not_stop_a_run(home: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "mist")
    (home / "history" / "runs.db").rename(home / "runs.db")
    Retention(home).apply_soon().join(60)
    assert "Old records are still there" in caplog.text
    assert not (home / "history" / "runs.db").exists()
    assert [path.name for path in (home / "history").iterdir()] == ["runs"]
