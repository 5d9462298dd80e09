"""Test patients predicted by the model of each fold alone, to see how much the models disagree."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import replace

import torch

from mist_ops.config import read_config
from mist_ops.dataset import Case, read_paths
from mist_ops.errors import ConfigError
from mist_ops.evaluation.disagreement import Disagreement, disagreement
from mist_ops.evaluation.structures import Structures, structures_of
from mist_ops.inference.case import Predictor, predict_prepared, prepare
from mist_ops.inference.compiling import compile_networks
from mist_ops.inference.memory import Reservation, no_limit
from mist_ops.inference.models import load_models
from mist_ops.steps import view
from mist_ops.study import Study
from mist_ops.workers import Outcome


def disagree(
    study: Study, ids: Collection[str], device: torch.device, reserve: Reservation = no_limit
) -> Iterator[Outcome[Case, Disagreement]]:
    """Predict test patients by the model of each fold alone, and compare the predictions; nothing is written.

    A patient is read and preprocessed once. The networks take as long as they do together.

    Args:
        study: The study.
        ids: The patients.
        device: Where the networks run.
        reserve: Reserves the estimated main memory of a prediction.

    Raises:
        ConfigError: The study has a single fold, or a model cannot be loaded.
    """
    config = read_config(study.config)
    if len(config.training.folds) < 2:
        raise ConfigError(
            f"{study.config} trains a single fold. The models of at least two folds can disagree.",
            code="folds-single",
            file=study.config,
            field="training.folds",
            found=config.training.folds,
        )
    networks = compile_networks(load_models(study, config, config.training.folds), config, device)
    together = Predictor(networks, view(config, "test_prediction"), device, reserve)
    structures = structures_of(config)
    for case in read_paths(study.test_paths, config.dataset_info.images):
        if case.id in ids:
            yield _attempt(together, case, structures)


def _attempt(together: Predictor, case: Case, structures: Structures) -> Outcome[Case, Disagreement]:
    try:
        prepared = prepare(together.config, case)
        found = [predict_prepared(replace(together, models=[network]), prepared) for network in together.models]
        return Outcome(case, disagreement(found, structures, prepared.geometry.original))
    except Exception as error:
        return Outcome(case, error=error)
