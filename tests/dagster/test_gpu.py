"""Leases of devices, with the lock files of a machine with two GPUs."""

import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest
from expect import refuses

from mist_dagster.instance.home import instance
from mist_dagster.runtime.gpu import POOL, fit_pool, lease, leased_devices
from mist_ops.errors import ConfigError

TWO = {"cuda:0": "first", "cuda:1": "second"}

HOLDER = """
import sys
from pathlib import Path
from mist_dagster.runtime.gpu import lease
with lease(1, {"cuda:0": "first", "cuda:1": "second"}, Path(sys.argv[1])) as names:
    print(*names, flush=True)
    sys.stdin.read()
"""


def test_two_leases_at_once_are_of_different_devices(tmp_path: Path) -> None:
    with lease(1, TWO, tmp_path) as one, lease(1, TWO, tmp_path) as other:
        assert (one, other) == (["cuda:0"], ["cuda:1"])


def test_a_device_is_free_again_after_its_lease(tmp_path: Path) -> None:
    for _ in range(2):
        with lease(2, TWO, tmp_path) as names:
            assert names == ["cuda:0", "cuda:1"]


def test_a_device_with_different_names_in_two_processes_has_one_lock(tmp_path: Path) -> None:
    with lease(1, {"cuda:0": "second"}, tmp_path), lease(1, TWO, tmp_path) as names:
        assert names == ["cuda:0"]
        with lease(1, {"cuda:5": "third"}, tmp_path) as other:
            assert other == ["cuda:5"]


def test_a_lease_of_more_devices_than_are_visible_takes_all_of_them(tmp_path: Path) -> None:
    with lease(9, TWO, tmp_path) as names:
        assert len(names) == 2


def test_a_step_waits_until_a_device_is_free(tmp_path: Path) -> None:
    got = threading.Event()

    def wait() -> None:
        with lease(2, TWO, tmp_path):
            got.set()

    with lease(1, TWO, tmp_path):
        waiter = threading.Thread(target=wait)
        waiter.start()
        assert not got.wait(0.8)
    waiter.join(timeout=10)
    assert got.is_set()


def test_a_killed_holder_frees_its_device(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline().strip() == "cuda:0"
        with lease(1, TWO, tmp_path) as names:
            assert names == ["cuda:1"]
        holder.kill()
        holder.wait()
        with lease(2, TWO, tmp_path) as names:
            assert names == ["cuda:0", "cuda:1"]


def test_the_cpu_needs_no_lease() -> None:
    with leased_devices("cpu", 1) as one, leased_devices("cpu", 1) as other:
        assert one == other == ["cpu"]


def test_a_missing_device_is_refused() -> None:
    with refuses("device-missing", ConfigError, found="99"), leased_devices("99", 1):
        pass


def test_slots_on_the_cpu_are_leased_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("MIST_DEVICES", "cpu:0, cpu:1")
    with leased_devices(None, 1) as one, leased_devices(None, 1) as other:
        assert one == other == ["cpu"]
        locks = next(tmp_path.glob("mist_gpus_*"))
        assert {lock.name for lock in locks.iterdir()} == {"cpu_0.lock", "cpu_1.lock"}


@pytest.mark.parametrize("squat", ["link", "file", "open"])
def test_a_lock_folder_that_another_user_can_write_to_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, squat: str
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    folder = tmp_path / f"mist_gpus_{os.getuid()}"
    if squat == "link":
        (tmp_path / "theirs").mkdir()
        folder.symlink_to(tmp_path / "theirs")
    elif squat == "open":
        folder.mkdir()
        folder.chmod(0o777)
    else:
        folder.touch()
    with refuses("folder-not-private", ConfigError, file=folder), lease(1, TWO):
        pass


def test_the_pool_follows_the_devices_until_the_user_sets_another_number(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slots(devices: str) -> int:
        monkeypatch.setenv("MIST_DEVICES", devices)
        with instance() as opened:
            fit_pool(opened)
            return next(pool.limit for pool in opened.event_log_storage.get_pool_limits() if pool.name == POOL)

    assert [slots("cpu:0,cpu:1"), slots("cpu:0,cpu:1,cpu:2")] == [2, 3]
    with instance() as opened:
        opened.event_log_storage.set_concurrency_slots(POOL, 7)
    assert slots("cpu:0") == 7


def test_a_missing_device_in_the_list_is_refused(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIST_DEVICES", "cuda:99")
    with instance() as opened, refuses("device-missing", ConfigError, field="MIST_DEVICES", found="cuda:99"):
        fit_pool(opened)
