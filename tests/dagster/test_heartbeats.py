"""Runs whose process or machine vanished: they fail within minutes, and a training of the queue resumes."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from mist_dagster import cli
from mist_dagster.instance.heartbeats import SECONDS_TO_REPORT, SECONDS_UNTIL_LOST, Watch, ended_here, heartbeat
from mist_dagster.instance.home import heartbeats, instance
from mist_dagster.instance.run_launcher import WatchedRunLauncher
from mist_ops.study import Study

from .conftest import preprocessed
from .serving import answers, serving, wait_until
from .test_queues import messages, retried, run_of, submitting, training_with_checkpoint, trainings

HOLDER = """
import sys
from pathlib import Path
from mist_dagster.instance.heartbeats import heartbeat
with heartbeat(Path(sys.argv[1]), "run"):
    print("beats", flush=True)
    sys.stdin.read()
"""

TRAIN = "import sys; from mist_dagster import cli; sys.exit(cli.train(sys.argv[1:]))"


@contextlib.contextmanager
def holder(folder: Path) -> Iterator["subprocess.Popen[str]"]:
    command = [sys.executable, "-c", HOLDER, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "beats\n"
        yield process


def test_a_killed_process_is_noticed_and_one_that_ends_as_it_should_leaves_nothing(tmp_path: Path) -> None:
    now = 0.0
    watch = Watch(tmp_path, lambda: now)
    with holder(tmp_path) as process:
        assert watch.lost("run") is None
        now += 1000
        assert watch.lost("run") is None  # here the lock counts
        process.communicate()
    assert list(tmp_path.iterdir()) == []
    with holder(tmp_path) as process, heartbeat(tmp_path, "run"):
        process.kill()
        process.wait()
        assert watch.lost("run") is None  # who started it may still report
        now += SECONDS_TO_REPORT + 1
        assert watch.lost("another") is None
        assert socket.gethostname() in (watch.lost("run") or "")  # although the other process of the run lives
        [(run_id, path)] = ended_here(tmp_path)
        assert run_id == "run"
        path.unlink()
        assert watch.lost("run") is None


def test_another_machine_is_lost_when_its_heartbeat_does_not_change_whatever_its_clock_says(tmp_path: Path) -> None:
    now = 0.0
    watch = Watch(tmp_path, lambda: now)
    beating = tmp_path / "run.other"
    beating.write_text("another-host")
    for minute in range(10):
        os.utime(beating, (1e9 + minute, 1e9 + minute))  # decades ago
        now = 60.0 * minute
        assert watch.lost("run") is None
    now += SECONDS_UNTIL_LOST
    assert watch.lost("run") is None
    now += 1
    assert "another-host sent no heartbeat for 181 s" in (watch.lost("run") or "")
    assert list(ended_here(tmp_path)) == []  # only run monitoring decides on other machines


def test_run_monitoring_asks_for_the_heartbeats_of_a_home(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with instance() as records:
        assert isinstance(records.run_launcher, WatchedRunLauncher)
        assert records.run_launcher.supports_check_run_worker_health
        run = records.create_run_for_job(dg.GraphDefinition(name="nothing").to_job())
        check = records.run_launcher.check_run_worker_health
        assert check(run).status.value == "RUNNING"  # it may be of an earlier version
        with heartbeat(heartbeats(), run.run_id):
            assert check(run).status.value == "RUNNING"
            os.link(next(heartbeats().iterdir()), heartbeats() / "kept")
        (heartbeats() / "kept").rename(heartbeats() / f"{run.run_id}.killed")
        assert check(run).status.value == "RUNNING"
        monkeypatch.setattr("mist_dagster.instance.heartbeats.SECONDS_TO_REPORT", 0)
        assert check(run).status.value == "FAILED"


@contextlib.contextmanager
def started(study: Study) -> Iterator["subprocess.Popen[str]"]:
    """Start a training of the first fold in a process of its own."""
    command = [sys.executable, "-c", TRAIN, "--results", study.results, "--numpy", study.numpy, "--folds", "0"]
    with subprocess.Popen([str(word) for word in command], stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.slow
def test_a_command_ends_when_its_run_was_taken_for_lost_and_the_run_stays_failed(home: Path, tmp_path: Path) -> None:
    study = preprocessed(tmp_path, "parted", folds=2, epochs=300)
    with instance() as records, started(study) as command:
        run = wait_until(lambda: training_with_checkpoint(study, records), 120)
        records.report_run_failed(run, "its machine could not be reached")
        _, said = command.communicate(timeout=60)
        assert command.returncode == 130, said
        assert run_of(records, run.run_id).status == dg.DagsterRunStatus.FAILURE
        assert study.attempt(0).exists()
    assert list(heartbeats().iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("everything", [False, True])
def test_a_training_of_the_queue_resumes_after_its_process_was_killed(
    home: Path, tmp_path: Path, everything: bool
) -> None:
    """With the server that started it, so that only the heartbeat tells; or with all of the UI, which starts again."""
    study = preprocessed(tmp_path, "queued", folds=2, epochs=300)
    with contextlib.ExitStack() as stack:
        records = stack.enter_context(instance())
        served = stack.enter_context(serving(home, tmp_path / "ui.log"))
        assert cli.train(submitting(study, "--folds", "0")) == 0
        victim = wait_until(lambda: training_with_checkpoint(study, records), 180)
        if everything:
            os.kill(process_with(home, "cli.ui"), signal.SIGKILL)
        os.killpg(process_with(home, "code-server"), signal.SIGKILL)
        if everything:
            assert not answers(served)
            stack.enter_context(serving(home, tmp_path / "again.log"))
        again = wait_until(lambda: retried(records, study), 120)[0].run_id
        assert run_of(records, victim.run_id).status == dg.DagsterRunStatus.FAILURE
        wait_until(lambda: re.search(r"after \d+ epoch", messages(records, run_of(records, again))), 120)


@pytest.mark.slow
def test_the_run_of_a_command_goes_on_while_it_lives_and_fails_when_it_is_killed(home: Path, tmp_path: Path) -> None:
    study = preprocessed(tmp_path, "command", folds=2, epochs=5000)
    with serving(home, tmp_path / "ui.log"), instance() as records, started(study) as command:
        run = wait_until(lambda: training_with_checkpoint(study, records), 120)
        time.sleep(40)  # run monitoring looks each 15 s
        assert run_of(records, run.run_id).status == dg.DagsterRunStatus.STARTED
        command.kill()
        wait_until(lambda: run_of(records, run.run_id).status == dg.DagsterRunStatus.FAILURE, 60)
        time.sleep(10)
        assert len(trainings(records, study)) == 1  # whoever killed it does not want it back


def process_with(home: Path, word: str) -> int:
    """The first process of a home with a word in its command."""
    found = []
    for process in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            environment = (process / "environ").read_bytes().split(b"\0")
            if f"DAGSTER_HOME={home}".encode() in environment and word.encode() in (process / "cmdline").read_bytes():
                found.append(int(process.name))
    return min(found)
