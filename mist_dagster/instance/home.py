"""The folder in which Dagster keeps its records. What is recorded there belongs elsewhere."""

import contextlib
import fcntl
import os
import re
import shutil
import socket
from collections.abc import Iterator
from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING

from mist_ops.files import write_text

if TYPE_CHECKING:
    from dagster import DagsterInstance

PROCESS_TAG = "mist/process"
"""Run tag of a run inside a command: host and process id, by which a dead one is told."""

CODE_LOCATION = "mist"
"""Name of the code location that the web server and the queue load."""

_ADDRESS = "webserver.url"

_MOVED = {
    "mist_dagster.event_log": "mist_dagster.instance.event_log",
    "mist_dagster.run_storage": "mist_dagster.instance.run_storage",
    "dagster._core.storage.noop_compute_log_manager": "mist_dagster.dagster_private",
}
"""Modules that ``dagster.yaml`` names, and where they are now."""


def dagster_home() -> Path:
    """Return ``$DAGSTER_HOME``, or the embedded default, made ready for use."""
    home = Path(os.environ.get("DAGSTER_HOME") or Path.home() / ".mist" / "dagster_home").expanduser().resolve()
    (home / "studies").mkdir(parents=True, exist_ok=True)
    settings = home / "dagster.yaml"
    if not settings.exists():
        with as_file(files("mist_dagster") / "dagster.yaml") as packaged:
            shutil.copyfile(packaged, settings)
    _follow_moved_modules(settings)
    os.environ["DAGSTER_HOME"] = str(home)
    return home


def _follow_moved_modules(settings: Path) -> None:
    """Update the names of modules in the settings of a home that an earlier version created."""
    before = after = settings.read_text(encoding="utf-8")
    for old, new in _MOVED.items():
        after = re.sub(rf"(module: ){re.escape(old)}\b", rf"\g<1>{new}", after)
    if after != before:
        write_text(settings, after)


@contextlib.contextmanager
def lock(name: str) -> Iterator[None]:
    """Hold a lock of this home, which the kernel drops if the process dies."""
    with (dagster_home() / f".{name}.lock").open("a") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def instance() -> Iterator["DagsterInstance"]:
    """Open this home's instance, with the runs of dead commands marked as failed."""
    from dagster import DagsterInstance  # not at the top: studies are listed without Dagster's half second

    # Processes that create the database side by side break it for good, so the first touch is serialized.
    with lock("first-use"):
        opened = DagsterInstance.get()
        opened.get_runs_count()
        opened.all_asset_keys()
    with opened:
        _sweep(opened)
        yield opened


def process_tag() -> str:
    """Name this process for ``PROCESS_TAG``."""
    return f"{socket.gethostname()}:{os.getpid()}"


def web_server() -> str | None:
    """The address of this home's web server, if ``mist_ui`` runs; a killed one may have left its address."""
    url = dagster_home() / _ADDRESS
    return url.read_text().strip() if url.exists() else None


@contextlib.contextmanager
def announced_web_server(url: str) -> Iterator[None]:
    """Note the address of this home's web server while the block runs."""
    path = dagster_home() / _ADDRESS
    path.write_text(url)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def _sweep(opened: "DagsterInstance") -> None:
    from dagster import DagsterRunStatus, RunsFilter

    for run in opened.get_runs(RunsFilter(statuses=[DagsterRunStatus.STARTED, DagsterRunStatus.CANCELING])):
        host, _, pid = run.tags.get(PROCESS_TAG, "").rpartition(":")
        if host == socket.gethostname() and not Path(f"/proc/{pid}").exists():
            opened.report_run_failed(run, "The command that did this run is gone.")
