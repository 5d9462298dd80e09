"""Score a prediction against its mask, by the classes and metrics of config.json."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, reduce
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from mist_ops.config import DatasetInfo, EvaluationClass, settings_file
from mist_ops.errors import ConfigError, ImageError, MistError, counted, few, listing
from mist_ops.evaluation.lesions import LesionRow, lesion_rows
from mist_ops.imaging.components import label_boxes
from mist_ops.imaging.foreground import union_box
from mist_ops.imaging.geometry import Geometry
from mist_ops.imaging.nifti import read_labels
from mist_ops.metrics import Metric
from mist_ops.metrics.pair import MaskPair
from mist_ops.registry import METRICS, UnknownName
from mist_ops.schema import mistakes, parameters_of, read_checked
from mist_ops.types import Box, Json, LabelMap, Mask

Classes = Mapping[str, EvaluationClass]
Scores = dict[str, float]
"""Values by column of results.csv, ``<class>_<metric>``, in the unit of the metric."""
Absent: TypeAlias = Literal["best", "nan"]
"""Score of a class that is in neither mask: the best value of each metric, or NaN, which means exclude."""


@dataclass(frozen=True)
class CaseScores:
    """Scores of one patient.

    Attributes:
        scores: Values by column.
        absent_classes: Classes that are in neither mask.
        lesions: Lesions behind lesion-wise metrics.
        volumes: Volumes in ml of mask and prediction, by class.
        shared_forms: Whether mask and prediction are on one grid only by parts of their headers that are not used here;
            see ``Geometry.shared_forms``.
    """

    scores: Scores
    absent_classes: tuple[str, ...] = ()
    lesions: tuple[LesionRow, ...] = ()
    volumes: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    shared_forms: bool = False


@dataclass(frozen=True)
class Evaluation:
    """Classes to score.

    Attributes:
        classes: Classes by name, checked.
        known: Labels other than 0 that a mask may hold: those of the classes and of the dataset.
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
    """Read and check the classes of a config.json; see ``read_evaluation``."""
    return read_evaluation(path).classes


def read_evaluation(path: Path) -> Evaluation:
    """Read and check the classes of a config.json, or of a JSON file with only its ``evaluation`` section.

    Raises:
        ConfigError: As ``check_classes``, or the file is missing, invalid or has no metrics.
    """
    if not path.is_file():
        raise ConfigError(
            f"{path} does not exist. Give a config.json with --config.",
            code="config-missing",
            file=path,
            field="--config",
        )
    config = read_checked(settings_file(path), _Config, ConfigError)
    if not columns(config.evaluation):
        raise ConfigError(
            f"{path}: no class in 'evaluation' has a metric. Add one.",
            code="evaluation-invalid",
            file=path,
            field="evaluation",
        )
    labels = config.dataset_info.labels if config.dataset_info else None
    try:
        check_classes(config.evaluation, labels)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error.message}", code=error.code, file=path) from error
    named = {label for scored in config.evaluation.values() for label in scored.labels}
    return Evaluation(config.evaluation, tuple(sorted({*named, *(labels or [])} - {0})))


def check_classes(classes: Classes, labels: Collection[int] | None = None) -> None:
    """Check the metrics and their parameters and, if those of the dataset are given, the labels of all classes.

    Raises:
        ConfigError: Lists every mistake.
    """
    problems = [problem for name, scored in classes.items() for problem in _problems(name, scored, labels)]
    twice = [column for column, count in Counter(columns(classes)).items() if count > 1]
    problems += [f"two classes share the column '{column}'; rename one of them." for column in twice]
    unknown = [metric for scored in classes.values() for metric in scored.metrics if metric not in METRICS]
    known = f"{' ' if len(problems) == 1 else chr(10)}Known metrics: {', '.join(METRICS)}." if unknown else ""
    if problems:
        code = "unknown-metric" if unknown else "evaluation-invalid"
        raise ConfigError(
            f"'evaluation': {listing(problems)}{known}", code=code, field="evaluation", found=unknown or None
        )


def columns(classes: Classes) -> list[str]:
    """Columns of results.csv after the id, in the order of the classes and their metrics."""
    return [f"{name}_{metric}" for name, scored in classes.items() for metric in scored.metrics]


def _problems(name: str, scored: EvaluationClass, labels: Collection[int] | None) -> Iterator[str]:
    unknown = sorted(set(scored.labels) - set(labels)) if labels is not None else []
    if unknown:
        yield f"class '{name}': the dataset has the labels {few(sorted(labels or []), 20)}, not {few(unknown)}."
    for metric, params in scored.metrics.items():
        try:
            model = _parameters(metric, METRICS[metric].function)
            model.model_validate(params, strict=True)
        except UnknownName as error:
            yield f"class '{name}': {error.guess}"
        except ValidationError as error:
            yield from (f"class '{name}', metric '{metric}': {mistake}" for mistake in mistakes(error, model))


_parameters = lru_cache(maxsize=256)(parameters_of)


def score(
    mask: Path,
    prediction: Path,
    classes: Classes,
    known: Collection[int] | None = None,
    absent: Absent = "best",
) -> Scores:
    """Score a prediction; see ``score_case``."""
    return score_case(mask, prediction, classes, known, absent).scores


def score_case(
    mask: Path,
    prediction: Path,
    classes: Classes,
    known: Collection[int] | None = None,
    absent: Absent = "best",
) -> CaseScores:
    """Score a prediction against its mask.

    A class that is in only one of the masks has the worst value of each metric; the worst distance is the diagonal of
    the whole image. The spacing is that of the mask.

    Args:
        mask: The truth.
        prediction: The prediction, on the same grid.
        classes: As checked by ``check_classes``.
        known: Labels other than 0 that the files may hold; any if None.
        absent: Score of a class that is in neither file.

    Raises:
        ImageError: A file cannot be used or holds an unknown label, or the grids differ.
        MistError: The value of a metric is not finite.
    """
    truth, predicted, geometry, shared = read_masks(mask, prediction, known)
    scores: Scores = {}
    missing: list[str] = []
    lesions: list[LesionRow] = []
    volumes: dict[str, tuple[float, float]] = {}
    for name, scored in classes.items():
        metrics = {
            metric: (METRICS[metric], checked_parameters(metric, params)) for metric, params in scored.metrics.items()
        }
        pair = class_pair(truth, predicted, scored.labels, geometry)
        if pair is None:
            missing.append(name)
            values = {metric: entry.best if absent == "best" else math.nan for metric, (entry, _) in metrics.items()}
        else:
            values = {metric: _value(name, metric, pair, *entry) for metric, entry in metrics.items()}
            lesions.extend(lesion_rows(name, pair, metrics))
        volumes[name] = _volumes(pair)
        scores.update({f"{name}_{metric}": value for metric, value in values.items()})
    return CaseScores(scores, tuple(missing), tuple(lesions), volumes, shared)


def _volumes(pair: MaskPair | None) -> tuple[float, float]:
    """Volumes of both masks in ml."""
    if pair is None:
        return 0.0, 0.0
    voxel = pair.voxel_volume / 1000
    return pair.truth_voxels * voxel, pair.prediction_voxels * voxel


@dataclass(frozen=True)
class BoxedLabels:
    """A label map and the bounding boxes of its labels."""

    map: LabelMap
    boxes: Mapping[int, Box]


def read_masks(
    mask: Path, prediction: Path, known: Collection[int] | None = None
) -> tuple[BoxedLabels, BoxedLabels, Geometry, bool]:
    """Read truth and prediction, their grid, and ``CaseScores.shared_forms``; raises as ``score_case``."""
    truth, geometry = read_labels(mask)
    predicted, other = read_labels(prediction)
    differences = geometry.differences(other)
    if differences:
        raise ImageError(
            f"mask {mask} and prediction {prediction} are on different grids: {', '.join(differences)}. "
            "Resample the prediction onto the mask.",
            code="grid-mismatch",
            file=prediction,
            found=differences,
        )
    shared = geometry.shared_forms(other) is not None
    return _boxed(truth, mask, known), _boxed(predicted, prediction, known), geometry, shared


def _boxed(labels: LabelMap, path: Path, known: Collection[int] | None) -> BoxedLabels:
    boxes = label_boxes(labels)
    unknown = sorted(set(boxes) - set(known)) if known is not None else []
    if unknown:
        expected = sorted({0, *(known or [])})
        raise ImageError(
            f"{path} holds {counted(len(unknown), 'unknown label')}: {few(unknown)}. Known are {few(expected, 20)}. "
            "Correct the file.",
            code="unknown-label",
            file=path,
            found=unknown,
            expected=expected,
        )
    return BoxedLabels(labels, boxes)


def class_box(truth: BoxedLabels, predicted: BoxedLabels, labels: Sequence[int]) -> Box | None:
    """The box of a class in both masks; None if both are empty."""
    boxes = [image.boxes[label] for image in (truth, predicted) for label in labels if label in image.boxes]
    return reduce(union_box, boxes) if boxes else None


def class_pair(
    truth: BoxedLabels, predicted: BoxedLabels, labels: Sequence[int], geometry: Geometry
) -> MaskPair | None:
    """The masks of a class, cropped to the box of their union; None if both are empty."""
    box = class_box(truth, predicted, labels)
    if box is None:
        return None
    first, second = (_mask(image.map[box.slices], labels) for image in (truth, predicted))
    return MaskPair(first, second, geometry.spacing, geometry.diagonal)


def _mask(values: LabelMap, labels: Sequence[int]) -> Mask:
    if len(labels) == 1:
        mask: Mask = values == labels[0]
        return mask
    table = np.zeros(int(values.max()) + 1, dtype=bool)
    table[[label for label in labels if label < len(table)]] = True
    return np.take(table, values)


def checked_parameters(name: str, params: Mapping[str, object]) -> Json:
    """Parameters in the types that the metric declares, such as 2.0 for 2."""
    return _parameters(name, METRICS[name].function).model_validate(params, strict=True).model_dump(exclude_unset=True)


def _value(class_name: str, name: str, pair: MaskPair, metric: Metric, params: Json) -> float:
    one_empty = not (pair.truth_voxels and pair.prediction_voxels)
    if one_empty and not metric.takes_one_empty:
        return pair.diagonal if math.isinf(metric.worst) else metric.worst
    value = float(metric.function(pair, **params))
    if not math.isfinite(value):
        raise MistError(
            f"class '{class_name}': the value of metric '{name}' is {value}, which is not finite. Correct the metric.",
            code="score-not-finite",
            field=f"{class_name}_{name}",
            found=value,
        )
    return value
