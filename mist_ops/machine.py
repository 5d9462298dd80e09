"""The memory of the machine or container and of this process, and the packages that are installed."""

from __future__ import annotations

import ctypes
import os
from contextlib import suppress
from importlib.metadata import distributions
from pathlib import Path

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Parameters of mallopt(3)."""

_KEPT = 256 * 2**20

_LIMIT, _USED = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")


def installed_memory() -> int:
    """Bytes of main memory available to this process, used or not."""
    limit = _LIMIT.read_text().strip() if _LIMIT.is_file() else "max"
    physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return physical if limit == "max" else min(physical, int(limit))


def available_memory() -> int:
    """Bytes of main memory that are free, or hold cached files that the system would drop."""
    lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines() if Path("/proc/meminfo").is_file() else []
    found = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    free = found[0] if found else os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit = _LIMIT.read_text().strip() if _LIMIT.is_file() and _USED.is_file() else "max"
    return free if limit == "max" else max(0, min(free, int(limit) - int(_USED.read_text())))


def keep_freed_memory() -> None:
    """Let this process keep 256 MiB of freed memory for its next arrays, where the C library is glibc.

    By default, large arrays are returned to the system, which clears the pages of the next one: an eighth of the CPU
    time of preprocessing.
    """
    with suppress(AttributeError, OSError):  # other C libraries have no mallopt
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_MMAP_THRESHOLD, _KEPT)
        mallopt(_TRIM_THRESHOLD, _KEPT)


def installed_packages() -> dict[str, str]:
    """Versions of all installed packages by name, sorted."""
    # Of two with the same name, Python imports the first.
    found = {package.name: package.version for package in reversed(list(distributions())) if package.name}
    return dict(sorted(found.items()))
