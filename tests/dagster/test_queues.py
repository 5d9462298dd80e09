"""The queue of a running UI: five folds on two devices; killed, canceled and timed-out runs; priorities.

The devices are two slots on the CPU, which are leased and queued like GPUs.
"""

import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from mist_dagster import cli
from mist_dagster.instance.home import instance
from mist_dagster.runtime.gpu import POOL
from mist_ops.config import override, read_config, write_config
from mist_ops.study import Study

from .conftest import preprocessed
from .serving import TERMINATE, ask, serving, wait_until


@pytest.fixture(scope="module")
def queue(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a running UI with two devices of its own."""
    folder = tmp_path_factory.mktemp("queue")
    (folder / "locks").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DAGSTER_HOME", str(folder / "dagster_home"))
        patch.setenv("MIST_DEVICES", "cpu:0,cpu:1")
        patch.setenv("TMPDIR", str(folder / "locks"))
        patch.setenv("OMP_NUM_THREADS", "1")
        with serving(folder / "dagster_home", folder / "ui.log") as address:
            yield address


def submitting(study: Study, *flags: str) -> list[str]:
    return ["--results", str(study.results), "--numpy", str(study.numpy), "--submit", *flags]


def trainings(records: dg.DagsterInstance, study: Study) -> list[dg.DagsterRun]:
    """The trainings of a study, the latest first."""
    return list(records.get_runs(dg.RunsFilter(tags={"mist/stage": "train", "mist/study": study.key})))


def process_of(records: dg.DagsterInstance, run: dg.DagsterRun) -> int | None:
    """Id of the process that executes a run, from its log."""
    found = re.search(r"Executing steps in process \(pid: (\d+)\)", messages(records, run))
    return int(found.group(1)) if found else None


def most_at_once(records: dg.DagsterInstance, runs: list[dg.DagsterRun]) -> int:
    stats = [records.get_run_stats(run.run_id) for run in runs]
    changes = [(stat.start_time, 1) for stat in stats] + [(stat.end_time, -1) for stat in stats]
    counts = [sum(change for when, change in changes if when <= moment) for moment, _ in changes]
    return max(counts)


def ended(records: dg.DagsterInstance, study: Study) -> bool:
    return all(run.is_finished for run in trainings(records, study))


def test_a_submission_without_a_running_ui_is_refused(
    copied_study: Study, home: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    submission = submitting(copied_study, "--overwrite")
    assert cli.train(submission) == 1
    error = capfd.readouterr().err
    assert error.endswith("[ui-not-running]\n")
    assert str(home) in error
    (home / "webserver.url").write_text("http://127.0.0.1:9")  # left by a killed mist_ui
    assert cli.train(submission) == 1
    assert capfd.readouterr().err == error


@pytest.mark.slow
def test_five_folds_on_two_devices_survive_a_killed_worker(queue: str, tmp_path: Path) -> None:
    study = preprocessed(tmp_path, "killed", folds=5, epochs=12)
    assert cli.train(submitting(study)) == 0
    with instance() as records:
        assert len(trainings(records, study)) == 5
        victim = wait_until(lambda: training_with_checkpoint(study, records), seconds=180)
        os.kill(wait_until(lambda: process_of(records, victim), 10), signal.SIGKILL)
        wait_until(lambda: ended(records, study) and retried(records, study), seconds=600)
        runs = trainings(records, study)
        outcomes = {run.run_id: run.status for run in runs}
        assert outcomes.pop(victim.run_id) == dg.DagsterRunStatus.FAILURE
        assert list(outcomes.values()) == [dg.DagsterRunStatus.SUCCESS] * 5
        assert {run.tags["mist/gpu"] for run in runs} == {"cpu:0", "cpu:1"}
        assert most_at_once(records, runs) == 2
        assert re.search(r"after \d+ epoch", messages(records, retried(records, study)[0]))
    assert all(study.model(fold).exists() and study.passport(fold).exists() for fold in range(5))


def training_with_checkpoint(study: Study, records: dg.DagsterInstance) -> dg.DagsterRun | None:
    for run in trainings(records, study):
        fold = int(run.tags["dagster/partition"].removeprefix("fold_"))
        if run.status == dg.DagsterRunStatus.STARTED and study.attempt(fold).exists():
            return run
    return None


def retried(records: dg.DagsterInstance, study: Study) -> list[dg.DagsterRun]:
    return [run for run in trainings(records, study) if "dagster/retry_number" in run.tags]


def messages(records: dg.DagsterInstance, run: dg.DagsterRun) -> str:
    return " ".join(entry.message for entry in records.all_logs(run.run_id))


@pytest.mark.slow
def test_canceled_and_timed_out_runs_keep_their_checkpoint_and_free_the_device(queue: str, tmp_path: Path) -> None:
    study = preprocessed(tmp_path, "canceled", folds=2, epochs=300)
    assert cli.train(submitting(study, "--folds", "0")) == 0
    with instance() as records:
        run = wait_until(lambda: training_with_checkpoint(study, records), seconds=180)
        ask(queue, TERMINATE % run.run_id)
        wait_until(lambda: trainings(records, study)[0].status == dg.DagsterRunStatus.CANCELED, 60)
        assert study.attempt(0).exists()

        assert cli.train(submitting(study, "--folds", "0", "--resume", "--max-hours", "0.003")) == 0
        wait_until(lambda: ended(records, study), 180)
        assert "exceeding maximum runtime of 11 seconds" in messages(records, trainings(records, study)[0])
        assert not study.passport(0).exists()
        assert study.attempt(0).exists()

        for image in study.image("any").parent.iterdir():
            image.unlink()
        assert cli.train(submitting(study, "--folds", "1")) == 0
        failed = wait_until(lambda: next((run for run in trainings(records, study) if has_verdict(run)), None), 120)
        assert failed.tags["mist/gpu"] == "cpu:0"
        assert failed.tags["dagster/will_retry"] == "false"
        assert retried(records, study) == []


@pytest.mark.slow
def test_a_run_that_is_executed_again_resumes_what_it_began(queue: str, tmp_path: Path) -> None:
    """All of it, or from its failure; with other settings it starts from scratch, and says why."""
    study = preprocessed(tmp_path, "again", folds=2, epochs=300)
    assert cli.train(submitting(study, "--folds", "0")) == 0
    with instance() as records:
        run = wait_until(lambda: training_with_checkpoint(study, records), seconds=180)
        canceled(queue, records, run.run_id)
        done = 0
        for strategy in ("ALL_STEPS", "FROM_FAILURE"):
            before, run_id = study.attempt(0).stat().st_mtime_ns, execute_again(queue, run.run_id, strategy)
            found = wait_until(lambda run_id=run_id: RESUMED.search(messages(records, run_of(records, run_id))), 120)
            assert int(found[1]) > done
            done = int(found[1])
            wait_until(lambda before=before: study.attempt(0).stat().st_mtime_ns != before, 60)
            canceled(queue, records, run_id)
        write_config(study.config, override(read_config(study.config), {"training.dali_foreground_prob": 0.3}))
        run_id = execute_again(queue, run.run_id, "ALL_STEPS")
        found = wait_until(lambda: FRESH.search(messages(records, run_of(records, run_id))), 120)
        assert "dali_foreground_prob" in found[1]
        canceled(queue, records, run_id)


RESUMED = re.compile(r"Fold 0 resumes its unfinished training after (\d+) epoch")
FRESH = re.compile(r"Fold 0 starts from scratch: (.*)")
RE_EXECUTE = """
mutation ($parameters: ReexecutionParams!) {
  launchRunReexecution(reexecutionParams: $parameters) { __typename ... on LaunchRunSuccess { run { runId } } }
}
"""


def execute_again(queue: str, run_id: str, strategy: str) -> str:
    """Execute a run again, with the request that the UI sends; return the id of the new run."""
    answer = ask(queue, RE_EXECUTE, {"parameters": {"parentRunId": run_id, "strategy": strategy}})
    return str(answer["launchRunReexecution"]["run"]["runId"])


def run_of(records: dg.DagsterInstance, run_id: str) -> dg.DagsterRun:
    run = records.get_run_by_id(run_id)
    assert run
    return run


def canceled(queue: str, records: dg.DagsterInstance, run_id: str) -> None:
    """Terminate a run, and wait until it has ended."""
    ask(queue, TERMINATE % run_id)
    wait_until(lambda: run_of(records, run_id).status == dg.DagsterRunStatus.CANCELED, 60)


def has_verdict(run: dg.DagsterRun) -> bool:
    """Whether a run failed and Dagster has recorded if it will retry, which comes a moment later."""
    return run.is_failure and "mist/gpu" in run.tags and "dagster/will_retry" in run.tags


@pytest.mark.slow
def test_runs_with_a_higher_priority_start_first(queue: str, tmp_path: Path) -> None:
    study = preprocessed(tmp_path, "ordered", folds=3, epochs=1)
    with instance() as records:
        slots = records.event_log_storage.set_concurrency_slots
        slots(POOL, 0)  # none starts before all are queued
        try:
            for fold, priority in enumerate(("1", "-2", "3")):
                assert cli.train(submitting(study, "--folds", str(fold), "--priority", priority)) == 0
            slots(POOL, 1)
            wait_until(lambda: ended(records, study), 240)
        finally:
            slots(POOL, 2)
        runs = trainings(records, study)
        started = sorted(runs, key=lambda run: records.get_run_stats(run.run_id).start_time)
        assert [run.tags["dagster/partition"] for run in started] == ["fold_2", "fold_0", "fold_1"]
        assert most_at_once(records, runs) == 1
