"""Memory of the machine, or of the container that this process runs in."""

from __future__ import annotations

import os
from pathlib import Path

_LIMIT = Path("/sys/fs/cgroup/memory.max")


def installed_memory() -> int:
    """Bytes of main memory available to this process, used or not."""
    limit = _LIMIT.read_text().strip() if _LIMIT.is_file() else "max"
    physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return physical if limit == "max" else min(physical, int(limit))
