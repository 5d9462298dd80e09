"""Orchestration overhead per patient, and duration of a plan, on thousands of tiny patients.

python bench/patients.py --patients 5000

The overhead is the time of a stage as a Dagster run minus that of the same computation called directly.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from rich.console import Console
from rich.table import Table

from mist_ops.analysis.analyze import analyze
from mist_ops.analysis.folds import make_fold
from mist_ops.boxes import read_boxes
from mist_ops.config import STEP_VERSIONS, StudyConfig, override, read_config, write_config
from mist_ops.dataset import read_train_paths
from mist_ops.evaluation.table import summary_path
from mist_ops.files import file_hash, write_json
from mist_ops.phantoms import write_phantoms
from mist_ops.preprocessing.case import write_case
from mist_ops.records.arrays import input_hashes, read_record
from mist_ops.records.passport import Content, Epoch, Passport, write_passport
from mist_ops.records.prediction import Origin, recording
from mist_ops.records.scores import ScoreInputs
from mist_ops.steps import digest, settings
from mist_ops.study import Study

SIZE = (16, 16, 16)


def main() -> None:
    """Time the stages and print the time per patient."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--patients", type=int, default=5000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["DAGSTER_HOME"] = f"{folder}/home"
        table = Table("", "seconds", "ms per patient", title=f"{options.patients} patients")
        for step, seconds in _steps(Path(folder), options.patients):
            table.add_row(step, f"{seconds:.2f}", f"{1000 * seconds / options.patients:.2f}")
        Console().print(table)


def _steps(folder: Path, patients: int) -> Iterator[tuple[str, float]]:
    from mist_dagster.definitions import build_definitions
    from mist_dagster.freshness.status import status
    from mist_dagster.instance.studies import register
    from mist_dagster.launch import launcher
    from mist_dagster.runtime.progress import LogProgress
    from mist_dagster.sensors import state_of_files

    data = write_phantoms(folder / "data", patients=patients, size=SIZE)
    study = register(folder / "results", numpy=folder / "numpy", data=data, name="many")
    list(analyze(study))
    config, assignment, boxes = read_config(study.config), read_train_paths(study.train_paths), read_boxes(study)
    ids = [case.id for case in assignment.cases]
    yield "definitions of the study", _seconds(lambda: build_definitions([study]).resolve_all_job_defs())
    direct = _seconds(lambda: [write_case(study, case, config, boxes[case.id]) for case in assignment.cases])
    yield "preprocessing, computation only", direct
    for case_id in ids:
        study.image(case_id).unlink()
    with launcher(LogProgress(), build_definitions) as opened:
        yield "first observation of the files", _seconds(lambda: opened.run_stage(study, "observe"))
        yield (
            "preprocessing, overhead of the run",
            _seconds(lambda: opened.run_stage(study, "preprocess", {}, ids)) - direct,
        )
        yield "observation, nothing changed", _seconds(lambda: opened.run_stage(study, "observe"))
        _pretend_models(study, config)
        yield "status, models but no predictions", _seconds(lambda: status(study))
        _pretend_predictions(study, config)
        found = status(study)
        assert found.current, found.stale
        yield "status, all current", _seconds(lambda: status(study))
        command = [Path(sys.executable).parent / "mist_status", "--results", study.results, "--numpy", study.numpy]
        yield "mist_status as a command, all current", _seconds(lambda: subprocess.run(command, check=True))
        yield "first marks in the UI", _seconds(lambda: opened.run_stage(study, "status"))
        yield "marks, nothing changed", _seconds(lambda: opened.run_stage(study, "status"))
        yield "a tick of the sensor, nothing changed", _seconds(lambda: state_of_files(study))
        write_config(study.config, override(config, {"preprocessing.skip": not config.preprocessing.skip}))
        yield "marks, every patient became stale", _seconds(lambda: opened.run_stage(study, "status"))


def _pretend_models(study: Study, config: StudyConfig) -> None:
    """Write passports as training would, so that a plan makes all its comparisons."""
    assignment = read_train_paths(study.train_paths)
    for index in config.training.folds:
        fold = make_fold(assignment, index, config.training.val_percent, config.training.seed)
        study.models.mkdir(parents=True, exist_ok=True)
        study.model(index).write_bytes(b"weights")
        parts = {"training": fold.training, "validation": fold.validation}
        content = {part: {name: read_record(study, name).content for name in ids} for part, ids in parts.items()}
        passport = Passport(
            fold=index,
            **parts,
            held_out=fold.held_out,
            content=Content.model_validate(content),
            config=config.model_dump(mode="json"),
            settings=digest(config, "training"),
            seed=config.training.seed,
            versions={},
            mist_version=config.mist_version,
            device="cpu",
            history=(Epoch(0, 1.0, 1.0, 0.001, True, 3600.0, 0.0),),
            best_epoch=0,
            seconds=3600.0,
            weights=file_hash(study.model(index)),
        )
        write_passport(study.passport(index), passport)


def _pretend_predictions(study: Study, config: StudyConfig) -> None:
    """Write masks with records, and scores, as if all had been predicted and evaluated."""
    assignment = read_train_paths(study.train_paths)
    study.cv_predictions.mkdir(parents=True, exist_ok=True)
    for case in assignment.cases:
        fold = assignment.fold_of[case.id]
        mask, record = study.cv_prediction(case.id), study.prediction_record("train", case.id)
        with recording(record, mask, Origin.of_arrays({fold: file_hash(study.model(fold))}, config, study, case.id)):
            mask.write_bytes(b"mask")
    inputs = ScoreInputs(
        settings=settings(config, "evaluation"),
        version=STEP_VERSIONS["evaluation"],
        masks={case.id: input_hashes(study, case).get("mask") for case in assignment.cases},
        predictions=dict.fromkeys(assignment.fold_of, file_hash(mask)),
    )
    study.results_csv.write_text("id\n")
    write_json(summary_path(study.results_csv), {"inputs": inputs.model_dump(mode="json")})


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
