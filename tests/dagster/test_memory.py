"""Claims on main memory: who waits for whom, and what becomes of the dead."""

import subprocess
import sys
import threading
from pathlib import Path

from mist_dagster.runtime.memory import claim

HOLD = """
import sys, time
from pathlib import Path
from mist_dagster.runtime.memory import claim
with claim(int(sys.argv[1]), 100, Path(sys.argv[2])):
    print("held", flush=True)
    time.sleep(60)
"""


def holding(needed: int, folder: Path) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", HOLD, str(needed), str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    assert process.stdout.readline() == "held\n"
    return process


def test_what_fits_beside_others_goes_on_and_what_does_not_waits_until_they_are_gone(tmp_path: Path) -> None:
    with holding(60, tmp_path) as other:
        with claim(40, 100, tmp_path):
            assert len(list(tmp_path.glob("*.claim"))) == 2
        let_in = threading.Event()

        def wait() -> None:
            with claim(41, 100, tmp_path):
                let_in.set()

        waiter = threading.Thread(target=wait)
        waiter.start()
        assert not let_in.wait(1)
        other.kill()
        waiter.join(20)
        assert let_in.is_set()
    assert list(tmp_path.glob("*.claim")) == []


def test_a_claim_above_everything_is_let_in_where_nobody_else_is(tmp_path: Path) -> None:
    with claim(101, 100, tmp_path):
        pass
