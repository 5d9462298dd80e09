"""The queue of a running UI: five folds on two devices, a worker that is killed, one that is canceled.

The devices are two places on the CPU, which are leased and queued for as GPUs are.
"""

import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from mist_dagster import cli
from mist_dagster.home import instance
from mist_dagster.studies import register
from mist_ops.config import override, read_config, write_config
from mist_ops.phantoms import write_phantoms
from mist_ops.study import Study

from .conftest import TINY
from .serving import ask, serving, wait_until

TERMINATE = 'mutation { terminateRun(runId: "%s") { __typename } }'


@pytest.fixture
def queue(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A running UI on two devices of its own."""
    monkeypatch.setenv("MIST_DEVICES", "cpu:0,cpu:1")
    monkeypatch.setenv("TMPDIR", str(tmp_path / "locks"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    (tmp_path / "locks").mkdir()
    with serving(home, tmp_path / "ui.log") as address:
        yield address


def preprocessed(folder: Path, folds: int, epochs: int) -> Study:
    data = write_phantoms(folder / "data", patients=2 * folds, tests=0, size=(24, 26, 22))
    where = ["--results", str(folder / "results"), "--study", "phantoms"]
    assert cli.analyze(["--data", str(data), "--nfolds", str(folds), *where]) == 0
    study = register(folder / "results", numpy=folder / "numpy")
    write_config(study.config, override(read_config(study.config), {**TINY, "training.epochs": epochs}))
    assert cli.preprocess([*where, "--numpy", str(study.numpy)]) == 0
    return study


def trainings(records: dg.DagsterInstance) -> list[dg.DagsterRun]:
    return list(records.get_runs(dg.RunsFilter(tags={"mist/stage": "train"})))


def process_of(records: dg.DagsterInstance, run: dg.DagsterRun) -> int | None:
    """The process that executes a run, as its log tells."""
    said = re.search(r"Executing steps in process \(pid: (\d+)\)", messages(records, run))
    return int(said.group(1)) if said else None


def most_at_once(records: dg.DagsterInstance, runs: list[dg.DagsterRun]) -> int:
    stats = [records.get_run_stats(run.run_id) for run in runs]
    changes = [(stat.start_time, 1) for stat in stats] + [(stat.end_time, -1) for stat in stats]
    counts = [sum(change for when, change in changes if when <= moment) for moment, _ in changes]
    return max(counts)


@pytest.mark.slow
def test_five_folds_on_two_devices_survive_a_killed_worker(queue: str, tmp_path: Path) -> None:
    study = preprocessed(tmp_path, folds=5, epochs=12)
    assert cli.train(["--results", str(study.results), "--numpy", str(study.numpy), "--submit"]) == 0
    with instance() as records:
        assert len(trainings(records)) == 5
        victim = wait_until(lambda: training_with_checkpoint(study, records), seconds=180)
        os.kill(wait_until(lambda: process_of(records, victim), 10), signal.SIGKILL)
        wait_until(lambda: all(run.is_finished for run in trainings(records)) and retried(records), seconds=400)
        runs = trainings(records)
        ended = {run.run_id: run.status for run in runs}
        assert ended.pop(victim.run_id) == dg.DagsterRunStatus.FAILURE
        assert list(ended.values()) == [dg.DagsterRunStatus.SUCCESS] * 5
        assert {run.tags["mist/gpu"] for run in runs} == {"cpu:0", "cpu:1"}
        assert most_at_once(records, runs) == 2
        assert "goes on after" in messages(records, retried(records)[0])
    assert all(study.model(fold).exists() and study.passport(fold).exists() for fold in range(5))


def training_with_checkpoint(study: Study, records: dg.DagsterInstance) -> dg.DagsterRun | None:
    for run in trainings(records):
        fold = int(run.tags["dagster/partition"].removeprefix("fold_"))
        if run.status == dg.DagsterRunStatus.STARTED and study.checkpoint(fold).exists():
            return run
    return None


def retried(records: dg.DagsterInstance) -> list[dg.DagsterRun]:
    return [run for run in trainings(records) if "dagster/retry_number" in run.tags]


def messages(records: dg.DagsterInstance, run: dg.DagsterRun) -> str:
    return " ".join(entry.user_message for entry in records.all_logs(run.run_id))


@pytest.mark.slow
def test_a_canceled_run_frees_its_device_and_a_hopeless_one_is_not_repeated(queue: str, tmp_path: Path) -> None:
    study = preprocessed(tmp_path, folds=2, epochs=300)
    where = ["--results", str(study.results), "--numpy", str(study.numpy), "--submit"]
    assert cli.train([*where, "--folds", "0", "--max-hours", "9"]) == 0
    with instance() as records:
        run = wait_until(lambda: training_with_checkpoint(study, records), seconds=180)
        assert run.tags["dagster/max_runtime"] == "32400"
        ask(queue, TERMINATE % run.run_id)
        wait_until(lambda: trainings(records)[0].status == dg.DagsterRunStatus.CANCELED, 60)
        assert study.checkpoint(0).exists()
        for image in study.image("any").parent.iterdir():
            image.unlink()
        assert cli.train([*where, "--folds", "1"]) == 0
        failed = wait_until(lambda: next((run for run in trainings(records) if is_judged(run)), None), 120)
        assert failed.tags["mist/gpu"] == "cpu:0"
        assert failed.tags["dagster/will_retry"] == "false"


def is_judged(run: dg.DagsterRun) -> bool:
    """Whether a run failed and Dagster has said if it is to be repeated, which comes a moment later."""
    return run.is_failure and "dagster/will_retry" in run.tags
