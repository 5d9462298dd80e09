"""Time metrics and an evaluation and compare them with MIST: one thread, minimum of three runs.

python bench/metrics.py --shared ../shared --reference /path/to/environment/bin/python

Each side runs in a separate process after its imports, so that start-up is excluded; MIST's evaluation is called by the
function behind its command. The brain is a phantom of 240x240x155 voxels with a folded surface; the lesions and
hippocampi are those of the shared folder, the latter shifted by a voxel as predictions. The last column is the largest
difference of a value; lesion metrics differ where a mistake of MIST is corrected.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import scipy
from rich.console import Console
from rich.table import Table

from mist_ops.imaging.nifti import read_labels, write_labels

CASES = 50
BRAIN = (240, 240, 155)
CLASSES = {
    name: {"labels": [label], "metrics": {"dice": {}, "haus95": {}}}
    for label, name in enumerate(("anterior", "posterior"), start=1)
}


OURS = """
from pathlib import Path
from mist_ops.evaluation.score import read_evaluation
from mist_ops.evaluation.table import evaluate, read_pairs, write_evaluation
from mist_ops.metrics.pair import MaskPair
from mist_ops.registry import METRICS

def compute(truth, prediction, metrics):
    pair = MaskPair(truth, prediction, (1.0, 1.0, 1.0))
    return [METRICS[metric].function(pair) for metric in metrics]

def run_evaluation(config, paths, output):
    evaluation, pairs = read_evaluation(Path(config)), read_pairs(Path(paths))
    rows = {outcome.item.id: outcome.result for outcome in evaluate(pairs, evaluation.classes) if outcome.result}
    write_evaluation(Path(output), pairs, evaluation.classes, rows, {})
"""

MIST = """
from mist.cli.evaluation_entrypoint import evaluation_entry
from mist.evaluation.evaluation_utils import crop_to_union
from mist.metrics.metrics_registry import get_metric

def compute(truth, prediction, metrics):
    masks = crop_to_union(truth, prediction)
    return [get_metric(metric)(*masks, (1.0, 1.0, 1.0)) for metric in metrics]

def run_evaluation(config, paths, output):
    evaluation_entry(["--config", config, "--paths-csv", paths, "--output-csv", output])
"""

TIMED = """
import csv, json, resource, sys, warnings
import numpy as np

warnings.simplefilter("ignore")
folder, runs, side = sys.argv[1], int(sys.argv[2]), sys.argv[3]

def cpu():
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)

def least(work):
    seconds = []
    for _ in range(runs):
        began = cpu()
        values = work()
        seconds.append(cpu() - began)
    return min(seconds), [float(value) for value in values]

def tabled():
    output = f"{folder}/{side}.csv"
    run_evaluation(f"{folder}/config.json", f"{folder}/paths.csv", output)
    with open(output, newline="") as file:
        return [cell for row in list(csv.reader(file))[1:] for cell in row[1:]]

surface = ("haus95", "avg_surf", "surf_dice")
lesions = ("lesion_wise_dice", "lesion_wise_haus95", "lesion_wise_surf_dice", "lesion_wise_f1")
found = {}
for name, masks, metrics in (
    ("three surface metrics, brain", "brain", surface),
    ("three surface metrics, 200 lesions", "lesions", surface),
    ("four lesion metrics, 200 lesions", "lesions", lesions),
):
    pair = np.load(f"{folder}/{masks}.npz")
    truth, prediction = pair["truth"], pair["prediction"]
    found[name] = least(lambda: compute(truth, prediction, metrics))
found["50 hippocampi end to end, Dice and HD95 of two classes"] = least(tabled)
print("\\n" + json.dumps(found))
"""


def main() -> None:
    """Create the masks, time both sides and print CPU seconds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, required=True, help="folder with golden masks and the hippocampus task")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--reference", type=Path, help="python of an environment with mist-medical")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        _write_inputs(Path(folder), options.shared)
        ours = _found(sys.executable, OURS, folder, options.runs, "ours")
        theirs = _found(str(options.reference), MIST, folder, options.runs, "mist") if options.reference else {}
    table = Table("", "mist-dagster, CPU s", "MIST, CPU s", "speed-up", "difference")
    for name, (seconds, values) in ours.items():
        compared = _compared(seconds, values, *theirs[name]) if theirs else ("", "", "")
        table.add_row(name, f"{seconds:.3f}", *compared)
    Console(width=120).print(table)


def _compared(
    seconds: float, values: Sequence[float], their_seconds: float, theirs: Sequence[float]
) -> tuple[str, ...]:
    return f"{their_seconds:.2f}", f"{their_seconds / seconds:.0f}", f"{np.abs(np.subtract(values, theirs)).max():.1g}"


def _found(python: str, program: str, folder: str, runs: int, side: str) -> dict[str, tuple[float, list[float]]]:
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    done = subprocess.run(
        [python, "-c", program + TIMED, folder, str(runs), side],
        env={**os.environ, **threads, "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise SystemExit(f"{side} failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    found: dict[str, tuple[float, list[float]]] = json.loads(done.stdout.splitlines()[-1])
    return found


def _write_inputs(folder: Path, shared: Path) -> None:
    lesions = [read_labels(shared / "golden" / "masks" / f"mets_{side}.nii.gz")[0] > 0 for side in ("gt", "pr")]
    for name, masks in {"brain": _brains(), "lesions": lesions}.items():
        np.savez(folder / f"{name}.npz", truth=masks[0], prediction=masks[1])
    (folder / "config.json").write_text(json.dumps({"evaluation": CLASSES}))
    rows = []
    for mask in sorted((shared / "data/Task04_Hippocampus/labelsTr").glob("hippocampus_*.nii.gz"))[:CASES]:
        labels, geometry = read_labels(mask)
        write_labels(folder / mask.name, np.roll(labels, 1, axis=0), geometry)
        rows.append((mask.name.removesuffix(".nii.gz"), mask.resolve(), folder / mask.name))
    with (folder / "paths.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("id", "mask", "prediction"), *rows])


def _brains() -> list[np.ndarray]:
    """Return an ellipsoid with folds of 1.6 million voxels, and the same with small errors over its whole surface."""
    generator = np.random.default_rng(0)
    x, y, z = np.ogrid[: BRAIN[0], : BRAIN[1], : BRAIN[2]]
    radius = np.sqrt(((x - 120) / 71) ** 2 + ((y - 118) / 83) ** 2 + ((z - 77) / 64) ** 2)
    folds, errors = (scipy.ndimage.gaussian_filter(generator.standard_normal(BRAIN), sigma) for sigma in (4, 2))
    surface = radius + 0.03 * folds / folds.std()
    return [surface < 1, surface + 0.012 * errors / errors.std() < 1]


if __name__ == "__main__":
    main()
