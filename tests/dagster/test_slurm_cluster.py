"""Studies on a real Slurm of two nodes: ``make test-cluster``."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import dagster as dg
import pytest
import yaml
from tiny import TINY

from mist_dagster import cli
from mist_dagster.freshness.status import status as study_status
from mist_dagster.instance.home import instance
from mist_dagster.instance.studies import register
from mist_dagster.provenance import asset_key
from mist_dagster.slurm.job import Job, Report
from mist_dagster.slurm.queue import Queue
from mist_dagster.slurm.settings import Request, SlurmSettings
from mist_dagster.slurm.words import CANCELED
from mist_ops.config import override, read_config, write_config
from mist_ops.dataset import read_train_paths
from mist_ops.files import file_hash
from mist_ops.jobs.folder import Work
from mist_ops.phantoms import write_phantoms
from mist_ops.records.passport import read_passport
from mist_ops.study import Study

from .conftest import preprocessed
from .serving import TERMINATE, ask, serving, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.cluster, pytest.mark.timeout(900)]


def nodes() -> int:
    if not shutil.which("sinfo"):
        return 0
    answer = subprocess.run(
        ["sinfo", "-h", "-N", "-t", "idle,alloc,mix", "-o", "%N"], check=False, capture_output=True, text=True
    )
    return len(set(answer.stdout.split()))


@pytest.fixture(autouse=True)
def slurm(monkeypatch: pytest.MonkeyPatch) -> None:
    if nodes() < 2:
        pytest.skip("no Slurm with two nodes on this machine")
    monkeypatch.setenv("MIST_SLURM_POLL_SECONDS", "1")


@pytest.fixture
def ui(home: Path, tmp_path: Path) -> Iterator[str]:
    with serving(home, tmp_path / "ui.log") as address:
        yield address


def on_slurm(study: Study, **settings: object) -> None:
    request = {"memory": "1G", "cpus": 1, "gpus": 0, "time": "10"}
    content = {"executor": "slurm", "warn_seconds": 30, **settings}
    content["all"] = {**request, **dict(settings.get("all", {}))}
    (study.results / "mist_slurm.yaml").write_text(yaml.safe_dump(content))


def runs(records: dg.DagsterInstance, study: Study) -> Sequence[dg.DagsterRun]:
    return [run for run in records.get_runs() if run.tags.get("mist/study") == study.key and "mist/slurm" in run.tags]


def where(study: Study) -> list[str]:
    return ["--results", str(study.results), "--numpy", str(study.numpy)]


def ended(study: Study, seconds: float = 300) -> list[dg.DagsterRun]:
    with instance() as records:
        wait_until(lambda: runs(records, study) and all(run.is_finished for run in runs(records, study)), seconds)
        return list(runs(records, study))


def messages(run: dg.DagsterRun) -> str:
    with instance() as records:
        entries = records.all_logs(run.run_id)
    failed = [entry.dagster_event for entry in entries if entry.dagster_event and entry.dagster_event.is_step_failure]
    data = [event.step_failure_data for event in failed]
    described = [found.user_failure_data.description or "" for found in data if found.user_failure_data]
    errors = [*described, *(found.error_display_string for found in data)]
    return "\n".join([*(entry.message for entry in entries), *errors])


def test_submitted_folds_train_in_jobs_that_see_no_records(home: Path, tmp_path: Path, ui: str) -> None:
    study = preprocessed(tmp_path, "folds", folds=2, epochs=3)
    hiding = tmp_path / "hiding.sh"
    hiding.write_text(f'#!/bin/sh\nexec unshare -m sh -c \'mount -t tmpfs none {home} && exec "$@"\' sh "$@"\n')
    hiding.chmod(0o755)
    on_slurm(study, all={"prefix": str(hiding)})
    assert cli.train([*where(study), "--submit"]) == 0
    both = ended(study)
    assert [run.status for run in both] == [dg.DagsterRunStatus.SUCCESS] * 2, messages(both[0])
    assert all(re.fullmatch(r"\d+", run.tags["mist/slurm"]) for run in both)
    assert not list((study.results / "jobs").iterdir())
    assert trained_here(study) == 2


def weights(study: Study) -> dict[int, str]:
    return {fold: file_hash(study.model(fold)) for fold in range(2) if study.model(fold).exists()}


def trained_here(study: Study) -> int:
    """Train the same folds on this machine; the number of those that come out bit for bit the same."""
    before = weights(study)
    assert cli.train([*where(study), "--overwrite", "--folds", *map(str, before)]) == 0
    after = weights(study)
    return sum(before[fold] == after[fold] for fold in before)


def job_of(study: Study) -> str:
    def number() -> str | None:
        with instance() as records:
            found = [run.tags["mist/slurm"] for run in runs(records, study)]
        return found[0].split(", ")[-1] if found and found[0][0].isdigit() else None

    return str(wait_until(number, 120))


def epochs_of(study: Study, fold: int = 0) -> int:
    try:
        return len(study.attempt_epochs(fold).read_text().splitlines())
    except OSError:
        return 0


def start_at_once(job: str) -> None:
    """Slurm starts a requeued job after two minutes."""
    subprocess.run(["scontrol", "update", f"JobId={job}", "StartTime=now"], check=False, capture_output=True)


def state_of(job: str) -> str:
    answer = subprocess.run(["squeue", "-h", "-t", "all", "-j", job, "-o", "%T"], check=False, capture_output=True)
    return answer.stdout.decode().strip()


@pytest.mark.parametrize("requeueing", [True, False])
def test_a_fold_crosses_its_time_limit_twice(tmp_path: Path, ui: str, requeueing: bool) -> None:
    study = preprocessed(tmp_path, "long", folds=2, epochs=60)
    setup = "" if requeueing else 'scontrol() { [ "$1" != requeue ] && command scontrol "$@"; }'
    on_slurm(study, warn_seconds=60, all={"time": "2", "setup": setup})
    assert cli.train([*where(study), "--submit", "--folds", "0"]) == 0

    def over() -> bool:
        with instance() as records:
            if requeueing:
                start_at_once(job_of(study))
            time.sleep(1)
            return all(run.is_finished for run in runs(records, study))

    wait_until(over, 600)
    [run] = ended(study)
    said = messages(run)
    assert run.status == dg.DagsterRunStatus.SUCCESS, said
    allocations = said.count("Fold 0 trains on")
    assert allocations >= 3, said
    assert len(run.tags["mist/slurm"].split(", ")) == (1 if requeueing else allocations)
    assert trained_here(study) == 1


def test_a_killed_node_costs_no_more_than_an_epoch(tmp_path: Path, ui: str) -> None:
    daemons = Path(os.environ.get("SLURM_TEST", "/run/slurm-test"))
    if not daemons.is_dir():
        pytest.skip("the nodes are not those of a test Slurm on this machine")
    study = preprocessed(tmp_path, "node", folds=2, epochs=12)
    on_slurm(study)
    assert cli.train([*where(study), "--submit", "--folds", "0"]) == 0
    job = job_of(study)
    wait_until(lambda: epochs_of(study) > 2, 120)
    node = subprocess.run(["squeue", "-h", "-j", job, "-o", "%N"], check=True, capture_output=True, text=True)
    name = node.stdout.strip()
    os.kill(int((daemons / f"slurmd-{name}.pid").read_text()), signal.SIGKILL)
    for process in processes_of(job):
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
    try:
        wait_until(lambda: state_of(job) == "PENDING", 120)
        start_at_once(job)
        [run] = ended(study)
    finally:
        subprocess.run(["slurmd", "-N", name], check=True)
        wait_until(lambda: nodes() == 2, 60)
    assert run.status == dg.DagsterRunStatus.SUCCESS, messages(run)
    assert "resumes after" in messages(run)
    assert trained_here(study) == 1


def processes_of(job: str) -> Iterator[int]:
    """The processes of a job and the step daemon that watches them."""
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            environment = (folder / "environ").read_bytes().split(b"\0")
            command = (folder / "cmdline").read_bytes()
            if f"SLURM_JOB_ID={job}".encode() in environment or command.startswith(f"slurmstepd: [{job}.".encode()):
                yield int(folder.name)


def test_the_head_may_be_killed_and_restarted(home: Path, tmp_path: Path) -> None:
    study = preprocessed(tmp_path, "head", folds=2, epochs=25)
    on_slurm(study)
    with contextlib.suppress(ProcessLookupError), serving(home, tmp_path / "ui.log") as address:
        assert cli.train([*where(study), "--submit"]) == 0
        wait_until(lambda: epochs_of(study, 0) > 2 and epochs_of(study, 1) > 2, 180)
        with instance() as records:
            started = [run for run in runs(records, study) if not run.is_finished]
        for run in started:
            pid = re.findall(r"Started process for run \(pid: (\d+)\)", messages(run))[-1]
            os.kill(int(pid), signal.SIGKILL)
        command = ["pgrep", "-f", f"cli.ui.*{address.rpartition(':')[2]}"]
        for pid in subprocess.run(command, check=True, capture_output=True, text=True).stdout.split():
            os.killpg(int(pid), signal.SIGKILL)
    jobs = {run.run_id: run.tags["mist/slurm"] for run in started}
    with instance() as records:
        assert {run.status for run in runs(records, study)} == {dg.DagsterRunStatus.STARTED}
    with serving(home, tmp_path / "again.log"):
        both = ended(study)
    assert {run.run_id: run.tags["mist/slurm"] for run in both} == jobs
    assert [run.status for run in both] == [dg.DagsterRunStatus.SUCCESS] * 2, messages(both[0])
    assert all("again" in messages(run) for run in both)
    assert trained_here(study) == 2


def test_scancel_cancels_the_run_and_terminating_the_run_cancels_the_job(tmp_path: Path, ui: str) -> None:
    study = preprocessed(tmp_path, "canceled", folds=2, epochs=500)
    on_slurm(study)
    assert cli.train([*where(study), "--submit", "--folds", "0"]) == 0
    job = job_of(study)
    wait_until(lambda: epochs_of(study) > 0, 120)
    subprocess.run(["scancel", job], check=True)
    [run] = ended(study)
    assert run.status == dg.DagsterRunStatus.CANCELED, messages(run)
    assert study.attempt(0).exists()

    assert cli.train([*where(study), "--submit", "--folds", "1"]) == 0
    wait_until(lambda: epochs_of(study, 1) > 0, 180)
    with instance() as records:
        second = runs(records, study)[0]
    ask(ui, TERMINATE % second.run_id)
    number = second.tags["mist/slurm"]
    wait_until(lambda: state_of(number) == CANCELED, 30)
    assert {run.status for run in ended(study)} == {dg.DagsterRunStatus.CANCELED}


def test_a_rejected_request_fails_with_the_reason_and_the_setting(tmp_path: Path, ui: str) -> None:
    study = preprocessed(tmp_path, "rejected", folds=2, epochs=1)
    on_slurm(study, all={"partition": "nowhere"})
    assert cli.train([*where(study), "--submit", "--folds", "0"]) == 0
    [run] = ended(study)
    assert run.status == dg.DagsterRunStatus.FAILURE
    assert "partition in mist_slurm.yaml" in messages(run)
    assert "[slurm-rejected]" in messages(run)
    assert not study.model(0).exists()


def test_a_whole_study_gets_the_scores_of_one_machine(tmp_path: Path, ui: str) -> None:
    data = write_phantoms(tmp_path / "data", patients=6, tests=1, size=(24, 26, 22))

    def analyzed(name: str) -> Study:
        folder = tmp_path / name
        assert cli.analyze(["--data", str(data), "--nfolds", "2", "--results", str(folder / "results")]) == 0
        study = register(folder / "results", numpy=folder / "numpy")
        write_config(study.config, override(read_config(study.config), TINY))
        return study

    study, here = analyzed("slurm"), analyzed("here")
    on_slurm(study, all={"patients": 2})
    assert cli.plan([*where(study), "--apply", "--submit"]) == 0
    every = ended(study, 600)
    assert {run.status for run in every} == {dg.DagsterRunStatus.SUCCESS}, "\n".join(map(messages, every))
    stages = {run.tags["mist/stage"] for run in every}
    assert stages == {"make_current", "preprocess", "train", "predict", "evaluate", "test"}

    assert cli.plan([*where(here), "--apply"]) == 0
    assert study.results_csv.read_bytes() == here.results_csv.read_bytes()
    assert weights(study) == weights(here)
    for mask in (*here.cv_predictions.glob("*.nii.gz"), *here.test_predictions.glob("*.nii.gz")):
        assert file_hash(study.results / mask.relative_to(here.results)) == file_hash(mask)
    for figure in here.results.glob("figures/*.png"):
        assert (study.results / figure.relative_to(here.results)).is_file()
    assert study_status(study).current


def test_one_bad_patient_among_200_costs_no_other(tmp_path: Path, ui: str) -> None:
    data = write_phantoms(tmp_path / "data", patients=200, tests=0, size=(16, 16, 16))
    assert cli.analyze(["--data", str(data), "--nfolds", "2", "--results", str(tmp_path / "results")]) == 0
    study = register(tmp_path / "results", numpy=tmp_path / "numpy")
    on_slurm(study)
    bad = read_train_paths(study.train_paths).cases[77]
    image = next(iter(bad.images.values()))
    image.write_bytes(image.read_bytes()[:400])
    assert cli.preprocess([*where(study), "--submit"]) == 0
    [run] = ended(study)
    assert run.status == dg.DagsterRunStatus.FAILURE
    said = messages(run)
    assert "Submitted Slurm job" in said
    assert "with 8 tasks" in said
    assert f"1 of 200 patients failed: {bad.id}" in said
    assert len(list(study.arrays.glob("*.npy"))) == 199
    with instance() as records:
        made = records.get_materialized_partitions(asset_key(study, "preprocessed_case"))
    assert len(made) == 199
    assert bad.id not in made


def test_twenty_jobs_are_submitted_in_five_seconds_and_one_squeue_serves_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program, calls = tmp_path / "program", tmp_path / "calls"
    program.write_text('#!/bin/sh\nsleep 5; echo \'{"kind": "end"}\' >> "$3/messages-0.jsonl"\n')
    squeue = tmp_path / "bin" / "squeue"
    squeue.parent.mkdir()
    squeue.write_text(f'#!/bin/sh\necho >> {calls}\nexec {shutil.which("squeue")} "$@"\n')
    for script in (program, squeue):
        script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{squeue.parent}:{os.environ['PATH']}")
    request = Request(memory="100M", cpus=1, time="5")
    settings = SlurmSettings(executor="slurm", python=str(program), all=request, warn_seconds=30)
    work = Work(stage="preprocess", study={"name": "s", "numpy": "/n", "results": "/r", "data": None})
    report = Report(lambda text: None, lambda numbers, state: None)
    jobs = [
        Job(tmp_path / f"job {number}", f"run-{number}", settings, Queue(tmp_path / "queue.json", 3), report)
        for number in range(20)
    ]
    started = time.monotonic()
    for job in jobs:
        job.start(work)
    assert time.monotonic() - started < 5
    with ThreadPoolExecutor(20) as pool:
        list(pool.map(lambda job: list(job.follow()), jobs))
    assert len({number for job in jobs for number in job.numbers}) == 20
    assert len(calls.read_text()) <= (time.monotonic() - started) / 3 + 1


def test_two_processes_of_one_job_train_a_fold_together(tmp_path: Path, ui: str) -> None:
    study = preprocessed(tmp_path, "together", folds=2, epochs=2)
    on_slurm(study, all={"setup": "export MIST_DEVICES=cpu,cpu", "cpus": 2})
    assert cli.train([*where(study), "--submit", "--folds", "0"]) == 0
    [run] = ended(study)
    assert run.status == dg.DagsterRunStatus.SUCCESS, messages(run)
    assert read_passport(study.model(0)).processes == 2
