"""Measure the calibration of a study's models on held-out patients, and on test patients whose masks are elsewhere.

python bench/calibration.py RESULTS --kept FOLDER [--masks FOLDER]

Probabilities of each patient and fold are kept as arrays in a folder, and are not predicted again if they are there: a
study of 50 hippocampi takes half an hour. Test patients are predicted by all folds together.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from mist_ops.calibration.conformal import interval
from mist_ops.calibration.fitting import FITS, cross_fit, groups, log_loss
from mist_ops.calibration.held_out import Patient, Volumes, calibrate_probabilities, calibrate_volumes
from mist_ops.calibration.reliability import class_curve, top_curve
from mist_ops.calibration.voxels import Voxels, most_voxels, sample
from mist_ops.config import StudyConfig, read_config
from mist_ops.dataset import Case, read_paths, read_train_paths
from mist_ops.imaging.labels import to_indices
from mist_ops.imaging.nifti import read_labels
from mist_ops.inference.calibration import classes_of, volumes
from mist_ops.inference.case import Predictor
from mist_ops.inference.models import load_models
from mist_ops.inference.pipeline import Job, predict_cases
from mist_ops.study import Study

SPLITS = 2000


def _predict(
    study: Study, config: StudyConfig, fold: int, cases: Sequence[tuple[Case, Study | None]], kept: Path
) -> None:
    """Predict cases by the model of a fold, those with a study from its arrays, unless their arrays are kept."""

    def keep(path: Path, probabilities: np.ndarray, *_: object) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, np.asarray(probabilities))

    left = [(case, source) for case, source in cases if not _place(kept, fold, case).is_file()]
    if left:
        predictor = Predictor(load_models(study, config, [fold]), config, torch.device("cpu"))
        jobs = [Job(case, None, source, visit=partial(keep, _place(kept, fold, case))) for case, source in left]
        for outcome in predict_cases(predictor, jobs):
            if outcome.error:
                raise outcome.error


def _place(kept: Path, fold: int, case: Case) -> Path:
    return kept / f"fold_{fold}" / f"{case.id}.npy"


def _compared(case: Case, mask: Path, probabilities: np.ndarray, config: StudyConfig, most: int) -> Patient:
    """A patient as ``observe_held_out`` yields it."""
    truth, grid = read_labels(mask)
    labels, classes = config.dataset_info.labels, classes_of(config)
    predicted = np.take(np.array(labels, dtype=np.uint8), probabilities.argmax(axis=0))
    true, stated = volumes(truth, grid, classes), volumes(predicted, grid, classes)
    indices = to_indices(truth, labels), to_indices(predicted, labels)
    generator = np.random.default_rng(list(case.id.encode()))
    return Patient(
        sample(probabilities.astype(np.float32), *indices, grid.spacing, most, generator),
        {name: (true[name], stated[name]) for name in classes},
    )


def _errors(voxels: Voxels) -> str:
    each = [class_curve(voxels, index).error for index in range(len(voxels.probabilities))]
    return " | ".join(f"{value:.4f}" for value in (top_curve(voxels).error, *each))


def _doubtful(voxels: Voxels, scaled: Voxels) -> str:
    """The error of voxels whose most probable class is stated with less than 0.9."""
    chosen = voxels.probabilities.max(axis=0) < 0.9
    error = top_curve(Voxels(scaled.probabilities[:, chosen], voxels.truth[chosen], voxels.weights[chosen])).error
    return f"{error:.4f}"


def _of_probabilities(
    held_out: Mapping[str, Patient], tests: Mapping[str, Patient], folds: Mapping[str, int]
) -> Iterator[str]:
    voxels = {case_id: patient.voxels for case_id, patient in held_out.items() if patient.voxels}
    joined = Voxels.joined(list(voxels.values()))
    ensemble = Voxels.joined([patient.voxels for patient in tests.values() if patient.voxels]) if tests else None
    names = " | ".join(f"class {index}" for index in range(len(joined.probabilities)))
    yield f"| expected calibration error | log loss | most probable class | {names} | stated below 0.9 |"
    yield "| --- " + "| ---: " * (len(joined.probabilities) + 3) + "|"
    found = calibrate_probabilities(held_out, folds)
    assert found
    yield f"| held out, as stated | {found.losses['none']:.4f} | {_errors(joined)} | {_doubtful(joined, joined)} |"
    for kind, fit in FITS.items():
        fits = cross_fit(voxels, groups(folds), fit)
        scaled = [
            replace(some, probabilities=fits.scalings[folds[case_id]](some.probabilities))
            for case_id, some in voxels.items()
        ]
        after = Voxels.joined(scaled)
        errors = f"{_errors(after)} | {_doubtful(joined, after)}"
        yield f"| held out, {kind} fitted on the other folds | {fits.loss:.4f} | {errors} |"
    if ensemble:
        yield f"| tests, as stated | {log_loss(ensemble):.4f} | {_errors(ensemble)} | {_doubtful(ensemble, ensemble)} |"
        for kind, fit in FITS.items():
            scaling = fit(joined)
            how = f"tests, {kind} fitted on all held-out patients"
            after = replace(ensemble, probabilities=scaling(ensemble.probabilities))
            errors = f"{_errors(after)} | {_doubtful(ensemble, after)}"
            yield f"| {how} | {log_loss(ensemble, scaling):.4f} | {errors} |"
    yield f"\nChosen: {found.kind}, {found.scaling}\n"


def _of_volumes(
    held_out: Mapping[str, Patient], tests: Mapping[str, Patient], folds: Mapping[str, int], config: StudyConfig
) -> Iterator[str]:
    yield (
        "| class | interval | width, ml | inside, other folds | inside, tests | inside, splits: mean, 5 % and 95 % |"
    )
    yield "| --- | --- | ---: | ---: | ---: | ---: |"
    for name, found in calibrate_volumes(held_out, folds, classes_of(config)).items():
        assert found.interval
        low, high = (100 * (math.exp(error) - 1) for error in (found.interval.low, found.interval.high))
        inside, known = found.covered
        pairs = [patient.volumes[name] for patient in tests.values()]
        tested = f"{sum(found.interval.contains(*pair) for pair in pairs)} of {len(pairs)}"
        shares = list(_splits([patient.volumes[name] for patient in held_out.values()]))
        spread = ", ".join(f"{100 * value:.1f} %" for value in (np.mean(shares), *np.quantile(shares, [0.05, 0.95])))
        bounds = f"{low:+.0f} % to {high:+.0f} % | {_width(found):.2f}"
        yield f"| {name} | {bounds} | {inside} of {known} | {tested} | {spread} |"


def _width(found: Volumes) -> float:
    """Median width of the intervals of held-out patients, in ml."""
    bounds = [(one.low, one.high) for one in found.patients.values() if one.low is not None and one.high is not None]
    return float(np.median([high - low for low, high in bounds]))


def _splits(pairs: Sequence[tuple[float, float]]) -> Iterator[float]:
    """Share of a random fifth of the patients inside the interval of the others."""
    generator = np.random.default_rng(0)
    for _ in range(SPLITS):
        order = generator.permutation(len(pairs))
        cut = len(pairs) // 5
        some, others = [pairs[index] for index in order[:cut]], [pairs[index] for index in order[cut:]]
        found = interval([truth for truth, _ in others], [predicted for _, predicted in others])
        if found:
            yield sum(found.contains(*pair) for pair in some) / cut


def main() -> None:
    """Print tables of the errors of probabilities and of the intervals of volumes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path)
    parser.add_argument("--kept", type=Path, required=True, help="folder of the probabilities")
    parser.add_argument("--masks", type=Path, help="folder with the masks of test patients, <id>.nii.gz")
    given = parser.parse_args()
    for line in _measure(given.results, given.kept, given.masks):
        sys.stdout.write(f"{line}\n")


def _measure(results: Path, kept: Path, masks: Path | None) -> Iterator[str]:
    study = Study("bench", results.parent / "numpy", results)
    config, assignment = read_config(study.config), read_train_paths(study.train_paths)
    torch.set_num_threads(1)
    tests = read_paths(study.test_paths, config.dataset_info.images) if masks else []
    for fold in config.training.folds:
        members = [(case, study) for case in assignment.cases if assignment.fold_of[case.id] == fold]
        _predict(study, config, fold, [*members, *((case, None) for case in tests)], kept)
    most = most_voxels(config.model.params.out_channels, len(assignment.cases))
    held_out = {
        case.id: _compared(case, case.mask, np.load(_place(kept, assignment.fold_of[case.id], case)), config, most)
        for case in assignment.cases
        if case.mask
    }
    together = {
        case.id: _compared(
            case,
            masks / f"{case.id}.nii.gz",
            np.mean([np.load(_place(kept, fold, case)) for fold in config.training.folds], axis=0),
            config,
            most,
        )
        for case in tests
        if masks
    }
    folds = {case_id: assignment.fold_of[case_id] for case_id in held_out}
    yield f"{len(held_out)} held-out patients, {len(together)} test patients\n"
    yield from _of_probabilities(held_out, together, folds)
    yield from _of_volumes(held_out, together, folds, config)


if __name__ == "__main__":
    main()
