"""Time each postprocessing transform, per label and grouped, and compare it with MIST.

python bench/postprocessing.py --labels /path/to/segmentation.nii.gz --reference /path/to/environment/bin/python

The mask keeps its 31 largest labels and is enlarged in plane to the size of a CT at full resolution by repeating voxels
(``--enlarge 1`` keeps its size). Both sides get the same array in memory, in separate processes, and are timed after a
first call; the minimum of the runs is shown. Results are compared voxel by voxel.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from mist_ops.imaging.nifti import read_labels

LABELS = 31

TRANSFORMS = {
    "remove small objects": ("remove_small_objects", {"small_object_threshold": 64}),
    "top 1": ("get_top_k_connected_components", {}),
    "top 1, cleaned": ("get_top_k_connected_components", {"apply_morphological_cleaning": True}),
    "fill holes": ("fill_holes_with_label", {"fill_holes_label": 200}),
    "replace small objects": ("replace_small_objects_with_label", {"replacement_label": 200}),
}

OURS = """
from mist_ops.postprocessing.strategy import Step, apply

def change(name, mask, labels, per_label, kwargs):
    return apply((Step(name, tuple(labels), per_label, kwargs),), mask, (1.0, 1.0, 1.0))
"""

MIST = """
from mist.postprocessing.transform_registry import get_transform

def change(name, mask, labels, per_label, kwargs):
    return get_transform(name)(mask.astype("uint8"), labels, per_label, **kwargs)
"""

TIMED = """
import json, sys, time, warnings
import numpy as np

warnings.simplefilter("ignore")
folder, runs, transforms = sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3])
mask = np.load(f"{folder}/mask.npy")
labels, seconds = [int(label) for label in np.unique(mask) if label], {}
for number, (key, name, kwargs, per_label) in enumerate(transforms):
    result, least = change(name, mask, labels, per_label, kwargs), float("inf")
    for _ in range(runs):
        began = time.process_time()
        change(name, mask, labels, per_label, kwargs)
        least = min(least, time.process_time() - began)
    seconds[key] = least
    np.save(f"{folder}/{sys.argv[4]}-{number}.npy", result)
print(json.dumps(seconds))
"""


def main() -> None:
    """Time both sides and print CPU seconds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--labels", type=Path, required=True, help="NIfTI file with many labels")
    parser.add_argument("--enlarge", type=int, default=4, help="number of times to repeat each voxel along x and y")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--reference", type=Path, help="python of an environment with mist-medical")
    options = parser.parse_args()
    mask = _largest(read_labels(options.labels)[0]).repeat(options.enlarge, 0).repeat(options.enlarge, 1)
    table = Table("transform", "mist-dagster, CPU s", "MIST, CPU s", "speed-up", "voxels that differ")
    with tempfile.TemporaryDirectory() as folder:
        np.save(f"{folder}/mask.npy", mask)
        ours = _seconds(sys.executable, OURS, folder, options.runs, "ours")
        theirs = _seconds(str(options.reference), MIST, folder, options.runs, "mist") if options.reference else {}
        for number, (key, seconds) in enumerate(ours.items()):
            compared = _compared(folder, number, seconds, theirs[key]) if theirs else ("", "", "")
            table.add_row(key, f"{seconds:.4f}", *compared)
    size = "×".join(map(str, mask.shape))
    table.title = f"{size} voxels, {len(np.unique(mask)) - 1} labels"
    Console().print(table)


def _largest(mask: np.ndarray) -> np.ndarray:
    counts = np.bincount(mask.ravel())
    kept = np.argsort(-counts[1:], kind="stable")[:LABELS] + 1
    return np.where(np.isin(mask, kept), mask, 0).astype(mask.dtype)


def _seconds(python: str, side: str, folder: str, runs: int, name: str) -> dict[str, float]:
    transforms = [
        (f"{key}, {'per label' if per_label else 'together'}", transform, kwargs, per_label)
        for per_label in (True, False)
        for key, (transform, kwargs) in TRANSFORMS.items()
        if per_label or "replace" not in key
    ]
    done = subprocess.run(
        [python, "-c", side + TIMED, folder, str(runs), json.dumps(transforms), name],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{python} failed:\n{done.stderr[-4000:]}")
    seconds: dict[str, float] = json.loads(done.stdout)
    return seconds


def _compared(folder: str, number: int, ours: float, theirs: float) -> tuple[str, str, str]:
    results = [np.load(f"{folder}/{side}-{number}.npy") for side in ("ours", "mist")]
    return f"{theirs:.3f}", f"{theirs / ours:.0f}", str(np.count_nonzero(results[0] != results[1]))


if __name__ == "__main__":
    main()
