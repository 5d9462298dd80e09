"""Faults of the machine: full disks, read-only folders, killed commands, two runs at once, a clock that jumps."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mist_ops.config import override, read_config, write_config

from .harness import Sandbox

Mount = Callable[[Path, str], None]

TABLE = [
    ("machine/full-disk", "a full disk, in four stages", "1: [disk-full]"),
    ("machine/read-only", "a read-only folder, in four stages", "1: [read-only]"),
    ("machine/killed", "SIGINT, SIGTERM and SIGKILL during the work", "130, 130, killed; the next run resumes"),
    (
        "machine/killed-renaming",
        "SIGKILL between any two renames of preprocessing or training",
        "killed; all files are those before or after",
    ),
    ("machine/vanished", "a run whose process or machine vanished", "it fails; a training of the queue resumes"),
    ("machine/two-runs", "another run on the same study", "1: [study-locked]"),
    ("machine/clock", "a clock that jumped back or ahead", "0: nothing is out of date"),
    ("machine/no-shared-memory", "no /dev/shm", "0: one process instead of several"),
    ("machine/records-locked", "records that another process has locked", "0: waits"),
]
"""Key, fault and how the command ends, for faults that have tests of their own: below, in
``tests/dagster/test_killed.py`` and in ``tests/dagster/test_heartbeats.py``."""


@pytest.fixture
def mount() -> Iterator[Mount]:
    """Mounts a file system in memory with the options of ``mount``; a second call changes them."""
    mounted: list[Path] = []

    def at(folder: Path, options: str) -> None:
        how = f"remount,{options}" if folder in mounted else options
        folder.mkdir(exist_ok=True)
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", how, "mist", folder], capture_output=True, check=False)
        if done.returncode:
            pytest.skip("needs permission to mount file systems")
        mounted.append(folder)

    yield at
    for folder in dict.fromkeys(mounted):
        subprocess.run(["umount", "--lazy", folder], check=True)


def moved_onto(mount: Mount, folder: Path, options: str) -> None:
    """Move a folder with its content onto a file system of its own."""
    aside = folder.with_name(f"{folder.name}_aside")
    if folder.exists():
        folder.rename(aside)
    mount(folder, "size=64m")
    if aside.exists():
        shutil.copytree(aside, folder, dirs_exist_ok=True)
        shutil.rmtree(aside)
    mount(folder, options)


def fill(folder: Path, leaving: int) -> Path:
    """Fill a file system except for some bytes."""
    ballast = folder / "ballast"
    with ballast.open("wb") as stream:
        stream.truncate(0)
        free = shutil.disk_usage(folder).free
        stream.write(b"\0" * max(0, free - leaving))
    return ballast


STAGES = {
    "analyze": ("results", ["--data", "data/dataset.json", "--nfolds", "2"]),
    "preprocess": ("numpy", []),
    "train": ("results", ["--device", "cpu", "--folds", "0"]),
    "finalize": ("results", ["--device", "cpu"]),
}


def sandbox_of(request: pytest.FixtureRequest, command: str) -> Sandbox:
    stage = {"analyze": "described", "preprocess": "analyzed", "train": "preprocessed", "finalize": "trained"}[command]
    sandbox: Sandbox = request.getfixturevalue(stage)
    if command == "finalize":  # a finished study needs nothing
        shutil.rmtree(sandbox.study.results / "predictions")
    return sandbox


@pytest.mark.parametrize("command", STAGES)
def test_a_full_disk_leaves_no_partial_file_and_the_command_finishes_once_there_is_space(
    command: str, request: pytest.FixtureRequest, mount: Mount
) -> None:
    sandbox = sandbox_of(request, command)
    place, arguments = STAGES[command]
    folder = sandbox.folder / place
    moved_onto(mount, folder, "size=64m")
    before = sandbox.files()
    ballast = fill(folder, leaving=12_288 if command == "analyze" else 65_536)
    ended = sandbox.run(command, *arguments)
    assert ended.status == 1, ended.said
    assert "[disk-full]" in ended.said, ended.said
    assert "Traceback" not in ended.said
    ballast.unlink()
    after = sandbox.files()
    assert [path for path in after if ".tmp-" in path.name] == []
    assert {path: after.get(path) for path in before} == before
    resume = ["--resume"] if command == "train" else []
    ended = sandbox.run(command, *arguments, *resume)
    assert ended.status == 0, ended.said


@pytest.mark.parametrize("command", STAGES)
def test_a_read_only_folder_is_an_error_and_nothing_is_lost(
    command: str, request: pytest.FixtureRequest, mount: Mount
) -> None:
    sandbox = sandbox_of(request, command)
    place, arguments = STAGES[command]
    moved_onto(mount, sandbox.folder / place, "ro")
    before = sandbox.files()
    ended = sandbox.run(command, *arguments)
    assert ended.status == 1, ended.said
    assert "[read-only]" in ended.said, ended.said
    assert sandbox.files() == before


@pytest.mark.parametrize(
    "number, status",
    [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 130, marks=pytest.mark.slow), (signal.SIGKILL, -9)],
)
def test_interrupted_preprocessing_resumes(preprocessed: Sandbox, number: signal.Signals, status: int) -> None:
    sandbox = preprocessed
    whole = {path: content for path, content in sandbox.files().items() if path.suffix == ".npy"}
    shutil.rmtree(sandbox.study.numpy)
    with sandbox.start("preprocess") as command:
        wait_until(lambda: any((sandbox.study.numpy / "images").glob("phantom*")), command)
        command.send_signal(number)
        errors = command.communicate(timeout=120)[1]
    assert command.returncode in (status, 0)  # 0 if it had just finished
    assert "Traceback" not in errors
    assert sandbox.run("preprocess").status == 0
    assert {path: content for path, content in sandbox.files().items() if path.suffix == ".npy"} == whole


def wait_until(condition: Callable[[], bool], command: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert command.poll() in (None, 0)
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_a_study_is_locked_until_its_run_is_gone(preprocessed: Sandbox) -> None:
    sandbox = preprocessed
    config = sandbox.study.config
    write_config(config, override(read_config(config), {"training.epochs": 5000}))
    with sandbox.start("train", "--device", "cpu", "--folds", "0") as training:
        wait_until(lambda: any((sandbox.study.results / ".locks").glob("*.reservation")), training)
        refused = [sandbox.run("preprocess", "--overwrite"), sandbox.run("train", "--folds", "0", "--overwrite")]
        training.kill()
    for ended in refused:
        assert ended.status == 1
        assert "[study-locked]" in ended.said
        assert f"process {training.pid} on" in ended.said
    assert sandbox.run("preprocess", "--overwrite").status == 0


@pytest.mark.parametrize("moment", [0, 4e9])
def test_a_clock_that_jumps_makes_nothing_stale(trained: Sandbox, moment: float) -> None:
    for path in sorted(trained.folder.rglob("*")):
        if path.is_file() and "dagster_home" not in path.parts:
            os.utime(path, (moment, moment))
    ended = trained.run("status")
    assert "Everything is current." in ended.said, ended.said


WITHOUT_SHARED_MEMORY = """
import subprocess, sys
steps = (["umount", "--lazy", "/dev/shm"], ["mount", "-o", "bind", "/proc/1", "/dev/shm"])
if any(subprocess.run(step, stderr=subprocess.DEVNULL).returncode for step in steps):
    sys.exit(77)
sys.exit(subprocess.run(sys.argv[1:]).returncode)
"""


@pytest.mark.parametrize(
    "command, arguments",
    [
        ("preprocess", ["--num-workers-preprocess", "2"]),
        pytest.param("train", ["--device", "cpu", "--folds", "0"], marks=pytest.mark.slow),
    ],
)
def test_without_shared_memory_the_work_is_done_in_one_process(
    command: str, arguments: list[str], request: pytest.FixtureRequest
) -> None:
    sandbox_of(request, command)
    code = f"import sys; from mist_dagster import cli; sys.exit(cli.{command}(sys.argv[1:]))"
    words = [sys.executable, "-c", WITHOUT_SHARED_MEMORY, sys.executable, "-c", code, *arguments]
    done = subprocess.run(["unshare", "--mount", *words], capture_output=True, text=True, check=False)
    if done.returncode == 77 or "unshare" in done.stderr:
        pytest.skip("needs permission to unmount /dev/shm")
    assert done.returncode == 0, done.stderr[-2000:]


def test_a_command_waits_for_records_that_another_process_has_locked(analyzed: Sandbox) -> None:
    other = sqlite3.connect(analyzed.folder / "dagster_home" / "history" / "runs.db", check_same_thread=False)
    other.execute("BEGIN EXCLUSIVE")
    timer = threading.Timer(3, other.rollback)
    timer.start()
    ended = analyzed.run("preprocess")
    timer.join()
    other.close()
    assert ended.status == 0, ended.said
