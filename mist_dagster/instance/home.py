"""The Dagster home: the folder with Dagster's settings and records."""

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING

from mist_dagster.instance.heartbeats import ended_here
from mist_dagster.slurm.tags import SLURM
from mist_ops.files import write_text

if TYPE_CHECKING:
    from dagster import DagsterInstance

CODE_LOCATION = "mist_dagster.definitions"
"""The code location: the name of its module, by which Dagster's own commands name it, too."""

_URL = "webserver.url"

_RENAMED = {
    "module: mist_dagster.event_log": "module: mist_dagster.instance.event_log",
    "module: mist_dagster.instance.run_storage": "module: mist_dagster.run_storage",
    "module: dagster._core.storage.noop_compute_log_manager": "module: mist_dagster.instance.compute_logs",
    "module: mist_dagster.dagster_private": "module: mist_dagster.instance.compute_logs",
    "class: NoOpComputeLogManager": "class: ExplainedComputeLogs",
    "class: KeptSqliteEventLog": "class: PooledSqliteEventLog",
    "class: PatientSqliteRunStorage": "class: WaitingSqliteRunStorage",
}
"""Settings in the ``dagster.yaml`` of earlier versions, and their present values."""


_UNEDITED = (
    "a2257ac3de3d73da051cfd3ec1c1cda14a1dd2f0b6c610350fa36783b02c66f4",
    "9622f21bfffef2042f9314d4e7b6ad93e45b4edbc6c8b6f6c7d73cfc02fc2e3f",
    "409bb69cb500695d15ee910ec72daf324dffa8fd42c5741d4922411cc6928ccd",
    "ec59c49c2eeb06cdfcc0924e0accbc2f35d562fee06b9a56d1e7d257ff72b583",
    "4b2f14b9adb256edd71aa7b204b1ab6b6b3fb88978b6cd697cedd29c7310dbe4",
    "37015700ee9787d033fa01fe9b89e179329709a3dd86d07d9cd27e8ce3a8caa8",
    "ff90e6c17d807be69b4608149fa6cefba1c43bc8413f0b566a0d842ac648c171",
    "e754545d53d2391d7b5dcd6f55fd5e69b6d4e0a448b7f6d20c01c224d0353994",
    "0f56de7b3eca978c56d2c2af7e7e497dc07a16e2663cfafefc1a83bca0e6ccc2",
)
"""SHA-256 of each ``dagster.yaml`` that an earlier version created, with present names."""


def dagster_home() -> Path:
    """Return ``$DAGSTER_HOME`` or ``~/.mist/dagster_home``; create it and its settings if they are missing."""
    home = Path(os.environ.get("DAGSTER_HOME") or Path.home() / ".mist" / "dagster_home").expanduser().resolve()
    (home / "studies").mkdir(parents=True, exist_ok=True)
    settings = home / "dagster.yaml"
    if not settings.exists():
        with as_file(files("mist_dagster") / "dagster.yaml") as packaged:
            shutil.copyfile(packaged, settings)
    _update(settings)
    os.environ["DAGSTER_HOME"] = str(home)
    # Dagster's default is to store each event for itself. It plans an event for each patient of a run.
    os.environ.setdefault("DAGSTER_EVENT_BATCH_SIZE", "1000")
    return home


def _update(settings: Path) -> None:
    """Rename modules and classes in the settings of an earlier version, and replace settings that were not edited."""
    before = after = settings.read_text(encoding="utf-8")
    for old, new in _RENAMED.items():
        after = re.sub(rf"{re.escape(old)}\b", new, after)
    if hashlib.sha256(after.encode()).hexdigest() in _UNEDITED:
        after = (files("mist_dagster") / "dagster.yaml").read_text(encoding="utf-8")
    if after != before:
        write_text(settings, after)


@contextlib.contextmanager
def lock(name: str) -> Iterator[None]:
    """Hold a lock of this home while the block runs; the kernel drops it if the process dies."""
    with (dagster_home() / f".{name}.lock").open("a") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def instance() -> Iterator["DagsterInstance"]:
    """Open this home's instance, and end the runs of processes that were killed on this machine."""
    from dagster import DagsterInstance  # takes half a second to import, which listing studies does not need

    # Processes that create the database at the same time corrupt it, so the first access is serialized.
    with lock("first-use"):
        opened = DagsterInstance.get()
        opened.get_runs_count()
        opened.all_asset_keys()
    with opened:
        _end_dead_runs(opened)
        yield opened


def heartbeats() -> Path:
    """Return the folder with the heartbeats of the processes that execute runs of this home."""
    return dagster_home() / "heartbeats"


def web_server() -> str | None:
    """Return the URL of this home's web server, or None; a killed ``mist_ui`` may have left its URL."""
    path = dagster_home() / _URL
    return path.read_text().strip() if path.exists() else None


@contextlib.contextmanager
def announced_web_server(url: str) -> Iterator[None]:
    """Record the URL of this home's web server while the block runs."""
    path = dagster_home() / _URL
    path.write_text(url)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def _end_dead_runs(opened: "DagsterInstance") -> None:
    from dagster import DagsterRunStatus

    for run_id, heartbeat in ended_here(heartbeats()):
        run = opened.get_run_by_id(run_id)
        if run and run.status == DagsterRunStatus.CANCELING:
            opened.report_run_canceled(run)
        elif run and not run.is_finished and SLURM in run.tags:
            continue  # its job continues, and mist_ui will follow it again
        elif run and not run.is_finished:
            opened.report_run_failed(run, "The process of this run no longer exists.")
        heartbeat.unlink(missing_ok=True)
