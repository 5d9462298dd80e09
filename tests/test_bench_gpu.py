from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent / "bench" / "gpu.py"
STAGES = ("machine", "data", "first step", "computing", "step", "small", "volume", "files", "large")


@pytest.mark.slow
def test_every_stage_of_the_gpu_benchmark_prints_rows_on_a_cpu() -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--device", "cpu", "--quick"],
        capture_output=True,
        text=True,
        timeout=460,
        check=True,
    )
    rows = [[cell.strip() for cell in line.strip("|\n").split("|")] for line in done.stdout.splitlines()]
    measured = [row for row in rows if row[2] == "ours" and row[1] != "wall time of this part"]
    assert {row[0] for row in measured} == set(STAGES), done.stdout + done.stderr
    assert not [row for row in measured if row[1].startswith(("failed", "stopped", "skipped"))], done.stdout
    skipped = next(row for row in rows if row[0] == "nnU-Net")
    assert skipped[3] == "--nnunet not given"
