"""Building the guard of a study: training patients, as they are and damaged, predicted by the models of their folds.

A patient is predicted by the model that was not trained on it, from its images, as a new patient would be. What is
usual is found from the scans as they are. Damages are planted on some of them to learn how much Dice they cost, and to
report what the guard notices; they do not move its threshold.
"""

from __future__ import annotations

import math
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from mist_ops.config import StudyConfig, read_config
from mist_ops.dataset import Case, read_train_paths
from mist_ops.errors import CaseError, ConfigError, MistError, counted
from mist_ops.files import file_hash
from mist_ops.guard.certainty import Certainty
from mist_ops.guard.damage import Damage, Scan, damages
from mist_ops.guard.features import Measured
from mist_ops.guard.forecast import Sample, fit, left_out_dice
from mist_ops.guard.gaussian import population
from mist_ops.guard.novelty import Novelty, left_out, scales_of, score, standardized, threshold_of
from mist_ops.imaging.nifti import read_image, read_labels, write_image
from mist_ops.inference.case import Predictor, predict_prepared, prepare
from mist_ops.inference.compiling import compile_networks
from mist_ops.inference.guarding import certainty_of, measured
from mist_ops.inference.memory import Reservation, no_limit
from mist_ops.inference.models import load_models
from mist_ops.metrics.overlap import dice
from mist_ops.metrics.pair import MaskPair
from mist_ops.records.guard import VERSION, Guard, Known, Planted
from mist_ops.records.passport import trained_on
from mist_ops.steps import settings, view
from mist_ops.study import Study
from mist_ops.types import LabelMap
from mist_ops.workers import Outcome

LEAST_PATIENTS = 5
MOST_PATIENTS = 200
"""Patients that are measured; of more, some of each fold."""

MOST_DAMAGED = 400
_LARGER = 4
"""How many times as large a damaged scan may be at the target spacing: a wrong spacing can make it 8 times as large."""


@dataclass(frozen=True, eq=False)
class Scanned:
    """A scan of a training patient and its prediction.

    Attributes:
        damage: What was planted; empty for the scan as it is.
        measured: Its measurements.
        certainty: Of each evaluated class.
        dice: Of each evaluated class.
    """

    damage: str
    measured: Measured
    certainty: Mapping[str, float]
    dice: Mapping[str, float]


def scan_patients(
    study: Study, device: torch.device, damaged: int, reserve: Reservation = no_limit
) -> Iterator[Outcome[Case, list[Scanned]]]:
    """Measure training patients, each as it is and with some damages, fold by fold.

    Args:
        study: A study with models.
        device: Where the networks run.
        damaged: Damages of a patient.
        reserve: Reserves the main memory of a prediction.
    """
    config = read_config(study.config)
    chosen, kinds = _chosen(study, config), list(damages(len(config.dataset_info.images)).items())
    damaged = min(damaged, math.ceil(MOST_DAMAGED / max(len(chosen), 1)))
    place = 0
    for fold in config.training.folds:
        members = [case for case, of in chosen if of == fold]
        if not members:
            continue
        models = compile_networks(load_models(study, config, [fold]), config, device)
        scanner = _Scanner(Predictor(models, view(config, "test_prediction"), device, reserve), config)
        seen = trained_on(study.model(fold))
        for case in members:
            planted = [kinds[(place + number) % len(kinds)] for number in range(damaged)]
            place += damaged
            try:
                if case.id in seen:
                    raise CaseError(
                        case.id,
                        "the model of its fold was trained with it. Retrain the fold.",
                        code="model-saw-patient",
                    )
                yield Outcome(case, scanner.scan(case, planted))
            except Exception as error:
                yield Outcome(case, error=error)


def scanned_ids(study: Study) -> list[str]:
    """The patients that are measured."""
    return [case.id for case, _ in _chosen(study, read_config(study.config))]


def _chosen(study: Study, config: StudyConfig) -> list[tuple[Case, int]]:
    assignment = read_train_paths(study.train_paths)
    known = [
        (case, assignment.fold_of[case.id])
        for case in sorted(assignment.cases, key=lambda case: case.id)
        if assignment.fold_of[case.id] in config.training.folds and case.mask
    ]
    step = max(1, math.ceil(len(known) / MOST_PATIENTS))
    by_fold = sorted(known, key=lambda each: each[1])
    return by_fold[::step]


@dataclass(frozen=True)
class _Scanner:
    predictor: Predictor
    config: StudyConfig

    def scan(self, case: Case, planted: Sequence[tuple[str, Damage]]) -> list[Scanned]:
        """Predict a patient as it is, and with damages; one that makes a scan unusable is skipped."""
        assert case.mask is not None
        names = self.config.dataset_info.images
        images = {name: read_image(case.images[name]) for name in names}
        grid = next(iter(images.values()))[1]
        scan = Scan({name: image for name, (image, _) in images.items()}, read_labels(case.mask)[0], grid)
        found = [self._predicted(case, "", scan.labels)]
        for kind, damage in planted:
            generator = np.random.default_rng([self.config.training.seed, *case.id.encode(), *kind.encode()])
            with suppress(MistError), tempfile.TemporaryDirectory() as folder:
                changed = damage(scan, generator)
                if not self._is_too_large(scan, changed):
                    written = write_scan(changed, case.id, Path(folder))
                    found.append(self._predicted(written, kind, changed.labels))
        return found

    def _is_too_large(self, scan: Scan, changed: Scan) -> bool:
        target = self.config.spatial_config.target_spacing
        before, after = (math.prod(each.grid.canonical()[0].resampled(target).size) for each in (scan, changed))
        return not self.config.preprocessing.skip and after > _LARGER * before

    def _predicted(self, case: Case, damage: str, truth: LabelMap) -> Scanned:
        prepared = prepare(self.predictor.config, case)
        seen = Certainty(prepared.geometry.preprocessed.size)
        labels = predict_prepared(self.predictor, prepared, watch=seen)
        classes = classes_of(self.config)
        return Scanned(
            damage,
            measured(prepared, seen, self.config),
            certainty_of(classes, seen, self.config.dataset_info.labels),
            {name: dice_of(truth, labels, members) for name, members in classes.items()},
        )


def write_scan(scan: Scan, case_id: str, folder: Path) -> Case:
    """Write the channels of a scan, as a patient to predict."""
    paths = {name: folder / f"{index}.nii.gz" for index, name in enumerate(scan.channels)}
    for name, path in paths.items():
        write_image(path, scan.channels[name], scan.grid)
    return Case(case_id, paths)


def classes_of(config: StudyConfig) -> dict[str, tuple[int, ...]]:
    """The labels of each evaluated class."""
    return {name: tuple(scored.labels) for name, scored in config.evaluation.items()}


def dice_of(truth: LabelMap, labels: LabelMap, members: Sequence[int]) -> float:
    """Dice of some labels together; 1 if they are in neither mask."""
    found = dice(MaskPair(np.isin(truth, members), np.isin(labels, members), (1.0, 1.0, 1.0)))
    return 1.0 if math.isnan(found) else found


def build(study: Study, scanned: Mapping[str, Sequence[Scanned]]) -> Guard:
    """Make the guard from the scans of patients.

    Raises:
        ConfigError: There are too few patients.
    """
    if len(scanned) < LEAST_PATIENTS:
        raise ConfigError(
            f"The guard of {study.results} needs at least {LEAST_PATIENTS} training patients with a mask and a model; "
            f"{counted(len(scanned), 'patient was', 'patients were')} measured. Add patients, or train more folds.",
            code="guard-too-few",
            file=study.results,
            found=len(scanned),
            expected=LEAST_PATIENTS,
        )
    config = read_config(study.config)
    novelty, samples = learn(scanned)
    classes = classes_of(config)
    forecasts = {name: fit(samples, name) for name in classes}
    expected = {name: left_out_dice(samples, name) for name in classes}
    return Guard(
        version=VERSION,
        models={fold: file_hash(study.model(fold)) for fold in config.training.folds},
        settings=settings(config, "test_prediction"),
        classes=classes,
        novelty=novelty,
        forecasts=forecasts,
        patients={
            sample.patient: Known(
                score=score(sample.novelty),
                unusual=max(sample.novelty, key=sample.novelty.__getitem__),
                dice=dict(sample.dice),
                expected={name: float(expected[name][index]) for name in classes},
            )
            for index, sample in enumerate(samples)
            if not sample.damage
        },
        planted=_noticed(samples),
    )


def learn(scanned: Mapping[str, Sequence[Scanned]]) -> tuple[Novelty, list[Sample]]:
    """What is usual, and all scans, each judged by the patients other than its own."""
    ids = list(scanned)
    clean = [scanned[case_id][0].measured for case_id in ids]
    distances = {}
    for some, others in left_out(clean):
        for index in some:
            for number, scan in enumerate(scanned[ids[index]]):
                distances[index, number] = others.distances(scan.measured)
    scales = scales_of([distances[index, 0] for index in range(len(ids))])
    judged = {key: standardized(found, scales) for key, found in distances.items()}
    threshold = threshold_of([score(judged[index, 0]) for index in range(len(ids))])
    samples = [
        Sample(
            ids[index],
            scanned[ids[index]][number].damage,
            found,
            score(found) > threshold,
            scanned[ids[index]][number].certainty,
            scanned[ids[index]][number].dice,
        )
        for (index, number), found in sorted(judged.items())
    ]
    return Novelty(population(clean), scales, threshold), samples


def _noticed(samples: Sequence[Sample]) -> dict[str, Planted]:
    scans = Counter(sample.damage for sample in samples if sample.damage)
    noticed = Counter(sample.damage for sample in samples if sample.damage and sample.unlike)
    return {kind: Planted(noticed=noticed[kind], scans=count) for kind, count in scans.items()}
