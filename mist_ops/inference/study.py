"""Predictions of a study's own patients, each with a record of the weights, arrays and settings that made it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from mist_ops.config import StudyConfig, read_config
from mist_ops.dataset import Case, read_paths, read_train_paths
from mist_ops.errors import CaseError
from mist_ops.files import file_hash
from mist_ops.inference.case import Admission, load_models, no_limit, predict_case
from mist_ops.records.arrays import case_content
from mist_ops.records.passport import trained_on
from mist_ops.records.prediction import Origin, recording
from mist_ops.study import Study
from mist_ops.workers import Outcome, outcomes


def predict_held_out(
    study: Study, ids: Collection[str], device: torch.device, admit: Admission = no_limit
) -> Iterator[Outcome[Case, None]]:
    """Predict training patients from their arrays, each by the model of the fold that held it out.

    Patients come fold by fold, so that one model at a time is in memory.

    Args:
        study: The study.
        ids: The patients.
        device: Where the networks run.
        admit: Waits until the estimated main memory of a prediction is free, and holds it.
    """
    config, assignment = read_config(study.config), read_train_paths(study.train_paths)
    for fold in sorted({assignment.fold_of[case_id] for case_id in ids}):
        predictor = _Predictor(study, config, [fold], device, admit)
        members = [case for case in assignment.cases if case.id in ids and assignment.fold_of[case.id] == fold]
        yield from outcomes(predictor.held_out, sorted(members, key=lambda case: case.id))


def predict_tests(
    study: Study, ids: Collection[str], device: torch.device, admit: Admission = no_limit
) -> Iterator[Outcome[Case, None]]:
    """Predict test patients from their images by the models of all folds together; arguments as above."""
    config = read_config(study.config)
    predictor = _Predictor(study, config, config.training.folds, device, admit)
    cases = read_paths(study.test_paths, config.dataset_info.images)
    yield from outcomes(predictor.test, [case for case in cases if case.id in ids])


@dataclass
class _Predictor:
    """The models of some folds, ready to predict."""

    study: Study
    config: StudyConfig
    folds: Sequence[int]
    device: torch.device
    admit: Admission

    def __post_init__(self) -> None:
        self.models: Sequence[nn.Module] = load_models(self.study, self.config, self.folds)
        self.weights = {fold: file_hash(self.study.model(fold)) for fold in self.folds}
        self.seen = frozenset[str]().union(*(trained_on(self.study.model(fold)) for fold in self.folds))
        self.settings = self.config.digest("prediction")

    def held_out(self, case: Case) -> None:
        origin = Origin(self.weights, self.settings, case_content(self.study, case.id))
        mask = self.study.cv_prediction(case.id)
        with recording(self.study.prediction_record("train", case.id), mask, origin):
            if case.id in self.seen:
                raise CaseError(
                    case.id, "the model of its fold was trained with it. Retrain the fold.", code="model-saw-patient"
                )
            predict_case(self.models, case, self.config, self.device, mask, self.study, admit=self.admit)

    def test(self, case: Case) -> None:
        origin, mask = Origin(self.weights, self.settings, images=case.images), self.study.test_prediction(case.id)
        with recording(self.study.prediction_record("test", case.id), mask, origin):
            predict_case(self.models, case, self.config, self.device, mask, admit=self.admit)
