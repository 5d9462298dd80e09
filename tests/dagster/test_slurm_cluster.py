"""Studies on a real Slurm of two nodes: ``make test-cluster``.

``.ci/slurm.sh start`` starts such a Slurm on one machine. The tests share studies and references, and wait rather than
compute, so that several can run side by side: jobs of one sleep while those of another train.
"""

import contextlib
import fcntl
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
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
from mist_dagster.partitions import fold_key
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
from mist_ops.replicas import replicate
from mist_ops.study import Study

from .clusters import missing, needs_partition
from .conftest import preprocessed
from .serving import TERMINATE, ask, serving, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.cluster, pytest.mark.timeout(900)]

EPOCHS = 8
"""Of all trainings, so that one training on this machine is the reference of all of them."""

SUCCESS, FAILURE = dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE


@pytest.fixture(scope="module", autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The Dagster home of all tests of this module."""
    if missing():
        pytest.skip(missing())
    folder = tmp_path_factory.mktemp("slurm")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DAGSTER_HOME", str(folder / "dagster_home"))
        patch.setenv("MIST_SLURM_POLL_SECONDS", "1")
        patch.chdir(folder)
        yield folder / "dagster_home"


@pytest.fixture(scope="module")
def ui(home: Path) -> Iterator[str]:
    with serving(home, home.parent / "ui.log") as address:
        yield address


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Let no other process of these tests do the same."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@pytest.fixture(scope="module")
def prepared(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Study:
    """A preprocessed study of two folds, to be copied; the processes of pytest-xdist share it."""
    root = tmp_path_factory.getbasetemp()
    folder = (root.parent if "PYTEST_XDIST_WORKER" in os.environ else root) / "prepared"
    with alone(folder):
        if not (folder / "numpy" / "images").is_dir():
            return preprocessed(folder, "prepared", folds=2, epochs=EPOCHS)
    return register(folder / "results", numpy=folder / "numpy", name="prepared")


@pytest.fixture(scope="module")
def reference(prepared: Study) -> Callable[[], dict[int, str]]:
    """The hashes of the weights that this machine trains, by fold; trained at the first call, while jobs work."""

    def get() -> dict[int, str]:
        with alone(prepared.results.parent):
            if not prepared.results_csv.is_file():
                assert cli.train([*where(prepared), "--no-figures"]) == 0
            return weights(prepared)

    return get


def copied(prepared: Study, folder: Path, name: str) -> Study:
    """A copy of the prepared study, without models."""
    shutil.copytree(prepared.numpy, folder / "numpy")
    made = ("models", "checkpoints", "logs", "predictions", "figures", "results*", "evaluation_paths.csv", ".*")
    shutil.copytree(prepared.results, folder / "results", ignore=shutil.ignore_patterns(*made))
    (folder / "data").symlink_to(prepared.results.parent / "data")  # the tables have relative paths to it
    return register(folder / "results", numpy=folder / "numpy", name=name)


def on_slurm(study: Study, **settings: object) -> None:
    request = {"memory": "1G", "cpus": 1, "gpus": 0, "time": "10"}
    content = {"executor": "slurm", "warn_seconds": 30, **settings}
    content["all"] = {**request, **dict(settings.get("all", {}))}
    (study.results / "mist_slurm.yaml").write_text(yaml.safe_dump(content))


def paced(folder: Path, seconds: float) -> str:
    """A Python for jobs whose epochs take some seconds longer, in which they sleep."""
    script, program = folder / "paced.py", folder / "paced.sh"
    script.write_text(
        "import runpy, time\nfrom mist_ops.jobs.leaving import Leaving\ncheck = Leaving.check\n"
        f"Leaving.check = lambda self: (time.sleep({seconds}), check(self))[1]\n"
        "runpy.run_module('mist_ops.jobs', run_name='__main__')\n"
    )
    program.write_text(f'#!/bin/sh\nexec {sys.executable} {script} "$3"\n')  # instead of -m mist_ops.jobs FOLDER
    program.chmod(0o755)
    return str(program)


def where(study: Study) -> list[str]:
    return ["--results", str(study.results), "--numpy", str(study.numpy)]


def runs(records: dg.DagsterInstance, study: Study) -> Sequence[dg.DagsterRun]:
    keys = {study.key, *(replica.key for replica in study.replicas)}
    on_slurm = records.get_runs(dg.RunsFilter(tags={"mist/machine": "slurm"}))
    return [run for run in on_slurm if run.tags.get("mist/study") in keys]


def ended(study: Study, seconds: float = 400) -> list[dg.DagsterRun]:
    """The runs of a study with jobs, once all of them ended; those that succeeded did something."""
    with instance() as records:
        wait_until(lambda: runs(records, study) and all(run.is_finished for run in runs(records, study)), seconds)
        found = list(runs(records, study))
        for run in found:
            if run.status == SUCCESS and run.tags["mist/stage"] != "make_current":
                check_done(records, run)
    return found


def check_done(records: dg.DagsterInstance, run: dg.DagsterRun) -> None:
    """Fail if a run is green although it made nothing, or less than it planned."""
    made, planned = (
        {
            (str(event.asset_key), event.partition)
            for entry in records.all_logs(run.run_id, of_type=kind)
            if (event := entry.dagster_event)
        }
        for kind in (
            dg.DagsterEventType.ASSET_MATERIALIZATION,
            dg.DagsterEventType.ASSET_MATERIALIZATION_PLANNED,
        )
    )
    assert made, f"{run.job_name} is green and made nothing"
    assert {asset for asset, _ in planned} <= {asset for asset, _ in made}, f"{run.job_name} made too little"
    assert re.fullmatch(r"\d+(, \d+)*", run.tags["mist/slurm"]), f"{run.job_name} is green without a job"


def messages(run: dg.DagsterRun) -> str:
    with instance() as records:
        entries = records.all_logs(run.run_id)
    failed = [entry.dagster_event for entry in entries if entry.dagster_event and entry.dagster_event.is_step_failure]
    data = [event.step_failure_data for event in failed]
    described = [found.user_failure_data.description or "" for found in data if found.user_failure_data]
    errors = [*described, *(found.error_display_string for found in data)]
    return "\n".join([*(entry.message for entry in entries), *errors])


def weights(study: Study) -> dict[int, str]:
    return {fold: file_hash(study.model(fold)) for fold in range(2) if study.model(fold).exists()}


def job_of(study: Study, fold: int = 0) -> str:
    """The number of the latest job of a fold."""

    def number() -> str | None:
        with instance() as records:
            tags = [run.tags for run in runs(records, study) if run.tags.get("dagster/partition") == fold_key(fold)]
        found = tags[0].get("mist/slurm", "") if tags else ""
        return found.split(", ")[-1] if found[:1].isdigit() else None

    return str(wait_until(number, 180))


def epochs_of(study: Study, fold: int = 0) -> int:
    try:
        return len(study.attempt_epochs(fold).read_text().splitlines())
    except OSError:
        return 0


def start_at_once(job: str) -> None:
    """Slurm starts a requeued job after two minutes."""
    subprocess.run(["scontrol", "update", f"JobId={job}", "StartTime=now"], check=False, capture_output=True)


def state_of(job: str) -> str:
    command = ["squeue", "-h", "-t", "all", "-j", job, "-o", "%T"]
    return subprocess.run(command, check=False, capture_output=True, text=True).stdout.strip()


def node_of(job: str) -> str:
    command = ["squeue", "-h", "-j", job, "-o", "%N"]
    return subprocess.run(command, check=False, capture_output=True, text=True).stdout.strip()


def said_of(study: Study, records: dg.DagsterInstance) -> str:
    """What the status says of fold 0."""
    return str(study_status(study, records).under_way["train"][fold_key(0)])


def followers(study: Study) -> list[int]:
    """The processes that follow the unfinished runs of a study."""
    with instance() as records:
        open_runs = [run for run in runs(records, study) if not run.is_finished]
    return [int(re.findall(r"Started process for run \(pid: (\d+)\)", messages(run))[-1]) for run in open_runs]


def kill_ui(address: str) -> None:
    command = ["pgrep", "-f", f"cli.ui.*{address.rpartition(':')[2]}"]
    for pid in subprocess.run(command, check=True, capture_output=True, text=True).stdout.split():
        os.killpg(int(pid), signal.SIGKILL)


def test_folds_are_trained_and_finalized_in_jobs_that_see_no_records(
    prepared: Study,
    reference: Callable[[], dict[int, str]],
    home: Path,
    tmp_path: Path,
    ui: str,
    capfd: pytest.CaptureFixture[str],
) -> None:
    study = copied(prepared, tmp_path, "folds")
    hiding = tmp_path / "hiding.sh"
    hiding.write_text(f'#!/bin/sh\nexec unshare -m sh -c \'mount -t tmpfs none {home} && exec "$@"\' sh "$@"\n')
    hiding.chmod(0o755)
    # Each node has one GPU, so that the folds train on different nodes.
    request = {"prefix": str(hiding), "gpus": 1, "setup": "export MIST_DEVICES=cpu"}
    on_slurm(study, all=request)
    assert cli.train([*where(study), "--submit"]) == 0
    numbers = [job_of(study, fold) for fold in (0, 1)]
    wait_until(lambda: all(epochs_of(study, fold) for fold in (0, 1)), 240)
    assert {node_of(number) for number in numbers} == {"n1", "n2"}
    for process in followers(study):
        assert "libtorch" not in Path(f"/proc/{process}/maps").read_text(), "a process that follows a job loads torch"
    capfd.readouterr()
    assert cli.status(where(study)) == 0
    said = capfd.readouterr().err
    assert re.search(r"Training fold 0: Slurm job \d+: running on n\d.*\(run \w+\)\.", said), said
    assert "it has no model" not in said
    expected = reference()
    both = ended(study)
    assert [run.status for run in both] == [SUCCESS] * 2, messages(both[0])
    assert not list(study.jobs.iterdir())
    assert weights(study) == expected

    assert cli.finalize(["--results", str(study.results), "--submit"]) == 0
    every = ended(study)
    assert {run.status for run in every} == {SUCCESS}, "\n".join(map(messages, every))
    assert {run.tags["mist/stage"] for run in every} == {"train", "make_current", "predict", "evaluate"}
    assert study.results_csv.read_bytes() == prepared.results_csv.read_bytes()
    assert not list(study.jobs.iterdir())
    assert cli.finalize(["--results", str(study.results), "--submit"]) == 0
    assert "Nothing to submit" in capfd.readouterr().err


@pytest.mark.parametrize("requeueing", [True, False])
def test_a_fold_crosses_its_time_limit_twice(
    prepared: Study, reference: Callable[[], dict[int, str]], tmp_path: Path, ui: str, requeueing: bool
) -> None:
    study = copied(prepared, tmp_path, f"long_{requeueing}")
    setup = "" if requeueing else 'scontrol() { [ "$1" != requeue ] && command scontrol "$@"; }'
    # Slurm may warn 30 s too early. An allocation lasts at most a minute, which is too short for half of the epochs.
    request = {"time": "2", "setup": setup}
    on_slurm(study, warn_seconds=60, python=paced(tmp_path, 15), all=request, resubmissions=0)
    assert cli.train([*where(study), "--submit", "--folds", "0"]) == 0
    expected = reference()

    def over() -> bool:
        with instance() as records:
            if requeueing:
                start_at_once(job_of(study))
            time.sleep(1)
            return all(run.is_finished for run in runs(records, study))

    wait_until(over, 600)
    [run] = ended(study)
    said = messages(run)
    assert run.status == SUCCESS, said
    allocations = said.count("Fold 0 trains on")
    assert allocations >= 3, said
    jobs = len(run.tags["mist/slurm"].split(", "))
    # On a busy machine, a job may be warned before it can react; it then ends at its limit and is submitted again.
    assert jobs < allocations if requeueing else jobs == allocations
    assert weights(study) == {0: expected[0]}


def test_a_killed_node_costs_no_more_than_an_epoch(
    prepared: Study, reference: Callable[[], dict[int, str]], tmp_path: Path, ui: str
) -> None:
    needs_partition("fragile")
    study = copied(prepared, tmp_path, "node")
    on_slurm(study, python=paced(tmp_path, 2), all={"partition": "fragile"})
    assert cli.train([*where(study), "--submit", "--folds", "0"]) == 0
    job = job_of(study)
    wait_until(lambda: epochs_of(study) > 2, 240)
    name = node_of(job)
    daemon = Path(os.environ.get("SLURM_TEST", "/run/slurm-test")) / f"slurmd-{name}.pid"
    os.kill(int(daemon.read_text()), signal.SIGKILL)
    for process in processes_of(job):
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
    done = epochs_of(study)
    try:
        wait_until(lambda: state_of(job) == "PENDING", 120)
        start_at_once(job)
        expected = reference()
        [run] = ended(study)
    finally:
        subprocess.run(["slurmd", "-N", name], check=True)
    said = messages(run)
    assert run.status == SUCCESS, said
    resumed = re.search(r"resumes after (\d+) epochs", said)
    assert resumed, said
    assert int(resumed[1]) >= done - 1
    assert weights(study) == {0: expected[0]}


def processes_of(job: str) -> Iterator[int]:
    """The processes of a job and the step daemon that watches them."""
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            environment = (folder / "environ").read_bytes().split(b"\0")
            command = (folder / "cmdline").read_bytes()
            if f"SLURM_JOB_ID={job}".encode() in environment or command.startswith(f"slurmstepd: [{job}.".encode()):
                yield int(folder.name)


def test_a_preempted_training_resumes(
    prepared: Study, reference: Callable[[], dict[int, str]], tmp_path: Path, ui: str
) -> None:
    needs_partition("urgent")
    study = copied(prepared, tmp_path, "preempted")
    on_slurm(study, python=paced(tmp_path, 2), all={"partition": "low", "options": ["--exclusive"]})
    assert cli.train([*where(study), "--submit", "--folds", "0"]) == 0
    job = job_of(study)
    wait_until(lambda: epochs_of(study) > 2, 240)
    urgent = ["sbatch", "--parsable", "--partition=urgent", "--exclusive", "--output=/dev/null", "--wrap=sleep 5"]
    subprocess.run(urgent, check=True, capture_output=True)
    wait_until(lambda: state_of(job) == "PENDING", 120)
    wait_until(lambda: not node_of(job), 60)
    start_at_once(job)
    expected = reference()
    [run] = ended(study)
    said = messages(run)
    assert run.status == SUCCESS, said
    assert "requeued 1 time" in said
    assert re.search(r"resumes after [1-9]\d* epochs", said), said
    assert run.tags["mist/slurm"] == job
    assert weights(study) == {0: expected[0]}


def test_jobs_end_while_nothing_follows_them_and_the_next_ui_records_them(
    prepared: Study, reference: Callable[[], dict[int, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The processes that follow the jobs and ``mist_ui`` are killed, as by a restart of the login node."""
    own_home = tmp_path / "dagster_home"
    monkeypatch.setenv("DAGSTER_HOME", str(own_home))
    study = copied(prepared, tmp_path, "head")
    on_slurm(study, python=paced(tmp_path, 1))
    with contextlib.suppress(ProcessLookupError), serving(own_home, tmp_path / "ui.log") as address:
        assert cli.train([*where(study), "--submit"]) == 0
        wait_until(lambda: epochs_of(study, 0) > 2 and epochs_of(study, 1) > 2, 240)
        for process in followers(study):
            os.kill(process, signal.SIGKILL)
        kill_ui(address)
    with instance() as records:
        started = list(runs(records, study))
    assert {run.status for run in started} == {dg.DagsterRunStatus.STARTED}
    jobs = {run.run_id: run.tags["mist/slurm"] for run in started}
    wait_until(lambda: {state_of(job) for job in jobs.values()} <= {"COMPLETED", ""}, 240)

    # Both folds are trained, and no process has recorded it.
    found = study_status(study)
    assert not found.of("train"), found.of("train")
    with instance() as records:
        assert not records.get_materialized_partitions(asset_key(study, "fold_model"))
        # Within a minute: as long as an answer of squeue is good enough for a report.
        wait_until(lambda: "has ended; mist_ui records its results" in said_of(study, records), 90)
    with serving(own_home, tmp_path / "again.log"):
        both = ended(study)
    assert {run.run_id: run.tags["mist/slurm"] for run in both} == jobs
    assert [run.status for run in both] == [SUCCESS] * 2, messages(both[0])
    assert all("Following Slurm job" in messages(run) for run in both)
    with instance() as records:
        assert records.get_materialized_partitions(asset_key(study, "fold_model")) == {"fold_0", "fold_1"}
    monkeypatch.undo()
    assert weights(study) == reference()


def test_scancel_cancels_the_run_and_terminating_the_run_cancels_the_job(
    prepared: Study, tmp_path: Path, ui: str
) -> None:
    study = copied(prepared, tmp_path, "canceled")
    on_slurm(study, python=paced(tmp_path, 20))
    assert cli.train([*where(study), "--submit"]) == 0
    jobs = [job_of(study, fold) for fold in (0, 1)]
    wait_until(lambda: all(epochs_of(study, fold) for fold in (0, 1)), 240)
    subprocess.run(["scancel", jobs[0]], check=True)
    with instance() as records:
        [second] = [run for run in runs(records, study) if run.tags["mist/slurm"] == jobs[1]]
    ask(ui, TERMINATE % second.run_id)
    wait_until(lambda: state_of(jobs[1]) == CANCELED, 60)
    assert {run.status for run in ended(study)} == {dg.DagsterRunStatus.CANCELED}
    assert study.attempt(0).exists()
    assert study.attempt(1).exists()


@pytest.mark.parametrize(
    "settings, code, says",
    [
        ({"all": {"partition": "nowhere"}}, "slurm-rejected", "partition in mist_slurm.yaml"),
        ({"python": "/bin/true"}, "slurm-job-failed", "it ended without a result"),
    ],
    ids=["a rejected request", "a job that does nothing"],
)
def test_a_run_fails_with_the_reason(
    prepared: Study, tmp_path: Path, ui: str, settings: dict[str, object], code: str, says: str
) -> None:
    study = copied(prepared, tmp_path, code.replace("-", "_"))
    on_slurm(study, **settings)
    assert cli.train([*where(study), "--submit", "--folds", "0"]) == 0
    [run] = ended(study)
    assert run.status == FAILURE
    assert says in messages(run)
    assert f"[{code}]" in messages(run)
    assert not study.model(0).exists()
    assert list(study.jobs.iterdir()), "the log of a failed job is kept"


def test_a_whole_study_and_its_replica_get_the_scores_of_one_machine(tmp_path: Path, ui: str) -> None:
    data = write_phantoms(tmp_path / "data", patients=6, tests=1, size=(24, 26, 22))

    def analyzed(name: str) -> Study:
        folder = tmp_path / name
        assert cli.analyze(["--data", str(data), "--nfolds", "2", "--results", str(folder / "results")]) == 0
        study = register(folder / "results", numpy=folder / "numpy")
        write_config(study.config, override(read_config(study.config), TINY))
        return study

    study, here = analyzed("slurm"), analyzed("here")
    on_slurm(study, all={"patients": 2})
    assert cli.run_all(["--data", str(data), *where(study), "--resume", "--submit"]) == 0
    assert not list(study.arrays.glob("*.npy")), "preprocessing is a job, too"
    assert cli.plan([*where(here), "--apply"]) == 0
    every = ended(study, 600)
    assert {run.status for run in every} == {SUCCESS}, "\n".join(map(messages, every))
    stages = {run.tags["mist/stage"] for run in every}
    assert stages == {"make_current", "preprocess", "train", "predict", "evaluate", "test"}
    assert study_status(study).current
    compare(study, here)

    # A plan finds the replica that is new.
    for each in (study, here):
        replicate(each, 7)
    assert cli.plan([*where(study), "--apply", "--submit"]) == 0
    assert cli.plan([*where(here), "--apply"]) == 0
    every = ended(study, 600)
    assert {run.status for run in every} == {SUCCESS}, "\n".join(map(messages, every))
    compare(study.replica(7), here.replica(7))
    assert weights(study.replica(7)) != weights(study)
    assert study_status(study.replica(7)).current


def compare(study: Study, here: Study) -> None:
    """Whether Slurm made what one machine makes."""
    assert study.results_csv.read_bytes() == here.results_csv.read_bytes()
    assert len(weights(here)) == 2
    assert weights(study) == weights(here)
    for mask in (*here.cv_predictions.glob("*.nii.gz"), *here.test_predictions.glob("*.nii.gz")):
        assert file_hash(study.results / mask.relative_to(here.results)) == file_hash(mask)
    for figure in here.results.glob("figures/*.png"):
        assert (study.results / figure.relative_to(here.results)).is_file()


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
    assert run.status == FAILURE
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


def test_two_processes_of_one_job_train_a_fold_together(prepared: Study, tmp_path: Path, ui: str) -> None:
    study = copied(prepared, tmp_path, "together")
    write_config(study.config, override(read_config(study.config), {"training.epochs": 2}))
    on_slurm(study, all={"setup": "export MIST_DEVICES=cpu,cpu", "cpus": 2})
    assert cli.train([*where(study), "--submit", "--folds", "0"]) == 0
    [run] = ended(study)
    assert run.status == SUCCESS, messages(run)
    assert read_passport(study.model(0)).processes == 2
