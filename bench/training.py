"""Time optimizer steps and compare them with MIST: the same arrays, patches, batches and augmentations.

python bench/training.py --patches 32 64 --reference /path/to/environment/bin/python

Each side trains one fold twice, with few and with more steps; the difference is the time of the additional steps,
without start-up, validation and prediction. Zoom and foreground are random, so use at least 20 steps if time allows.
Both sides read patches in the training process.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from timing import Cost, cost

from mist_ops.analysis.analyze import analyze
from mist_ops.boxes import read_boxes
from mist_ops.config import override, read_config, write_config
from mist_ops.dataset import read_train_paths
from mist_ops.phantoms import write_phantoms
from mist_ops.preprocessing.case import write_case
from mist_ops.study import Study

CASES, BATCH, FEW = 3, 2, 1
"""Two training cases and one validation case, so that all batches of MIST are full."""

OURS = """
import sys
from pathlib import Path
from mist_ops.analysis.folds import make_fold
from mist_ops.config import read_config
from mist_ops.dataset import read_train_paths
from mist_ops.study import Study
from mist_ops.training.fold import train_fold

study = Study("bench", Path(sys.argv[1]), Path(sys.argv[2]))
config = read_config(study.config)
list(train_fold(study, config, make_fold(read_train_paths(study.train_paths), 0, 0.0, 42), device="cpu", workers=0))
"""


def main() -> None:
    """Time both sides and print seconds per step and per patch."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--patches", type=int, nargs="+", default=[32, 64], help="edges of the patches in voxels")
    parser.add_argument("--models", nargs="+", default=["nnunet", "nnunet-pocket"])
    parser.add_argument("--steps", type=int, default=20, help="number of timed steps")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--reference", type=Path, help="python of an environment with mist-medical")
    options = parser.parse_args()
    table = Table("model", "patch", "side", "s/step", "CPU s/step", "s/patch", "CPU s/patch", "wall ratio", "CPU ratio")
    for edge in options.patches:
        with tempfile.TemporaryDirectory() as folder:
            study = _prepare(Path(folder), edge)
            for model in options.models:
                _add_rows(table, study, model, edge, options)
    Console(width=120).print(table)


def _prepare(folder: Path, edge: int) -> Study:
    """Preprocess a study of phantoms slightly larger than the patch."""
    size = (edge + 8, edge + 8, edge + 8)
    data = write_phantoms(folder / "data", patients=CASES, size=size, varied=False)
    study = Study("bench", numpy=folder / "numpy", results=folder / "results", data=data)
    list(analyze(study, overrides={"training.nfolds": CASES, "training.folds": [0]}))
    config, assignment, boxes = read_config(study.config), read_train_paths(study.train_paths), read_boxes(study)
    for case in assignment.cases:
        write_case(study, case, config, boxes.get(case.id))
    return study


def _add_rows(table: Table, study: Study, model: str, edge: int, options: argparse.Namespace) -> None:
    sides = {"mist-dagster": lambda: [sys.executable, "-c", OURS, str(study.numpy), str(study.results)]}
    if options.reference is not None:
        command = options.reference.parent / "mist_train"
        folders = ["--numpy", str(study.numpy), "--results", str(study.results)]
        sides["MIST"] = lambda: [str(command), *folders, "--folds", "0", "--overwrite"]
    costs = {side: _per_step(study, model, edge, command, options) for side, command in sides.items()}
    for side, seconds in costs.items():
        ratios = [f"{ours / theirs:.2f}" for ours, theirs in zip(costs["mist-dagster"], seconds, strict=True)]
        shown = [f"{value:.3f}" for value in (*seconds, *(part / BATCH for part in seconds))]
        table.add_row(model, f"{edge}³", side, *shown, *(ratios if side == "MIST" else ("", "")))


def _per_step(
    study: Study, model: str, edge: int, command: Callable[[], Sequence[str]], options: argparse.Namespace
) -> Cost:
    few, more = (_timed(study, model, edge, command(), steps, options.threads) for steps in (FEW, FEW + options.steps))
    return Cost(*((long - short) / options.steps for short, long in zip(few, more, strict=True)))


def _timed(study: Study, model: str, edge: int, command: Sequence[str], steps: int, threads: int) -> Cost:
    """Run one side and restore config.json, where MIST writes what it detects about the machine."""
    settings = {
        "model.architecture": model,
        "spatial_config.patch_size": [edge] * 3,
        "training.epochs": 1,
        "training.warmup_epochs": 0,
        "training.min_steps_per_epoch": steps,
        "training.batch_size_per_gpu": BATCH,
        "training.hardware.num_cpu_workers": 0,
        "inference.tta.enabled": False,
    }
    original = study.config.read_text(encoding="utf-8")
    write_config(study.config, override(read_config(study.config), settings))
    try:
        return cost(command, threads)
    finally:
        study.config.write_text(original, encoding="utf-8")


if __name__ == "__main__":
    main()
