"""The scores of one prediction: what the classes of config.json ask for, checked beforehand and computed."""

from __future__ import annotations

import inspect
import math
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, reduce
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError, create_model, model_validator

from mist_ops.config import DatasetInfo, EvaluationClass
from mist_ops.errors import ConfigError, ImageError, MistError, listing
from mist_ops.evaluation.lesions import LesionRow, lesion_rows
from mist_ops.imaging.components import label_boxes
from mist_ops.imaging.foreground import union_box
from mist_ops.imaging.geometry import Geometry
from mist_ops.imaging.nifti import read_labels
from mist_ops.metrics import Metric
from mist_ops.metrics.pair import MaskPair
from mist_ops.registry import METRICS, UnknownName
from mist_ops.schema import Section, mistakes, read_checked
from mist_ops.types import Box, Json, LabelMap, Mask

Classes = Mapping[str, EvaluationClass]
Scores = dict[str, float]
"""Values by column of results.csv, ``<class>_<metric>``, in the unit of the metric."""
Absent: TypeAlias = Literal["best", "nan"]
"""What a class scores that is in neither mask: the best value of each metric, or NaN, which no mean counts."""


@dataclass(frozen=True)
class CaseScores:
    """What became of one patient.

    Attributes:
        scores: By column.
        absent_classes: Classes that are in neither mask.
        lesions: Those behind metrics of lesions.
        volumes: In ml, of the mask and of the prediction, by class.
    """

    scores: Scores
    absent_classes: tuple[str, ...] = ()
    lesions: tuple[LesionRow, ...] = ()
    volumes: Mapping[str, tuple[float, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Evaluation:
    """What to score.

    Attributes:
        classes: By name, checked.
        known: Labels besides 0 that a mask may hold: those of the classes, and of the dataset where it is described.
    """

    classes: Classes
    known: tuple[int, ...]


class _Config(BaseModel):
    """The part of a config.json that evaluation reads."""

    model_config = ConfigDict(extra="ignore")

    evaluation: dict[str, EvaluationClass]
    dataset_info: DatasetInfo | None = None

    @model_validator(mode="before")
    @classmethod
    def _classes_alone(cls, raw: object) -> object:
        return {"evaluation": raw} if isinstance(raw, dict) and "evaluation" not in raw else raw


def read_classes(path: Path) -> Classes:
    """The classes alone; see ``read_evaluation``."""
    return read_evaluation(path).classes


def read_evaluation(path: Path) -> Evaluation:
    """Read and check the classes of a config.json, or of a JSON that is the ``evaluation`` section alone.

    Raises:
        ConfigError: As ``check_classes``, or the file is no such JSON or asks for nothing.
    """
    if not path.is_file():
        raise ConfigError(f"There is no {path}. Name a config.json with --config.")
    config = read_checked(path, _Config, ConfigError)
    if not columns(config.evaluation):
        raise ConfigError(
            f"{path} names no class with a metric, so there is nothing to measure. Add one to 'evaluation'."
        )
    labels = config.dataset_info.labels if config.dataset_info else None
    try:
        check_classes(config.evaluation, labels)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error.message}", code=error.code, file=path) from error
    named = {label for scored in config.evaluation.values() for label in scored.labels}
    return Evaluation(config.evaluation, tuple(sorted({*named, *(labels or [])} - {0})))


def check_classes(classes: Classes, labels: Collection[int] | None = None) -> None:
    """Check the names and parameters of all metrics, and the labels of all classes if those of the dataset are given.

    Raises:
        ConfigError: Everything that is wrong, at once.
    """
    problems = [problem for name, wanted in classes.items() for problem in _problems(name, wanted, labels)]
    twice = [column for column, count in Counter(columns(classes)).items() if count > 1]
    problems += [f"two classes would share the column '{column}'; rename one of them." for column in twice]
    unknown = [metric for wanted in classes.values() for metric in wanted.metrics if metric not in METRICS]
    known = f"{' ' if len(problems) == 1 else chr(10)}Known metrics: {', '.join(METRICS)}." if unknown else ""
    if problems:
        code = "unknown-metric" if unknown else "evaluation-invalid"
        raise ConfigError(f"'evaluation': {listing(problems)}{known}", code=code)


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
        except UnknownName as error:
            yield f"class '{name}': {error.guess}"
        except ValidationError as error:
            yield from (f"class '{name}', metric '{metric}': {mistake}" for mistake in mistakes(error, model))


@lru_cache(maxsize=256)
def _parameters(name: str, metric: Metric) -> type[Section]:
    """The parameters of a metric after the pair, as a model that checks names, types and ranges."""
    _, *parameters = inspect.signature(metric.function, eval_str=True).parameters.values()
    fields = {parameter.name: (parameter.annotation, parameter.default) for parameter in parameters}
    model: type[Section] = create_model(name, __base__=Section, **fields)  # type: ignore[call-overload]
    return model


def score(
    mask: Path,
    prediction: Path,
    classes: Classes,
    known: Collection[int] | None = None,
    absent: Absent = "best",
) -> Scores:
    """The scores alone; see ``score_case``."""
    return score_case(mask, prediction, classes, known, absent).scores


def score_case(
    mask: Path,
    prediction: Path,
    classes: Classes,
    known: Collection[int] | None = None,
    absent: Absent = "best",
) -> CaseScores:
    """Score a prediction against its mask.

    Where one of both masks of a class is empty a metric is at its worst; worst distances are the diagonal of the whole
    image. Spacings are those of the mask. Each file is read once.

    Args:
        mask: The truth.
        prediction: On the same grid.
        classes: As checked by ``check_classes``.
        known: Labels besides 0 that either file may hold anywhere; any if None.
        absent: What a class scores that is in neither file: the best value or NaN.

    Raises:
        ImageError: A file cannot be used, holds a label that is not known, or the grids differ.
        MistError: A metric has no finite value.
    """
    truth, predicted, geometry = _read(mask, prediction, known)
    scores: Scores = {}
    missing: list[str] = []
    lesions: list[LesionRow] = []
    volumes: dict[str, tuple[float, float]] = {}
    for name, wanted in classes.items():
        metrics = {metric: (METRICS[metric], _checked(metric, params)) for metric, params in wanted.metrics.items()}
        pair = _pair(truth, predicted, wanted.labels, geometry)
        if pair is None:
            missing.append(name)
            values = {metric: entry.best if absent == "best" else math.nan for metric, (entry, _) in metrics.items()}
        else:
            values = {metric: _value(name, metric, pair, *entry) for metric, entry in metrics.items()}
            lesions.extend(lesion_rows(name, pair, metrics))
        volumes[name] = _volumes(pair)
        scores.update({f"{name}_{metric}": value for metric, value in values.items()})
    return CaseScores(scores, tuple(missing), tuple(lesions), volumes)


def _volumes(pair: MaskPair | None) -> tuple[float, float]:
    """Those of both masks in ml; none for a class that is in neither."""
    if pair is None:
        return 0.0, 0.0
    voxel = pair.voxel_volume / 1000
    return pair.truth_voxels * voxel, pair.prediction_voxels * voxel


@dataclass(frozen=True)
class _Labels:
    """A label map and the box of each label in it."""

    map: LabelMap
    boxes: Mapping[int, Box]


def _read(mask: Path, prediction: Path, known: Collection[int] | None) -> tuple[_Labels, _Labels, Geometry]:
    truth, geometry = read_labels(mask)
    predicted, other = read_labels(prediction)
    differences = geometry.differences(other)
    if differences:
        raise ImageError(
            f"the mask {mask} and the prediction {prediction} lie on different grids: {', '.join(differences)}. "
            "Resample the prediction onto the mask."
        )
    return _boxed(truth, mask, known), _boxed(predicted, prediction, known), geometry


def _boxed(labels: LabelMap, path: Path, known: Collection[int] | None) -> _Labels:
    boxes = label_boxes(labels)
    unknown = sorted(set(boxes) - set(known)) if known is not None else []
    if unknown:
        raise ImageError(f"{path} holds labels {unknown}; known are {sorted({0, *(known or [])})}. Correct the file.")
    return _Labels(labels, boxes)


def _pair(truth: _Labels, predicted: _Labels, labels: Sequence[int], geometry: Geometry) -> MaskPair | None:
    """The masks of a class in the box of both; None if both are empty."""
    boxes = [image.boxes[label] for image in (truth, predicted) for label in labels if label in image.boxes]
    if not boxes:
        return None
    box = reduce(union_box, boxes).slices
    first, second = (_mask(image.map[box], labels) for image in (truth, predicted))
    return MaskPair(first, second, geometry.spacing, geometry.diagonal)


def _mask(values: LabelMap, labels: Sequence[int]) -> Mask:
    if len(labels) == 1:
        mask: Mask = values == labels[0]
        return mask
    table = np.zeros(int(values.max()) + 1, dtype=bool)
    table[[label for label in labels if label < len(table)]] = True
    return np.take(table, values)


def _checked(name: str, params: Mapping[str, object]) -> Json:
    """Parameters of the types that the metric declares: 2 as 2.0 where it takes a float."""
    return _parameters(name, METRICS[name]).model_validate(params, strict=True).model_dump(exclude_unset=True)


def _value(class_name: str, name: str, pair: MaskPair, metric: Metric, params: Json) -> float:
    one_empty = not (pair.truth_voxels and pair.prediction_voxels)
    if one_empty and not metric.takes_one_empty:
        return pair.diagonal if math.isinf(metric.worst) else metric.worst
    value = float(metric.function(pair, **params))
    if not math.isfinite(value):
        raise MistError(f"class '{class_name}': the metric '{name}' is {value}, which is no score.")
    return value
