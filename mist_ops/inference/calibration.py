"""Held-out patients predicted once more for a calibration, and a calibration applied to new predictions."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, MutableMapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch

from mist_ops.calibration.conformal import COVERAGE
from mist_ops.calibration.held_out import Patient, calibrate_probabilities, calibrate_volumes
from mist_ops.calibration.voxels import MARGIN, most_voxels, sample
from mist_ops.config import StudyConfig, read_config
from mist_ops.dataset import Case, read_paths, read_train_paths
from mist_ops.errors import CaseError, DatasetError, counted
from mist_ops.files import file_hash
from mist_ops.imaging.geometry import Geometry
from mist_ops.imaging.labels import count_voxels, to_indices
from mist_ops.imaging.nifti import read_labels
from mist_ops.inference.case import Visit
from mist_ops.inference.memory import Reservation, no_limit
from mist_ops.inference.pipeline import Job, predict_cases
from mist_ops.inference.restore import Probabilities
from mist_ops.inference.study import load_folds
from mist_ops.records.calibration import Calibration, calibration_of, prediction_settings
from mist_ops.study import Study
from mist_ops.tables import write_rows
from mist_ops.types import LabelMap
from mist_ops.workers import Outcome

Classes = Mapping[str, Sequence[int]]
"""The labels of each class."""


def classes_of(config: StudyConfig) -> Classes:
    """The classes whose volumes are measured: those of the evaluation."""
    return {name: scored.labels for name, scored in config.evaluation.items()}


def calibrated_cases(study: Study) -> list[Case]:
    """The training patients with a mask whose fold has a model."""
    assignment = read_train_paths(study.train_paths)
    return [case for case in assignment.cases if case.mask and study.model(assignment.fold_of[case.id]).is_file()]


def observe_held_out(
    study: Study, ids: Collection[str], device: torch.device, reserve: Reservation = no_limit
) -> Iterator[Outcome[Case, Patient]]:
    """Predict training patients by the model of the fold that held them out, and compare with their masks.

    No mask is written. Arguments as of ``predict_held_out``.
    """
    config, assignment = read_config(study.config), read_train_paths(study.train_paths)
    most = most_voxels(config.model.params.out_channels, len(ids))
    for fold in sorted({assignment.fold_of[case_id] for case_id in ids}):
        models = load_folds(study, config, "prediction", [fold], device, reserve)
        members = [case for case in assignment.cases if case.id in ids and assignment.fold_of[case.id] == fold]
        seen: dict[str, Patient] = {}
        jobs = [
            Job(
                case,
                None,
                study,
                visit=partial(_observe, case, config, most, seen),
                around=models.refusing_seen(case),
            )
            for case in members
        ]
        for outcome in predict_cases(models.predictor, jobs):
            yield Outcome(outcome.item, seen.pop(outcome.item.id, None), outcome.error)


def _observe(
    case: Case,
    config: StudyConfig,
    most: int,
    seen: MutableMapping[str, Patient],
    probabilities: Probabilities,
    predicted: LabelMap,
    grid: Geometry,
) -> None:
    assert case.mask
    truth, other = read_labels(case.mask)
    differences = grid.differences(other)
    if differences:
        raise CaseError(
            case.id,
            f"its mask is on another grid than the prediction: {', '.join(differences)}. Preprocess the case again.",
            code="grid-mismatch",
            file=case.mask,
            found=differences,
        )
    labels, classes = config.dataset_info.labels, classes_of(config)
    true, stated = volumes(truth, grid, classes), volumes(predicted, grid, classes)
    # By the id, so that the sample of a patient does not depend on the others.
    generator = np.random.default_rng(list(case.id.encode()))
    indices = to_indices(truth, labels), to_indices(predicted, labels)
    seen[case.id] = Patient(
        sample(probabilities, *indices, grid.spacing, most, generator),
        {name: (true[name], stated[name]) for name in classes},
    )


def volumes(labels: LabelMap, grid: Geometry, classes: Classes) -> dict[str, float]:
    """The volume of each class of a mask, in ml."""
    counts, voxel = count_voxels(labels), math.prod(grid.spacing) / 1000
    return {name: voxel * sum(counts.get(label, 0) for label in members) for name, members in classes.items()}


def fit_calibration(study: Study, patients: Mapping[str, Patient], config: StudyConfig) -> Calibration:
    """Fit the calibration of a study on its held-out patients.

    Raises:
        DatasetError: There are too few of them for anything.
    """
    if len(patients) < 2:
        raise DatasetError(
            f"{study.results} has {counted(len(patients), 'held-out patient')} with a mask that could be predicted. "
            "A calibration needs at least 2, and 19 for intervals of volumes.",
            code="calibration-too-few",
            file=study.results,
            found=len(patients),
            expected=2,
        )
    fold_of = read_train_paths(study.train_paths).fold_of
    folds = {case_id: fold_of[case_id] for case_id in patients}
    return Calibration(
        models={fold: file_hash(study.model(fold)) for fold in sorted(set(folds.values()))},
        settings=prediction_settings(config),
        labels=config.dataset_info.labels,
        margin=MARGIN,
        coverage=COVERAGE,
        probabilities=calibrate_probabilities(patients, folds),
        volumes=calibrate_volumes(patients, folds, classes_of(config)),
    )


Row = Mapping[str, object]


def calibrate_tests(
    study: Study, device: torch.device, reserve: Reservation = no_limit
) -> Iterator[Outcome[Case, Sequence[Row]]]:
    """Predict the test patients by the models of all folds together, and write their calibrated probabilities.

    Yields:
        The rows of each patient for ``write_volumes``.

    Raises:
        ConfigError: There is no calibration, or it is for other weights or settings.
    """
    config = read_config(study.config)
    calibration = calibration_of(study.models, config)
    models = load_folds(study, config, "test_prediction", config.training.folds, device, reserve)
    rows: dict[str, Sequence[Row]] = {}
    jobs = [
        Job(
            case,
            None,
            probabilities=study.calibrated_probabilities(case.id),
            visit=calibrating(calibration, case.id, rows),
        )
        for case in read_paths(study.test_paths, config.dataset_info.images)
    ]
    for outcome in predict_cases(models.predictor, jobs):
        yield Outcome(outcome.item, rows.get(outcome.item.id), outcome.error)


def calibrating(calibration: Calibration, case_id: str, rows: MutableMapping[str, Sequence[Row]]) -> Visit:
    """Return what calibrates the probabilities of a case in place, and adds its volumes to ``rows``."""

    def visit(probabilities: Probabilities, labels: LabelMap, grid: Geometry) -> None:
        if calibration.probabilities:
            calibration.probabilities.scaling.apply(probabilities)
        rows[case_id] = _rows(calibration, case_id, labels, grid)

    return visit


def _rows(calibration: Calibration, case_id: str, labels: LabelMap, grid: Geometry) -> list[Row]:
    found: list[Row] = []
    measured = volumes(labels, grid, {name: known.labels for name, known in calibration.volumes.items()})
    for name, known in calibration.volumes.items():
        low, high = known.interval.around(measured[name]) if known.interval else (None, None)
        bounds = {"low_ml": low, "high_ml": high}
        shown = {key: "" if value is None else f"{value:.6g}" for key, value in bounds.items()}
        found.append({"id": case_id, "class": name, "volume_ml": f"{measured[name]:.6g}", **shown})
    return found


def write_volumes(path: Path, rows: Mapping[str, Sequence[Row]], ids: Collection[str]) -> None:
    """Write the volumes of some patients, with a row for each class."""
    listed = [row for case_id in ids for row in rows[case_id]]
    if listed:
        write_rows(listed, path)
