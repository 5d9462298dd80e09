"""Trained networks, loaded from the files of weights of a study."""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter
from pathlib import Path

from pydantic import ValidationError
from torch import nn

from mist_ops.config import StudyConfig, check_channels
from mist_ops.errors import ConfigError, few
from mist_ops.models.weights import load_weights
from mist_ops.records.passport import read_passport
from mist_ops.registry import MODELS
from mist_ops.steps import changes, formatted, image_settings
from mist_ops.study import Study


def find_folds(models: Path) -> list[int]:
    """The folds with weights in a folder, in numerical order; none if the folder does not exist."""
    numbers = (path.stem.removeprefix("fold_") for path in models.glob("fold_*.pt"))
    return sorted(int(number) for number in numbers if number.isdecimal())


def load_models(models: Study | Path, config: StudyConfig, folds: Sequence[int] | None = None) -> list[nn.Module]:
    """Load the networks of some folds into main memory, in evaluation mode; ``predict`` moves them to the device.

    A network with a passport is built with the settings in it, so that later edits of config.json do not matter.

    Args:
        models: A study, or a folder of weights.
        config: Settings of networks without a passport.
        folds: Folds to load; all by default.

    Raises:
        ConfigError: Weights are missing or do not match their network; or a model was trained with other channels,
            labels, spacing or preprocessing than in ``config``.
    """
    # A folder of weights is laid out as the folder of models of a study.
    study = models if isinstance(models, Study) else Study("", models.parent, models.parent)
    folder = models.models if isinstance(models, Study) else models
    found = find_folds(folder)
    missing = sorted(set(found if folds is None else folds) - set(found))
    if missing or not found:
        which = f"no weights of fold {few(missing)} (found: fold {few(found)})" if missing and found else "no weights"
        raise ConfigError(
            f"{folder} holds {which}. Train the folds first, or check the path.",
            code="weights-missing",
            file=folder,
            found=found,
            expected=folds,
        )
    return [_load(folder / study.model(fold).name, config) for fold in (found if folds is None else folds)]


def _load(weights: Path, config: StudyConfig) -> nn.Module:
    trained = _trained_config(weights, config)
    check_channels(trained)
    spatial, params = trained.spatial_config, trained.model.params.model_dump()
    build = MODELS[trained.model.architecture].build
    network = build(patch_size=spatial.patch_size, target_spacing=spatial.target_spacing, **params)
    load_weights(weights, network)
    return network.eval()


def _trained_config(weights: Path, config: StudyConfig) -> StudyConfig:
    """The settings that a model was trained with according to its passport, else those given."""
    passport = weights.with_suffix(".json")
    if not passport.is_file():
        return config
    try:
        trained = StudyConfig.model_validate(read_passport(weights).config)
    except ValidationError as error:
        raise ConfigError(
            f"{passport} holds settings of another version. Train the fold again, or remove it to use config.json.",
            code="passport-invalid",
            file=passport,
        ) from error
    for path in changes(*(image_settings(whole) for whole in (trained, config))):
        before, now = (attrgetter(path)(whole) for whole in (trained, config))
        tasks = [whole.dataset_info.task for whole in (trained, config)]
        advice = (
            "Restore the setting, or train the fold again."
            if tasks[0] == tasks[1]
            else f"It is a model of another study: of the task '{tasks[0]}', not '{tasks[1]}'. Give its config.json."
        )
        raise ConfigError(
            f"{weights} was trained with {path} {formatted(before)}, but config.json has {formatted(now)}. {advice}",
            code="training-mismatch",
            file=weights,
            field=path,
            found=now,
            expected=before,
        )
    return trained
