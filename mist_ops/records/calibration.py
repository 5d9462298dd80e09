"""The calibration of a study, ``results/calibration.json``, with the weights and settings that it was fitted for."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from mist_ops.calibration.held_out import Probabilities, Volumes
from mist_ops.config import StudyConfig
from mist_ops.errors import ConfigError, few
from mist_ops.files import file_hash, read_object, write_json
from mist_ops.schema import mistakes
from mist_ops.steps import changed_settings, settings
from mist_ops.study import Study

_FORMAT = 1


class Calibration(BaseModel):
    """What was fitted, and for what.

    Attributes:
        format: Of the file.
        models: SHA-256 of the weights by fold.
        settings: The settings of prediction by dotted path.
        labels: The labels of the dataset, in the order of the probabilities.
        margin: Millimeters around the labels of a patient within which probabilities are fitted and measured.
        coverage: Share of true volumes that intervals are made to contain.
        probabilities: How probabilities are scaled; None with fewer than two patients with labels.
        volumes: Of each class.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    format: int = _FORMAT
    models: dict[int, str]
    settings: dict[str, Any]
    labels: tuple[int, ...]
    margin: float
    coverage: float
    probabilities: Probabilities | None
    volumes: dict[str, Volumes]

    @property
    def bounded(self) -> bool:
        """Whether volumes have intervals."""
        return any(volumes.interval for volumes in self.volumes.values())


def prediction_settings(config: StudyConfig) -> dict[str, Any]:
    """The settings that a calibration is bound to."""
    return settings(config, "prediction")


def write_calibration(path: Path, calibration: Calibration) -> None:
    """Write a calibration atomically."""
    write_json(path, calibration.model_dump(mode="json"))


def read_calibration(path: Path) -> Calibration:
    """Read a calibration.

    Raises:
        ConfigError: It is missing or cannot be read.
    """
    if not path.is_file():
        raise ConfigError(
            f"{path} does not exist. Run mist_calibrate --results {path.parent} first.",
            code="calibration-missing",
            file=path,
        )
    try:
        found = Calibration.model_validate(read_object(path))
    except ValueError as error:
        problem = mistakes(error, Calibration)[0] if isinstance(error, ValidationError) else "it is not a JSON object"
        raise ConfigError(
            f"{path} is not a valid calibration ({problem.rstrip('.')}). Run mist_calibrate again.",
            code="calibration-invalid",
            file=path,
        ) from error
    if found.format != _FORMAT:
        raise ConfigError(
            f"{path} has the format {found.format} of another version; this one reads format {_FORMAT}. Run "
            "mist_calibrate again.",
            code="calibration-invalid",
            file=path,
            found=found.format,
            expected=_FORMAT,
        )
    return found


def report_calibration(found: Calibration) -> Iterator[str]:
    """Lines on what a calibration gains, as of held-out patients without a say in it."""
    if found.probabilities:
        before, after = (part.top.error for part in (found.probabilities.before, found.probabilities.after))
        temperature = found.probabilities.scaling.temperature
        shared = found.probabilities.scaling.shared
        how = (
            f"temperature {temperature:.3g}"
            if temperature
            else f"a curve for {'all labels' if shared else 'each label'}"
        )
        yield f"Expected calibration error of held-out patients: {before:.4f} before, {after:.4f} after ({how})"
    for name, volumes in found.volumes.items():
        if volumes.interval is None:
            yield f"  {name}: no interval of volumes; it needs 19 held-out patients with masks, some with the class"
            continue
        low, high = (100 * (math.exp(error) - 1) for error in (volumes.interval.low, volumes.interval.high))
        inside, known = volumes.covered
        held_out = f"; {inside} of {known} held-out volumes are inside" if known else ""
        yield f"  {name}: true volumes are {low:+.0f} % to {high:+.0f} % off the predicted ones{held_out}"


def calibration_beside(models: Path) -> Path:
    """The calibration of a folder of models, which is laid out as that of a study."""
    return Study("", models.parent, models.parent).calibration


def calibration_of(models: Path, config: StudyConfig) -> Calibration:
    """Read the calibration of a folder of models, ``calibration.json`` beside it, and check that it is theirs.

    Args:
        models: The folder of the weights.
        config: The settings to predict with.

    Raises:
        ConfigError: It is missing, or was fitted for other weights or settings.
    """
    path = calibration_beside(models)
    found = read_calibration(path)
    weights = {int(file.stem.removeprefix("fold_")): file_hash(file) for file in models.glob("fold_*.pt")}
    different = sorted(
        fold for fold in weights.keys() | found.models.keys() if weights.get(fold) != found.models.get(fold)
    )
    if different:
        folds = "fold" if len(different) == 1 else "folds"
        raise ConfigError(
            f"{path} was fitted for other weights of {folds} {few(different)} than those in {models}. Run "
            "mist_calibrate again.",
            code="calibration-differs",
            file=path,
            field="models",
            found=weights,
            expected=found.models,
        )
    changed = changed_settings(found.settings, config, "prediction")
    if changed:
        raise ConfigError(
            f"{path} was fitted with other settings: {few(list(changed.values()))}. Restore them, or run "
            "mist_calibrate again.",
            code="calibration-differs",
            file=path,
            field=next(iter(changed)),
        )
    return found
