"""Wall and CPU time of a command."""

from __future__ import annotations

import os
import resource
import subprocess
import time
from collections.abc import Sequence
from typing import NamedTuple


class Cost(NamedTuple):
    """Wall and CPU seconds of a process and its children."""

    wall: float
    cpu: float


def cost(command: Sequence[str], threads: int) -> Cost:
    """Run a command without a GPU, with a number of PyTorch threads."""
    # Packages that pip installs have their bytecode, and an editable one gets it when it is first imported.
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment = {**kept, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(
        command, env={**environment, "CUDA_VISIBLE_DEVICES": ""}, capture_output=True, text=True, check=False
    )
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    return Cost(wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
