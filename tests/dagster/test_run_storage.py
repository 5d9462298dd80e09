"""The run storage with a longer lock timeout: Dagster can read it."""

import sqlite3
import threading
from pathlib import Path

import dagster as dg
import pytest

from mist_dagster.dagster_private import SqliteRunStorage
from mist_dagster.instance.home import instance


@dg.op
def nothing() -> None:
    pass


@dg.job
def job() -> None:
    nothing()


def test_dagsters_own_storage_reads_the_runs_of_a_new_home(home: Path) -> None:
    with instance() as opened:
        run_id = job.execute_in_process(instance=opened).run_id
    own = SqliteRunStorage.from_local(str(home / "history"))
    assert [run.run_id for run in own.get_runs()] == [run_id]


@pytest.mark.slow
def test_a_run_waits_for_another_process_that_locks_the_database_for_seven_seconds(home: Path) -> None:
    with instance() as opened:
        other = sqlite3.connect(home / "history" / "runs.db", check_same_thread=False)
        other.execute("BEGIN IMMEDIATE")
        timer = threading.Timer(7, other.rollback)
        timer.start()
        assert job.execute_in_process(instance=opened).success
        timer.join()
        other.close()
