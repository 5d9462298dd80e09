"""Time the combination of masks and compare it with MIST; both sides get the same arrays in memory.

python bench/ensembling.py --masks a.nii.gz b.nii.gz c.nii.gz --reference /path/to/environment/bin/python
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from mist_ops.imaging.nifti import read_labels
from mist_ops.registry import LABEL_ENSEMBLERS

OURS = """
from mist_ops.registry import LABEL_ENSEMBLERS

def combine(name, masks):
    return LABEL_ENSEMBLERS[name](masks)
"""

MIST = """
import SimpleITK
import mist.inference.label_ensemblers
from mist.inference.label_ensemblers.label_ensembler_registry import get_label_ensembler

def combine(name, masks):
    # MIST takes images, which are created before the timing starts.
    return SimpleITK.GetArrayViewFromImage(get_label_ensembler(name).combine(masks))
"""

TIMED = """
import sys, time
import numpy as np

folder, name, runs = sys.argv[1], sys.argv[2], int(sys.argv[3])
masks = list(np.load(f"{folder}/masks.npy"))
if "SimpleITK" in globals():
    SimpleITK.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    masks = [SimpleITK.GetImageFromArray(mask) for mask in masks]
least = float("inf")
for _ in range(runs):
    began = time.process_time()
    result = combine(name, masks)
    least = min(least, time.process_time() - began)
np.save(f"{folder}/result.npy", result)
print("seconds", least)
"""


def main() -> None:
    """Time both sides and print CPU seconds and the number of voxels that differ."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--masks", type=Path, nargs="+", required=True, help="masks of one patient from several raters")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--reference", type=Path, help="python of an environment with mist-medical")
    options = parser.parse_args()
    masks = np.stack([read_labels(path)[0].astype(np.uint8) for path in options.masks])
    highest, table = (
        masks.max(),
        Table("backend", "CPU s", "MIST CPU s", "speed-up", "differences", "MIST ties"),
    )
    with tempfile.TemporaryDirectory() as folder:
        np.save(f"{folder}/masks.npy", masks)
        for name in LABEL_ENSEMBLERS:
            ours, result = _timed(Path(sys.executable), OURS, folder, name, options.repeats)
            row = [name, f"{ours:.3f}"]
            if options.reference:
                theirs, other = _timed(options.reference, MIST, folder, name, options.repeats)
                ties = other > highest  # MIST marks them by a label that no rater used
                row += [
                    f"{theirs:.3f}",
                    f"{theirs / ours:.0f}",
                    f"{((result != other) & ~ties).sum()}",
                    f"{ties.sum()}",
                ]
            table.add_row(*row)
    Console().print(table)


def _timed(python: Path, side: str, folder: str, name: str, runs: int) -> tuple[float, np.ndarray]:
    command = [str(python), "-c", side + TIMED, folder, name, str(runs)]
    done = subprocess.run(
        command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise SystemExit(f"{python} failed:\n{done.stderr[-4000:]}")
    return float(done.stdout.rsplit("seconds", 1)[1]), np.load(f"{folder}/result.npy")


if __name__ == "__main__":
    main()
