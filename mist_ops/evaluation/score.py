"""The scores of one prediction: what the classes of config.json ask for, checked beforehand and computed."""

from __future__ import annotations

import inspect
import math
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError, create_model, model_validator

from mist_ops.config import DatasetInfo, EvaluationClass
from mist_ops.errors import ConfigError, ImageError, MistError, listing
from mist_ops.imaging.foreground import bounding_box
from mist_ops.imaging.geometry import Geometry
from mist_ops.imaging.nifti import read_geometry, read_labels
from mist_ops.metrics import Metric
from mist_ops.metrics.pair import MaskPair
from mist_ops.registry import METRICS
from mist_ops.schema import Section, mistakes, read_checked
from mist_ops.types import LabelMap

Classes = Mapping[str, EvaluationClass]
Scores = dict[str, float]
"""Values by column of results.csv, ``<class>_<metric>``; mm and ratios."""


class _Config(BaseModel):
    """The part of a config.json that evaluation reads."""

    model_config = ConfigDict(extra="ignore")

    evaluation: dict[str, EvaluationClass]
    dataset_info: DatasetInfo | None = None

    @model_validator(mode="before")
    @classmethod
    def _classes_alone(cls, raw: object) -> object:
        return {"evaluation": raw} if isinstance(raw, dict) and "evaluation" not in raw else raw


def read_classes(path: Path) -> dict[str, EvaluationClass]:
    """Read and check the classes of a config.json, or of a JSON that is the ``evaluation`` section alone.

    Raises:
        ConfigError: As ``check_classes``, or the file is no such JSON.
    """
    if not path.is_file():
        raise ConfigError(f"There is no {path}. Name a config.json with --config.")
    config = read_checked(path, _Config, ConfigError)
    check_classes(config.evaluation, config.dataset_info.labels if config.dataset_info else None)
    return config.evaluation


def check_classes(classes: Classes, labels: Collection[int] | None = None) -> None:
    """Check the names and parameters of all metrics, and the labels of all classes if those of the dataset are given.

    Raises:
        ConfigError: Everything that is wrong, at once.
    """
    problems = [problem for name, wanted in classes.items() for problem in _problems(name, wanted, labels)]
    twice = [column for column, count in Counter(columns(classes)).items() if count > 1]
    problems += [f"two classes would share the column '{column}'; rename one of them." for column in twice]
    if problems:
        raise ConfigError(f"'evaluation': {listing(problems)}")


def columns(classes: Classes) -> list[str]:
    """The columns of results.csv after the id, in the order of the classes and of their metrics."""
    return [f"{name}_{metric}" for name, wanted in classes.items() for metric in wanted.metrics]


def _problems(name: str, wanted: EvaluationClass, labels: Collection[int] | None) -> Iterator[str]:
    unknown = sorted(set(wanted.labels) - set(labels)) if labels is not None else []
    if unknown:
        yield f"class '{name}' names labels {unknown} that are not among those of the dataset, {sorted(labels or [])}."
    for metric, params in wanted.metrics.items():
        try:
            model = _parameters(metric, METRICS[metric])
            model.model_validate(params, strict=True)
        except ConfigError as error:
            yield f"class '{name}': {error}"
        except ValidationError as error:
            yield from (f"class '{name}', metric '{metric}': {mistake}" for mistake in mistakes(error, model))


def _parameters(name: str, metric: Metric) -> type[Section]:
    """The parameters of a metric after the pair, as a model that checks names, types and ranges."""
    _, *parameters = inspect.signature(metric.function, eval_str=True).parameters.values()
    fields = {parameter.name: (parameter.annotation, parameter.default) for parameter in parameters}
    model: type[Section] = create_model(name, __base__=Section, **fields)  # type: ignore[call-overload]
    return model


def score(mask: Path, prediction: Path, classes: Classes, known: Collection[int] | None = None) -> Scores:
    """Score a prediction against its mask.

    Where both are empty a metric is at its best, where one is at its worst; worst distances are the diagonal of the
    whole image. Spacings are those of the mask.

    Args:
        mask: The truth.
        prediction: On the same grid.
        classes: As checked by ``check_classes``.
        known: Labels besides 0 that either file may hold; any if None.

    Raises:
        ImageError: A file cannot be used, holds a label that is not known, or the grids differ.
        MistError: A metric has no finite value.
    """
    geometry = _common_geometry(mask, prediction)
    truth, predicted = (_labels(path, known) for path in (mask, prediction))
    box = bounding_box((truth > 0) | (predicted > 0))
    if box is not None:
        truth, predicted = truth[box.slices], predicted[box.slices]
    scores: Scores = {}
    for name, wanted in classes.items():
        class_truth, class_prediction = (np.isin(labels, wanted.labels) for labels in (truth, predicted))
        pair = MaskPair(class_truth, class_prediction, geometry.spacing, geometry.diagonal)
        for metric, params in wanted.metrics.items():
            scores[f"{name}_{metric}"] = _value(name, metric, pair, params)
    return scores


def _common_geometry(mask: Path, prediction: Path) -> Geometry:
    geometry = read_geometry(mask)
    differences = geometry.differences(read_geometry(prediction))
    if differences:
        raise ImageError(
            f"the mask {mask} and the prediction {prediction} lie on different grids: {', '.join(differences)}. "
            "Resample the prediction onto the mask."
        )
    return geometry


def _labels(path: Path, known: Collection[int] | None) -> LabelMap:
    labels, _ = read_labels(path)
    unknown = sorted(set(np.unique(labels).tolist()) - {0, *known}) if known is not None else []
    if unknown:
        raise ImageError(f"{path} holds labels {unknown}; known are {sorted({0, *(known or [])})}. Correct the file.")
    return labels


def _value(name: str, metric_name: str, pair: MaskPair, params: Mapping[str, object]) -> float:
    metric = METRICS[metric_name]
    if not (pair.truth_voxels or pair.prediction_voxels):
        return metric.best
    if not (pair.truth_voxels and pair.prediction_voxels):
        return pair.diagonal if math.isinf(metric.worst) else metric.worst
    value = float(metric.function(pair, **params))
    if not math.isfinite(value):
        raise MistError(f"class '{name}': the metric '{metric_name}' is {value}, which is no score.")
    return value
