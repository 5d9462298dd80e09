from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from mist_ops.machine import available_memory, installed_memory

FREED = """
import sys
from pathlib import Path
from mist_ops.machine import keep_freed_memory

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

if sys.argv[1] == "keep":
    keep_freed_memory()
before = resident()
array = bytearray(b"1") * 2**26
del array
print(resident() - before)
"""


def test_a_machine_has_memory() -> None:
    assert 2**28 < installed_memory() < 2**50


def test_less_memory_is_available_than_installed() -> None:
    assert 2**20 < available_memory() < installed_memory()


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has mallopt")
def test_freed_memory_is_kept_for_the_next_array() -> None:
    returned, kept = (
        int(subprocess.run([sys.executable, "-c", FREED, how], check=True, capture_output=True, text=True).stdout)
        for how in ("return", "keep")
    )
    assert returned < 2**24 < 2**25 < kept
