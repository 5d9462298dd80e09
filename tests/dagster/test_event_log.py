"""The event log with pooled connections: Dagster can read it, and several processes can write to it at once."""

import contextlib
import os
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import dagster as dg
import pytest

from mist_dagster import cli
from mist_dagster.dagster_private import (
    ASSET_PARTITION_RANGE_END_TAG,
    ASSET_PARTITION_RANGE_START_TAG,
    SqliteEventLogStorage,
    migrations,
)
from mist_dagster.instance.event_log import PooledSqliteEventLog, gathering
from mist_dagster.instance.home import instance
from mist_dagster.instance.studies import register
from mist_dagster.provenance import asset_key, recorded_version
from mist_ops.boxes import read_boxes
from mist_ops.config import read_config
from mist_ops.dataset import read_train_paths
from mist_ops.phantoms import write_phantoms
from mist_ops.preprocessing.case import write_case

KEY = dg.AssetKey("case")
GATHER = """
import os, signal, time, dagster as dg
from mist_dagster.instance.event_log import gathering
from mist_dagster.instance.home import instance
with instance() as opened, gathering(opened):
    for index in range(50):
        opened.report_runless_asset_event(dg.AssetMaterialization("case", partition=str(index)))
    time.sleep(float(os.environ["WAIT"]))
    os.kill(os.getpid(), signal.SIGKILL)
"""
REPORT = """
import os, signal, sys, dagster as dg
from mist_dagster.instance.home import instance
with instance() as opened:
    for index in range(20):
        opened.report_runless_asset_event(dg.AssetMaterialization("case", partition=f"{sys.argv[1]}_{index}"))
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_new_home_uses_it_and_dagsters_own_storage_reads_it(home: Path) -> None:
    with instance() as opened:
        assert isinstance(opened.event_log_storage, PooledSqliteEventLog)
        opened.report_runless_asset_event(dg.AssetMaterialization(KEY, partition="007"))
    own = SqliteEventLogStorage(str(home / "history" / "runs"))
    assert own.get_materialized_partitions(KEY) == {"007"}


def test_a_batch_is_stored_as_a_whole_or_not_at_all(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cases = dg.StaticPartitionsDefinition([f"{number:03d}" for number in range(40)])

    @dg.asset(key=KEY, partitions_def=cases, backfill_policy=dg.BackfillPolicy.single_run())
    def case() -> None:
        pass

    class Full(Exception):
        pass

    def failing(self: PooledSqliteEventLog, *arguments: object) -> None:
        original(self, *arguments)
        stored.append(arguments)
        if len(stored) == 1:
            raise Full

    stored: list[object] = []
    original = PooledSqliteEventLog._store_asset_event
    job = dg.Definitions([case]).resolve_implicit_global_asset_job_def()
    tags = {ASSET_PARTITION_RANGE_START_TAG: "000", ASSET_PARTITION_RANGE_END_TAG: "039"}
    with instance() as opened:
        before = opened.create_run_for_job(job, tags=tags).run_id
        assert len(opened.all_logs(before)) == 40
        log = opened.event_log_storage
        assert isinstance(log, PooledSqliteEventLog)
        events = [
            record.event_log_entry._replace(run_id="other") for record in opened.get_records_for_run(before).records
        ]
        monkeypatch.setattr(PooledSqliteEventLog, "_store_asset_event", failing)
        with pytest.raises(Full):
            log.store_event_batch(events)
        assert not log.get_logs_for_run("other")
        log.store_event_batch(events)
        assert len(log.get_logs_for_run("other")) == 40


def test_several_processes_write_at_once_and_lose_nothing_when_killed(home: Path) -> None:
    writers = [subprocess.Popen([sys.executable, "-c", REPORT, str(number)]) for number in range(3)]
    assert [writer.wait(120) for writer in writers] == [-9, -9, -9]
    with instance() as opened:
        assert len(opened.event_log_storage.get_materialized_partitions(KEY)) == 60


def test_databases_have_the_latest_revision_of_dagster(home: Path) -> None:
    for _ in range(2):  # they are created, and opened
        with instance() as opened:
            report(opened, "007")
    found = sorted(path.name for path in home.rglob("*.db"))
    assert {"index.db", "runs.db", "schedules.db"} < set(found)
    for path in home.rglob("*.db"):
        with contextlib.closing(sqlite3.connect(path)) as database:
            assert database.execute("SELECT version_num FROM alembic_version").fetchall() == [
                (migrations().get_current_head(),)
            ]


def report(opened: dg.DagsterInstance, partition: str) -> None:
    tags = {"dagster/data_version": f"version of {partition}"}
    opened.report_runless_asset_event(dg.AssetMaterialization(KEY, partition=partition, tags=tags))


def test_gathered_events_are_those_of_dagster(home: Path) -> None:
    with instance() as opened:
        with gathering(opened):
            for index in range(30):
                report(opened, f"{index:03d}")
            assert len(opened.get_materialized_partitions(KEY)) == 30  # whoever reads stores them first
            report(opened, "last")
            observed = dg.AssetObservation(KEY, partition="007", tags={"dagster/data_version": "seen"})
            opened.report_runless_asset_event(observed)
        events = opened.fetch_materializations(KEY, limit=100).records
        assert [event.partition_key for event in reversed(events)] == [*(f"{index:03d}" for index in range(30)), "last"]
        latest = opened.get_latest_materialization_event(KEY)
        assert latest is not None
        assert latest.asset_materialization.partition == "last"
    own = SqliteEventLogStorage(str(home / "history" / "runs"))
    tags = own.get_latest_tags_by_partition(KEY, dg.DagsterEventType.ASSET_MATERIALIZATION, ["dagster/data_version"])
    assert tags["007"] == {"dagster/data_version": "version of 007"}
    seen = own.get_latest_tags_by_partition(KEY, dg.DagsterEventType.ASSET_OBSERVATION, ["dagster/data_version"])
    assert seen == {"007": {"dagster/data_version": "seen"}}
    recorded = own.get_asset_records([KEY])[0].asset_entry.last_materialization_record
    assert recorded is not None
    assert recorded.storage_id == max(event.storage_id for event in events)


def test_gathered_events_are_shown_while_a_run_continues(home: Path) -> None:
    with instance() as opened, gathering(opened):
        report(opened, "007")
        own = SqliteEventLogStorage(str(home / "history" / "runs"))
        until = time.monotonic() + 30
        while not own.get_materialized_partitions(KEY) and time.monotonic() < until:
            time.sleep(0.1)
        assert own.get_materialized_partitions(KEY) == {"007"}


def test_gathered_events_are_kept_if_the_run_fails_or_is_killed(home: Path) -> None:
    with instance() as opened:
        with contextlib.suppress(KeyboardInterrupt), gathering(opened):
            report(opened, "before")
            raise KeyboardInterrupt
        assert opened.get_materialized_partitions(KEY) == {"before"}
    environment = {**os.environ, "WAIT": "3"}
    assert subprocess.run([sys.executable, "-c", GATHER], env=environment, check=False).returncode == -9
    with instance() as opened:
        assert len(opened.get_materialized_partitions(KEY)) == 51


def test_gathered_events_that_cannot_be_stored_are_an_error_and_stored_once(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full(Exception):
        pass

    def failing(*_: object) -> None:
        raise Full

    with instance() as opened:
        with monkeypatch.context() as patch, gathering(opened):
            patch.setattr(PooledSqliteEventLog, "_store_asset_event", failing)
            report(opened, "000")
            with pytest.raises(Full):
                opened.get_materialized_partitions(KEY)
            with pytest.raises(Full):
                report(opened, "not taken")
            patch.undo()
        events = opened.fetch_materializations(KEY, limit=100).records
        assert [event.partition_key for event in events] == ["000"]


def test_arrays_that_a_killed_run_did_not_record_are_recorded_by_the_next(home: Path, tmp_path: Path) -> None:
    data = write_phantoms(tmp_path / "data", patients=3, size=(16, 16, 16))
    results, numpy = tmp_path / "results", tmp_path / "numpy"
    assert cli.analyze(["--data", str(data), "--nfolds", "3", "--results", str(results)]) == 0
    study = register(results, numpy=numpy)
    config, cases = read_config(study.config), read_train_paths(study.train_paths).cases
    content = write_case(study, cases[0], config, read_boxes(study)[cases[0].id])
    assert cli.preprocess(["--results", str(results), "--numpy", str(numpy)]) == 0
    key = asset_key(study, "preprocessed_case")
    with instance() as opened:
        assert opened.get_materialized_partitions(key) == {case.id for case in cases}
        (record,) = opened.fetch_materializations(dg.AssetRecordsFilter(key, [cases[0].id]), limit=5).records
        assert record.asset_materialization is not None
        assert recorded_version(record.asset_materialization.tags) == content
        assert record.asset_materialization.description == "Recorded from its files."
    assert cli.preprocess(["--results", str(results), "--numpy", str(numpy)]) == 0
    with instance() as opened:
        assert len(opened.fetch_materializations(key, limit=100).records) == 3


def test_more_runs_than_pooled_connections_are_recorded(home: Path) -> None:
    @dg.op
    def nothing() -> None:
        pass

    @dg.job
    def job() -> None:
        nothing()

    with instance() as opened:
        runs = [job.execute_in_process(instance=opened).run_id for _ in range(12)]
        assert all(opened.get_run_stats(run).steps_succeeded == 1 for run in runs)


def test_a_canceled_run_has_a_sentence_instead_of_a_stack(home: Path) -> None:
    @dg.op
    def terminated(context: dg.OpExecutionContext) -> None:
        context.instance.report_run_canceling(context.run)
        raise dg.DagsterExecutionInterruptedError

    @dg.job
    def job() -> None:
        terminated()

    with instance() as opened:
        ended = job.execute_in_process(instance=opened, raise_on_error=False)
        run = opened.get_run_by_id(ended.run_id)
        failed = [entry for entry in opened.all_logs(ended.run_id) if entry.dagster_event.is_step_failure]
        tab = opened.compute_log_manager.get_log_data(["run", "compute_logs", "step"])
    assert run is not None
    assert run.status == dg.DagsterRunStatus.CANCELED
    (failure,) = failed
    assert failure.message == "Step terminated was interrupted."
    assert failure.dagster_event.step_failure_data.error.stack == []
    assert "checkpoint" in failure.dagster_event.step_failure_data.error.message
    assert "Events" in tab.stdout.decode()  # what the tab of captured output explains
