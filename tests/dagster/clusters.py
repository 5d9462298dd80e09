"""Whether the Slurm of this machine has what tests need."""

import shutil
import subprocess

import pytest


def missing() -> str:
    """Why the tests cannot run here; empty if they can."""
    if not shutil.which("sinfo"):
        return "Slurm is not installed: apt install slurm-wlm munge, then, as root, .ci/slurm.sh start"
    answer = subprocess.run(["sinfo", "-h", "-N", "-o", "%N %t"], check=False, capture_output=True, text=True)
    if answer.returncode:
        return f"Slurm does not answer ({answer.stderr.strip()}): as root, .ci/slurm.sh start"
    usable = {line.split()[0] for line in answer.stdout.splitlines() if line.split()[1] in ("idle", "alloc", "mix")}
    return "" if len(usable) >= 2 else f"Slurm has {len(usable)} usable nodes; the tests need two"


def needs_partition(name: str) -> None:
    answer = subprocess.run(["sinfo", "-h", "-o", "%R"], check=True, capture_output=True, text=True)
    if name not in answer.stdout.split():
        pytest.skip(f"this Slurm has no partition {name}, as that of .ci/slurm.sh has")
