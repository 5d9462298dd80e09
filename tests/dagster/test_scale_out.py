"""A study on a cluster: PostgreSQL, Redis and two Celery workers that stand for two machines."""

import contextlib
import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml

from mist_dagster import cli
from mist_dagster.definitions import defs
from mist_dagster.executors import executor
from mist_dagster.home import instance
from mist_dagster.jobs import job_name
from mist_dagster.launch import CODE_LOCATION, LAUNCH
from mist_dagster.partitions import study_partitions
from mist_dagster.studies import register
from mist_ops.config import override, read_config, write_config
from mist_ops.errors import ConfigError
from mist_ops.phantoms import write_phantoms
from mist_ops.study import Study

from .conftest import TINY
from .serving import ask, free_port, serving, wait_until

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
DATABASE = next(iter(sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)), Path("nowhere"))

RANGE = ("dagster/asset_partition_range_start", "dagster/asset_partition_range_end")

installed = importlib.util.find_spec("dagster_celery") and importlib.util.find_spec("dagster_postgres")
served = shutil.which("redis-server") and (DATABASE / "initdb").exists()


def test_an_executor_that_there_is_not_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIST_EXECUTOR", "slurm")
    with pytest.raises(ConfigError, match=r"'slurm'\. It must be in_process or celery"):
        executor()
    monkeypatch.setenv("MIST_EXECUTOR", "celery")
    monkeypatch.delenv("MIST_CELERY_BROKER", raising=False)
    with pytest.raises(ConfigError, match="MIST_CELERY_BROKER and MIST_CELERY_BACKEND are not set"):
        executor()


def test_the_definitions_run_in_process_by_default(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MIST_EXECUTOR", raising=False)
    assert defs().executor is dg.in_process_executor


def test_the_cluster_has_the_settings_of_a_single_machine_but_for_its_storage() -> None:
    single = yaml.safe_load((ROOT / "mist_dagster" / "dagster.yaml").read_text())
    cluster = yaml.safe_load((DEPLOY / "celery" / "dagster.yaml").read_text())
    assert cluster.pop("storage") == {"postgres": {"postgres_url": {"env": "MIST_POSTGRES"}}}
    del single["event_log_storage"]
    assert cluster == single


def test_the_configurations_that_were_not_run_can_at_least_be_read() -> None:
    deployment = yaml.safe_load((DEPLOY / "kubernetes" / "workers.yaml").read_text())
    [container] = deployment["spec"]["template"]["spec"]["containers"]
    assert container["command"][0].endswith("deploy/celery/worker.sh")
    for script in ("slurm/workers.sbatch", "celery/worker.sh", "celery/environment.sh"):
        assert subprocess.run(["bash", "-n", DEPLOY / script], check=False).returncode == 0


@contextlib.contextmanager
def running(command: Sequence[Any], log: Path, **environment: str) -> Iterator[None]:
    with log.open("w") as stream:
        process = subprocess.Popen(
            [str(word) for word in command],
            env={**os.environ, **environment},
            stdout=stream,
            stderr=stream,
            start_new_session=True,
        )
    try:
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


@contextlib.contextmanager
def postgres(log: Path) -> Iterator[str]:
    """A database on loopback; the server refuses to be run by root."""
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


@pytest.fixture
def cluster(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a UI whose runs have their steps executed by the workers ``one`` and ``two``."""
    home.mkdir()
    shutil.copy(DEPLOY / "celery" / "dagster.yaml", home)
    port = free_port()
    worker = [sys.executable, "-m", "celery", "--app", "dagster_celery.app", "worker", "--concurrency", "1"]
    with contextlib.ExitStack() as stack:
        url = stack.enter_context(postgres(tmp_path / "postgres.log"))
        redis = ["redis-server", "--port", port, "--bind", "127.0.0.1", "--save", "", "--dir", tmp_path]
        stack.enter_context(running(redis, tmp_path / "redis.log"))
        for name, value in {
            "MIST_POSTGRES": url,
            "MIST_EXECUTOR": "celery",
            "MIST_CELERY_BROKER": f"redis://127.0.0.1:{port}/0",
            "MIST_CELERY_BACKEND": f"redis://127.0.0.1:{port}/1",
            "PYTHONPATH": str(DEPLOY / "celery"),
            "OMP_NUM_THREADS": "1",
        }.items():
            monkeypatch.setenv(name, value)
        with instance():
            pass  # the tables, before several processes make them
        for name, queue in (("one", "dagster"), ("two", "gpu")):
            command = [*worker, "--queues", queue, "--hostname", f"{name}@cluster"]
            stack.enter_context(running(command, tmp_path / f"{name}.log", TMPDIR=str(tmp_path)))
        yield stack.enter_context(serving(home, tmp_path / "ui.log"))


def launch(address: str, study: Study, stage: str, partitions: Sequence[str] = ()) -> str:
    """Hand a stage to the queue; return the id of the run."""
    first_and_last = dict(zip(RANGE, (*partitions[:1], *partitions[-1:]), strict=False))
    tags = first_and_last if len(partitions) > 1 else dict(zip(["dagster/partition"], partitions, strict=False))
    selector = {"repositoryLocationName": CODE_LOCATION, "repositoryName": "__repository__"}
    parameters = {
        "selector": {**selector, "jobName": job_name(study, stage)},
        "runConfigData": {},
        "executionMetadata": {"tags": [{"key": key, "value": value} for key, value in tags.items()]},
    }
    answer = ask(address, LAUNCH, {"parameters": parameters})["launchRun"]
    assert "run" in answer, answer
    return str(answer["run"]["runId"])


def workers_of(records: dg.DagsterInstance, run_id: str) -> set[str]:
    """The workers that executed the steps of a run."""
    events = [entry.dagster_event for entry in records.all_logs(run_id) if entry.dagster_event]
    said = " ".join(f"{event.message} {event.engine_event_data.metadata}" for event in events if event.is_engine_event)
    return set(re.findall(r"(\w+)@cluster", said))


@pytest.mark.slow
@pytest.mark.skipif(not installed, reason="mist-dagster[celery] is not installed")
@pytest.mark.skipif(not served, reason="there is no redis-server or no PostgreSQL")
def test_a_study_goes_through_two_workers(cluster: str, tmp_path: Path) -> None:
    data = write_phantoms(tmp_path / "data", patients=4, tests=0, size=(24, 26, 22))
    where = ["--results", str(tmp_path / "results"), "--study", "phantoms"]
    assert cli.analyze(["--data", str(data), "--nfolds", "2", *where]) == 0
    study = register(tmp_path / "results", numpy=tmp_path / "numpy")
    write_config(study.config, override(read_config(study.config), TINY))
    patients = study_partitions(study).patients.get_partition_keys()
    with instance() as records:

        def execute(stage: str, *batches: Sequence[str]) -> set[str]:
            runs = [launch(cluster, study, stage, partitions) for partitions in batches]
            ended = (dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED)
            for run_id in runs:
                wait_until(lambda run_id=run_id: records.get_run_by_id(run_id).status in ended, 240)
                assert records.get_run_by_id(run_id).status == ended[0], records.get_run_by_id(run_id)
            return set().union(*(workers_of(records, run_id) for run_id in runs))

        assert execute("preprocess", patients) == {"one"}
        assert execute("train", ["fold_0"], ["fold_1"]) == {"one", "two"}  # the manifest needs no GPU
        assert execute("predict", patients) == {"two"}
        assert execute("evaluate", ()) == {"one"}
        assert cli.status(["--results", str(study.results)]) == 0
    assert all(study.model(fold).exists() for fold in range(2))
    assert study.results_csv.read_text().startswith("id,")
