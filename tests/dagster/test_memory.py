"""Reservations of main memory: what fits runs at once, what does not fit waits, and dead holders are forgotten."""

import subprocess
import sys
import threading
from pathlib import Path

from mist_dagster.runtime.memory import reserve

HOLD = """
import sys, time
from pathlib import Path
from mist_dagster.runtime.memory import reserve
with reserve(int(sys.argv[1]), 100, Path(sys.argv[2])):
    print("held", flush=True)
    time.sleep(60)
"""


def holding(needed: int, folder: Path) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", HOLD, str(needed), str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    assert process.stdout.readline() == "held\n"
    return process


def test_a_reservation_waits_until_it_fits_and_a_killed_holder_frees_its_memory(tmp_path: Path) -> None:
    with holding(60, tmp_path) as other:
        with reserve(40, 100, tmp_path):
            assert len(list(tmp_path.glob("*.reservation"))) == 2
        reserved = threading.Event()

        def wait() -> None:
            with reserve(41, 100, tmp_path):
                reserved.set()

        waiter = threading.Thread(target=wait)
        waiter.start()
        assert not reserved.wait(1)
        other.kill()
        waiter.join(20)
        assert reserved.is_set()
    assert list(tmp_path.glob("*.reservation")) == []


def test_a_reservation_above_the_total_is_granted_when_it_is_the_only_one(tmp_path: Path) -> None:
    with reserve(101, 100, tmp_path):
        pass
