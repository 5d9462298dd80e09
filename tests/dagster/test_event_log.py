"""The event log with pooled connections: Dagster can read it, and several processes can write to it at once."""

import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest

from mist_dagster.dagster_private import (
    ASSET_PARTITION_RANGE_END_TAG,
    ASSET_PARTITION_RANGE_START_TAG,
    SqliteEventLogStorage,
)
from mist_dagster.instance.event_log import PooledSqliteEventLog
from mist_dagster.instance.home import instance

KEY = dg.AssetKey("case")
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
        if len(stored) == 30:
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
