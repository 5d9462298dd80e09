"""Predictions of a study's own patients, each with a record of the weights, arrays and settings that made it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from mist_ops.config import StudyConfig, read_config
from mist_ops.dataset import Case, read_paths, read_train_paths
from mist_ops.errors import CaseError
from mist_ops.files import file_hash
from mist_ops.inference.case import Predictor
from mist_ops.inference.compiling import compile_networks
from mist_ops.inference.guarding import Guarding, checking
from mist_ops.inference.memory import Reservation, no_limit
from mist_ops.inference.models import load_models
from mist_ops.inference.pipeline import Job, predict_cases
from mist_ops.records.passport import trained_on
from mist_ops.records.prediction import Origin, recording
from mist_ops.steps import view
from mist_ops.study import Study
from mist_ops.workers import Outcome


def predict_held_out(
    study: Study, ids: Collection[str], device: torch.device, reserve: Reservation = no_limit
) -> Iterator[Outcome[Case, None]]:
    """Predict training patients from their arrays, each by the model of the fold that held it out.

    Patients come fold by fold, so that one model at a time is in memory.

    Args:
        study: The study.
        ids: The patients.
        device: Where the networks run.
        reserve: Reserves the estimated main memory of a prediction.
    """
    config, assignment = read_config(study.config), read_train_paths(study.train_paths)
    for fold in sorted({assignment.fold_of[case_id] for case_id in ids}):
        models = load_folds(study, config, "prediction", [fold], device, reserve)
        members = [case for case in assignment.cases if case.id in ids and assignment.fold_of[case.id] == fold]
        jobs = map(models.held_out, sorted(members, key=lambda case: case.id))
        yield from predict_cases(models.predictor, jobs)


def predict_tests(
    study: Study, ids: Collection[str], device: torch.device, reserve: Reservation = no_limit
) -> Iterator[Outcome[Case, None]]:
    """Predict test patients from their images by the models of all folds together; arguments as above."""
    config = read_config(study.config)
    models = load_folds(study, config, "test_prediction", config.training.folds, device, reserve)
    guarding = Guarding.beside(study.guard, models.weights, config)
    cases = read_paths(study.test_paths, config.dataset_info.images)
    yield from predict_cases(models.predictor, [models.test(case, guarding) for case in cases if case.id in ids])


@dataclass(frozen=True)
class FoldModels:
    """The models of some folds, with what the record of a prediction needs.

    Attributes:
        study: The study.
        predictor: Their networks.
        config: The settings.
        weights: SHA-256 of their weights by fold.
        seen: Patients that trained them.
    """

    study: Study
    predictor: Predictor
    config: StudyConfig
    weights: Mapping[int, str]
    seen: frozenset[str]

    def held_out(self, case: Case) -> Job:
        """Predict a training patient from its arrays."""
        mask = self.study.cv_prediction(case.id)
        return Job(case, mask, self.study, around=self._recording_held_out(case, mask))

    def test(self, case: Case, guarding: Guarding | None) -> Job:
        """Predict a test patient from its images."""
        mask, content = self.study.test_prediction(case.id), guarding.content if guarding else ""
        origin = Origin(self.weights, self.config, images=case.images, guard=content)
        record = self.study.prediction_record("test", case.id)
        return Job(case, mask, check=checking(guarding, case, mask), around=recording(record, mask, origin))

    @contextmanager
    def refusing_seen(self, case: Case) -> Iterator[None]:
        """Refuse a patient that trained one of the models."""
        if case.id in self.seen:
            raise CaseError(
                case.id, "the model of its fold was trained with it. Retrain the fold.", code="model-saw-patient"
            )
        yield

    @contextmanager
    def _recording_held_out(self, case: Case, mask: Path) -> Iterator[None]:
        with self.refusing_seen(case):
            origin = Origin.of_arrays(self.weights, self.config, self.study, case.id)
            with recording(self.study.prediction_record("train", case.id), mask, origin):
                yield


def load_folds(
    study: Study, config: StudyConfig, step: str, folds: Sequence[int], device: torch.device, reserve: Reservation
) -> FoldModels:
    """Load the models of some folds, with the settings that a step reads."""
    models = compile_networks(load_models(study, config, folds), config, device)
    files = {fold: study.model(fold) for fold in folds}
    return FoldModels(
        study,
        Predictor(models, view(config, step), device, reserve),
        config,
        {fold: file_hash(path) for fold, path in files.items()},
        frozenset[str]().union(*map(trained_on, files.values())),
    )
