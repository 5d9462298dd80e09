"""Time each stage on phantoms of the size of real scans.

make bench                                 # or: python bench/stages.py --size 240 240 155 --model nnunet
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TypeVar

from rich.console import Console
from rich.table import Table

from mist_ops.analysis.analyze import analyze
from mist_ops.analysis.folds import make_fold
from mist_ops.boxes import read_boxes
from mist_ops.config import read_config
from mist_ops.dataset import read_train_paths
from mist_ops.devices import resolve_device
from mist_ops.evaluation.score import score
from mist_ops.inference.case import Predictor, predict_case
from mist_ops.inference.models import load_models
from mist_ops.phantoms import write_phantoms
from mist_ops.preprocessing.case import write_case
from mist_ops.study import Study
from mist_ops.training.fold import train_fold

CASES, STEPS = 2, 4

Result = TypeVar("Result")


def main() -> None:
    """Time the stages and print the seconds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, nargs=3, default=(96, 112, 96), help="voxels along x, y, z")
    parser.add_argument("--model", default="nnunet-pocket")
    parser.add_argument("--device", help="cpu, cuda or a GPU number; a GPU by default if available")
    options = parser.parse_args()
    table = Table("stage", "seconds", title=f"{'×'.join(map(str, options.size))} voxels, {options.model}")
    with tempfile.TemporaryDirectory() as folder:
        data = write_phantoms(Path(folder) / "data", patients=CASES, size=tuple(options.size))
        study = Study("bench", numpy=Path(folder) / "numpy", results=Path(folder) / "results", data=data)
        settings = {"model.architecture": options.model, "training.nfolds": CASES, "training.folds": [0]}
        budget = {"training.epochs": 1, "training.min_steps_per_epoch": STEPS}
        for stage, seconds in _stages(study, {**settings, **budget}, options.device):
            table.add_row(stage, f"{seconds:.2f}")
    Console().print(table)


def _stages(study: Study, settings: Mapping[str, object], device: str | None) -> Iterator[tuple[str, float]]:
    seconds, _ = _timed(lambda: list(analyze(study, overrides=settings)))
    yield "analyze, per case", seconds / CASES

    config, assignment, boxes = read_config(study.config), read_train_paths(study.train_paths), read_boxes(study)
    seconds, _ = _timed(lambda: [write_case(study, case, config, boxes.get(case.id)) for case in assignment.cases])
    yield "preprocess, per case", seconds / CASES

    fold = make_fold(assignment, 0, 0.0, config.training.seed)
    seconds, _ = _timed(lambda: list(train_fold(study, config, fold, device=device)))
    yield f"train, {STEPS} steps and a validation", seconds

    case = assignment[fold.held_out[0]]
    prediction = study.cv_prediction(case.id)
    predictor = Predictor(load_models(study, config, [0]), config, resolve_device(device))
    seconds, _ = _timed(lambda: predict_case(predictor, case, prediction, study))
    yield "predict, per case", seconds

    assert case.mask is not None
    mask = case.mask
    seconds, scores = _timed(lambda: score(mask, prediction, config.evaluation))
    yield f"score, {len(scores)} values", seconds


def _timed(work: Callable[[], Result]) -> tuple[float, Result]:
    started = time.perf_counter()
    result = work()
    return time.perf_counter() - started, result


if __name__ == "__main__":
    main()
