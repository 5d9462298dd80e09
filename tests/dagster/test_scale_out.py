"""Studies on a cluster: PostgreSQL, Redis and two Celery workers in place of two machines."""

import contextlib
import getpass
import importlib.util
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml
from expect import refuses
from tiny import TINY

from mist_dagster import cli
from mist_dagster.definitions import build_definitions, defs
from mist_dagster.freshness.status import status
from mist_dagster.instance.home import instance
from mist_dagster.instance.studies import register, registered_studies
from mist_dagster.launch import CODE_LOCATION, LAUNCH, RELOAD
from mist_dagster.partitions import study_partitions
from mist_dagster.runtime.executors import executor, in_process
from mist_dagster.runtime.gpu import POOL
from mist_dagster.stages import job_name
from mist_ops.config import override, read_config, write_config
from mist_ops.errors import ConfigError
from mist_ops.study import Study

from .clusters import missing
from .conftest import preprocessed
from .serving import TERMINATE, ask, free_port, serving, wait_until

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
DATABASE = next(iter(sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)), Path("nowhere"))

RANGE = ("dagster/asset_partition_range_start", "dagster/asset_partition_range_end")

ENDED = (dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED)

installed = importlib.util.find_spec("dagster_celery") and importlib.util.find_spec("dagster_postgres")
served = shutil.which("redis-server") and (DATABASE / "initdb").exists()


def test_an_executor_must_be_known_and_configured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIST_EXECUTOR", "slurm")
    with refuses("unknown-executor", ConfigError, field="MIST_EXECUTOR", found="slurm"):
        executor()
    monkeypatch.setenv("MIST_EXECUTOR", "celery")
    monkeypatch.delenv("MIST_CELERY_BROKER", raising=False)
    with refuses("executor-not-configured", ConfigError, names="MIST_CELERY_BROKER and MIST_CELERY_BACKEND"):
        executor()


def test_the_definitions_run_in_process_by_default(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MIST_EXECUTOR", raising=False)
    assert defs().executor is in_process


def test_cluster_and_single_machine_have_the_same_settings_except_for_storage() -> None:
    single = yaml.safe_load((ROOT / "mist_dagster" / "dagster.yaml").read_text())
    cluster = yaml.safe_load((DEPLOY / "celery" / "dagster.yaml").read_text())
    for storage in ("event_log_storage", "run_storage", "schedule_storage"):
        assert cluster.pop(storage)["config"] == {"postgres_url": {"env": "MIST_POSTGRES"}}
        del single[storage]
    assert cluster == single


def test_the_configurations_for_kubernetes_and_slurm_can_be_parsed() -> None:
    deployment = yaml.safe_load((DEPLOY / "kubernetes" / "workers.yaml").read_text())
    [container] = deployment["spec"]["template"]["spec"]["containers"]
    assert container["command"][0].endswith("deploy/celery/worker.sh")
    for script in ("slurm/workers.sbatch", "celery/worker.sh", "celery/environment.sh"):
        assert subprocess.run(["bash", "-n", DEPLOY / script], check=False).returncode == 0


@contextlib.contextmanager
def running(command: Sequence[Any], log: Path) -> Iterator[None]:
    words = [str(word) for word in command]
    with log.open("w") as stream:
        process = subprocess.Popen(words, stdout=stream, stderr=stream, start_new_session=True)
    try:
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


@contextlib.contextmanager
def postgres(log: Path) -> Iterator[str]:
    """A database on loopback; its server refuses to run as root."""
    port = free_port()
    as_other = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
    with tempfile.TemporaryDirectory(prefix="mist-pg-") as folder:
        if as_other:
            shutil.chown(folder, "postgres")
        subprocess.run(
            [*as_other, DATABASE / "initdb", "-D", f"{folder}/db", "-U", "mist", "--auth=trust"],
            check=True,
            capture_output=True,
            cwd=folder,
        )
        options = ["-D", f"{folder}/db", "-p", port, "-k", folder, "-c", "listen_addresses=127.0.0.1"]
        with running([*as_other, DATABASE / "postgres", *options], log):
            ready = [DATABASE / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(port)]
            wait_until(lambda: subprocess.run(ready, check=False).returncode == 0, 60)
            yield f"postgresql+psycopg2://mist@127.0.0.1:{port}/postgres"


@pytest.mark.skipif(
    not importlib.util.find_spec("dagster_postgres") or not (DATABASE / "initdb").exists(),
    reason="mist-dagster[celery] and PostgreSQL are not both installed",
)
def test_runs_of_selected_assets_have_tags_in_postgresql(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As ``dagster asset materialize``, a backfill and the UI start them, which know no tags."""
    home = tmp_path / "dagster_home"
    home.mkdir()
    shutil.copy(DEPLOY / "celery" / "dagster.yaml", home)
    monkeypatch.setenv("DAGSTER_HOME", str(home))
    with postgres(tmp_path / "postgres.log") as url:
        monkeypatch.setenv("MIST_POSTGRES", url)
        register(tmp_path / "results", name="study")
        with instance() as records:
            job = build_definitions(registered_studies()).resolve_implicit_global_asset_job_def()
            key = dg.AssetKey(["study", "fold_model"])
            run = records.create_run_for_job(job.get_subset(asset_selection={key}), asset_selection={key})
            tags = records.get_run_by_id(run.run_id).tags
    expected = {"mist/study": "study", "mist/stage": "train", "dagster/priority": "0", "user": getpass.getuser()}
    assert {name: tags.get(name) for name in expected} == expected


def worker(queue: str, log: Path) -> contextlib.AbstractContextManager[None]:
    return running([DEPLOY / "celery" / "worker.sh", queue, 1], log)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a UI whose steps are executed by two workers, one for each queue."""
    folder = tmp_path_factory.mktemp("cluster")
    with head(folder, ["dagster", "gpu"]) as address:
        yield address


@contextlib.contextmanager
def head(folder: Path, queues: Sequence[str]) -> Iterator[str]:
    """Run the servers of a cluster, workers for some queues, and a UI; yield its URL."""
    if not installed or not served:
        pytest.skip("mist-dagster[celery], redis-server and PostgreSQL are not all installed")
    home, port = folder / "dagster_home", free_port()
    home.mkdir()
    shutil.copy(DEPLOY / "celery" / "dagster.yaml", home)
    with contextlib.ExitStack() as stack:
        url = stack.enter_context(postgres(folder / "postgres.log"))
        redis = ["redis-server", "--port", port, "--bind", "127.0.0.1", "--save", "", "--dir", folder]
        stack.enter_context(running(redis, folder / "redis.log"))
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        for name, value in {
            "DAGSTER_HOME": str(home),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "MIST_POSTGRES": url,
            "MIST_EXECUTOR": "celery",
            "MIST_CELERY_BROKER": f"redis://127.0.0.1:{port}/0",
            "MIST_CELERY_BACKEND": f"redis://127.0.0.1:{port}/1",
            "OMP_NUM_THREADS": "1",
        }.items():
            patch.setenv(name, value)
        with instance():
            pass  # create the tables before several processes do so at once
        for queue in queues:
            stack.enter_context(worker(queue, folder / f"{queue}.log"))
        yield stack.enter_context(serving(home, folder / "ui.log"))


def launch(address: str, study: Study, stage: str, partitions: Sequence[str] = (), **more: str) -> str:
    """Submit a stage, with further tags if given; return the id of the run."""
    first_and_last = dict(zip(RANGE, (*partitions[:1], *partitions[-1:]), strict=False))
    tags = first_and_last if len(partitions) > 1 else dict(zip(["dagster/partition"], partitions, strict=False))
    tags |= {f"dagster/{name}": value for name, value in more.items()}
    selector = {"repositoryLocationName": CODE_LOCATION, "repositoryName": "__repository__"}
    parameters = {
        "selector": {**selector, "jobName": job_name(study, stage)},
        "runConfigData": {},
        "executionMetadata": {"tags": [{"key": key, "value": value} for key, value in tags.items()]},
    }
    ask(address, RELOAD)
    answer = ask(address, LAUNCH, {"parameters": parameters})["launchRun"]
    assert "run" in answer, answer
    return str(answer["run"]["runId"])


def outcome(records: dg.DagsterInstance, run_id: str, seconds: float = 240) -> dg.DagsterRunStatus:
    wait_until(lambda: records.get_run_by_id(run_id).status in ENDED, seconds)
    return records.get_run_by_id(run_id).status


def log_of(records: dg.DagsterInstance, run_id: str) -> str:
    events = [entry.dagster_event for entry in records.all_logs(run_id) if entry.dagster_event]
    engine = [f"{event.message} {event.engine_event_data.metadata}" for event in events if event.is_engine_event]
    return " ".join([*engine, *(entry.user_message for entry in records.all_logs(run_id))])


def workers_of(records: dg.DagsterInstance, run_id: str) -> dict[str, int]:
    """Process ids of the workers that executed the steps of a run, by queue."""
    return {queue: int(pid) for queue, pid in re.findall(r"(\w+)-(\d+)@", log_of(records, run_id))}


@pytest.mark.slow
def test_a_study_goes_through_two_workers(cluster: str, tmp_path: Path) -> None:
    study = preprocessed(tmp_path, "through", folds=2, epochs=1)
    patients = study_partitions(study).patients.get_partition_keys()
    with instance() as records:

        def execute(stage: str, *batches: Sequence[str]) -> set[str]:
            runs = [launch(cluster, study, stage, partitions) for partitions in batches]
            assert [outcome(records, run_id) for run_id in runs] == [dg.DagsterRunStatus.SUCCESS] * len(runs)
            return {queue for run_id in runs for queue in workers_of(records, run_id)}

        assert execute("preprocess", patients) == {"dagster"}
        assert execute("train", ["fold_0"], ["fold_1"]) == {"dagster", "gpu"}  # training_set needs no GPU
        assert execute("predict", patients) == {"gpu"}
        assert execute("evaluate", ()) == {"dagster"}
        assert cli.status(["--results", str(study.results)]) == 0
    assert all(study.model(fold).exists() for fold in range(2))
    assert study.results_csv.read_text().startswith("id,")


@pytest.mark.slow
def test_no_step_outlives_its_run(cluster: str, tmp_path: Path) -> None:
    # The workers loaded the definitions before this study existed.
    study = preprocessed(tmp_path, "canceled", folds=2, epochs=300)
    with instance() as records:
        run_id = launch(cluster, study, "train", ["fold_0"])
        wait_until(study.attempt(0).exists, 180)
        found = status(study, records)
        assert {fold: made.state for fold, made in found.under_way["train"].items()} == {"fold_0": "running"}
        assert list(found.of("train")) == ["fold_1"], "a fold that a worker trains is not missing"
        ask(cluster, TERMINATE % run_id)
        assert outcome(records, run_id, 90) == dg.DagsterRunStatus.CANCELED
        write_config(study.config, override(read_config(study.config), TINY))
        # The only GPU worker is free again.
        assert outcome(records, launch(cluster, study, "train", ["fold_1"])) == dg.DagsterRunStatus.SUCCESS
    assert study.attempt(0).exists()
    assert not study.passport(0).exists()


@pytest.mark.slow
@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
def test_another_worker_resumes_the_training_of_one_that_ended(cluster: str, tmp_path: Path, end: int) -> None:
    study = preprocessed(tmp_path, f"moved_{end}", folds=2, epochs=300)
    # Two, as that of the cluster may have been the one that ended in another test.
    with instance() as records, worker("gpu", tmp_path / "first.log"), worker("gpu", tmp_path / "second.log"):
        first = launch(cluster, study, "train", ["fold_0"])
        wait_until(study.attempt(0).exists, 180)
        os.kill(workers_of(records, first)["gpu"], end)
        assert outcome(records, first, 60) == dg.DagsterRunStatus.FAILURE
        again = wait_until(lambda: records.get_runs(dg.RunsFilter(tags={"dagster/parent_run_id": first})), 120)
        wait_until(lambda: re.search(r"after \d+ epoch", log_of(records, again[0].run_id)), 180)
        ask(cluster, TERMINATE % again[0].run_id)
        assert outcome(records, again[0].run_id, 90) == dg.DagsterRunStatus.CANCELED


@pytest.mark.slow
@pytest.mark.cluster
@pytest.mark.timeout(900)
def test_workers_in_an_allocation_of_slurm_train_folds_that_resume_in_the_next_one(tmp_path: Path) -> None:
    """The script of ``deploy/slurm`` with other folders, less time and one core."""
    if missing():
        pytest.skip(missing())
    shutil.copytree(DEPLOY, tmp_path / "deploy")
    script = tmp_path / "deploy" / "slurm" / "workers.sbatch"
    text = script.read_text().replace("/shared/mist", str(tmp_path))
    script.write_text(text.replace("--cpus-per-task=8", "--cpus-per-task=1").replace("--time=2-00:00:00", "--time=10"))
    with head(tmp_path, ["dagster"]) as address:
        given = (
            "DAGSTER_HOME",
            "PATH",
            "PYTHONPATH",
            "OMP_NUM_THREADS",
            *(name for name in os.environ if "MIST_" in name),
        )
        exported = [f"export {name}={shlex.quote(os.environ.get(name, ''))}" for name in given]
        environment = tmp_path / "deploy" / "celery" / "environment.sh"
        environment.write_text("\n".join([*exported, "export MIST_DEVICES=cpu:0,cpu:1"]) + "\n")
        study = preprocessed(tmp_path, "allocated", folds=2, epochs=300)
        with instance() as records, allocation(script) as first:
            records.event_log_storage.set_concurrency_slots(POOL, 2)
            submitted = [launch(address, study, "train", [f"fold_{fold}"]) for fold in range(2)]
            wait_until(lambda: all(study.attempt(fold).exists() for fold in range(2)), 300)
            assert {node_of(workers_of(records, run_id)["gpu"]) for run_id in submitted} == {"n1", "n2"}
            subprocess.run(["scancel", first], check=True)
            assert [outcome(records, run_id, 120) for run_id in submitted] == [dg.DagsterRunStatus.FAILURE] * 2
        with instance() as records, allocation(script):
            for run_id in submitted:
                again = retry_of(records, run_id)
                wait_until(partial(resumed, records, again), 300)
                ask(address, TERMINATE % again)
                assert outcome(records, again, 120) == dg.DagsterRunStatus.CANCELED


def retry_of(records: dg.DagsterInstance, run_id: str) -> str:
    found = wait_until(lambda: records.get_runs(dg.RunsFilter(tags={"dagster/parent_run_id": run_id})), 180)
    return str(found[0].run_id)


def resumed(records: dg.DagsterInstance, run_id: str) -> bool:
    return re.search(r"resumes .*after \d+ epoch", log_of(records, run_id)) is not None


def node_of(process: int) -> str:
    """The node of Slurm on which a process of this machine runs."""
    environment = Path(f"/proc/{process}/environ").read_bytes().decode().split("\0")
    return next(line.partition("=")[2] for line in environment if line.startswith("SLURMD_NODENAME="))


@contextlib.contextmanager
def allocation(script: Path) -> Iterator[str]:
    """A job with workers."""
    output = f"--output={script.parent}/%j.txt"
    answer = subprocess.run(["sbatch", "--parsable", output, script], check=True, capture_output=True, text=True)
    number = answer.stdout.strip()
    try:
        yield number
    finally:
        subprocess.run(["scancel", number], check=False)
