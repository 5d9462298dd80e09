"""Strategies: sequences of transforms, read from JSON, checked and applied."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import numpy as np
from pydantic import Field, RootModel, ValidationError

from mist_ops.errors import ConfigError, few, listing
from mist_ops.files import write_json
from mist_ops.imaging.components import grown, label_boxes
from mist_ops.imaging.foreground import union_box
from mist_ops.postprocessing import Region, Transform
from mist_ops.registry import TRANSFORMS
from mist_ops.schema import Section, mistakes, parameters_of, read_checked
from mist_ops.types import Box, Json, LabelMap, Mask, Spacing

ALL = -1
"""All labels of a mask except the background."""

_HIGHEST = 65535
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Step:
    """One transform of some labels.

    Attributes:
        transform: Name in ``TRANSFORMS``.
        labels: Labels above 0, or ``ALL`` alone.
        per_label: Whether each label is its own region; otherwise all of them form one.
        params: Parameters of the transform; missing ones have their defaults.
    """

    transform: str
    labels: tuple[int, ...]
    per_label: bool
    params: Mapping[str, Any] = field(default_factory=dict)


Strategy: TypeAlias = tuple[Step, ...]
"""Steps, each applied to the result of the one before; an empty strategy changes nothing."""


class _StepFile(Section):
    """A step of a strategy file."""

    transform: str
    apply_to_labels: Annotated[list[int], Field(min_length=1)]
    per_label: bool
    kwargs: dict[str, Any] = Field(default_factory=dict)


class _StrategyFile(RootModel[list[dict[str, Any]]]):
    """A strategy file; its steps are checked one by one."""


def read_strategy(path: Path) -> Strategy:
    """Read and check a JSON list of steps, which may be empty.

    Raises:
        ConfigError: The file is missing, or lists every mistake by step.
    """
    if not path.is_file():
        raise ConfigError(
            f"{path} does not exist. Give a JSON file of steps with --postprocess-strategy.",
            code="file-missing",
            file=path,
            field="--postprocess-strategy",
        )
    return parse(read_checked(path, _StrategyFile, ConfigError).root, str(path))


def parse(raw: Sequence[Json], source: str) -> Strategy:
    """Check the steps of a strategy file: transform, apply_to_labels, per_label and, optionally, kwargs.

    Args:
        raw: The steps.
        source: Their file, for error messages.

    Raises:
        ConfigError: Lists every mistake by step.
    """
    problems = [f"step {number} of {len(raw)}{problem}" for number, problem in _numbered_problems(raw)]
    if problems:
        raise ConfigError(f"{source}: {listing(problems)}", code="strategy-invalid", file=source)
    steps = [_StepFile.model_validate(step, strict=True) for step in raw]
    strategy = tuple(Step(step.transform, tuple(step.apply_to_labels), step.per_label, step.kwargs) for step in steps)
    for number, step in enumerate(strategy, start=1):
        _warn(number, step, source)
    return strategy


def _numbered_problems(raw: Sequence[Json]) -> Iterator[tuple[int, str]]:
    for number, values in enumerate(raw, start=1):
        name = values.get("transform")
        named = f" ({name})" if isinstance(name, str) else ""
        yield from ((number, f"{named}: {problem}") for problem in _problems(values))


def _problems(values: Json) -> Iterator[str]:
    try:
        step = _StepFile.model_validate(values, strict=True)
        transform = TRANSFORMS[step.transform]
    except ValidationError as error:
        yield from mistakes(error, _StepFile)
        return
    except ConfigError as error:
        yield error.message
        return
    labels = step.apply_to_labels
    if labels != [ALL] and not all(0 < label <= _HIGHEST for label in labels):
        yield f"'apply_to_labels' holds {few(labels)}. Give labels from 1 to {_HIGHEST}, or only -1 for all labels."
    if transform.per_label_only and not step.per_label:
        yield "'per_label' must be true: this transform takes one label at a time."
    yield from _parameter_problems(step, transform)


def _parameter_problems(step: _StepFile, transform: Transform) -> Iterator[str]:
    model = parameters_of(step.transform, transform.function)
    try:
        model.model_validate(step.kwargs, strict=True)
    except ValidationError as error:
        yield from (f"'kwargs': {mistake}" for mistake in mistakes(error, model))
    for pair in transform.alternatives:
        if step.kwargs.keys() >= set(pair):
            yield f"'kwargs': '{pair[0]}' and '{pair[1]}' exclude each other. Give one of them."


def _warn(number: int, step: Step, source: str) -> None:
    decisive = TRANSFORMS[step.transform].idle_without
    if decisive and not any(step.params.get(name) for name in decisive):
        names = " or ".join(f"'{name}'" for name in decisive)
        _LOG.warning("%s: step %d (%s) changes nothing. Set %s.", source, number, step.transform, names)


def to_json(strategy: Strategy) -> list[Json]:
    """The steps of a strategy file: the inverse of ``parse``."""
    return [
        {
            "transform": step.transform,
            "apply_to_labels": list(step.labels),
            "per_label": step.per_label,
            "kwargs": dict(step.params),
        }
        for step in strategy
    ]


def write_strategy(path: Path, strategy: Strategy) -> None:
    """Write a strategy atomically, for ``read_strategy``."""
    write_json(path, to_json(strategy))


def describe() -> Json:
    """Description, ``per_label`` and parameters (JSON Schema) of every transform, by name."""
    return {
        name: {
            "description": transform.description,
            "per_label": "required" if transform.per_label_only else "either",
            "kwargs": _parameter_schema(name, transform),
        }
        for name, transform in TRANSFORMS.items()
    }


def _parameter_schema(name: str, transform: Transform) -> Json:
    properties = parameters_of(name, transform.function).model_json_schema().get("properties", {})
    return {
        parameter: {key: value for key, value in schema.items() if key != "title"}
        for parameter, schema in properties.items()
    }


def apply(strategy: Strategy, labels: LabelMap, spacing: Spacing) -> LabelMap:
    """Apply a strategy to a mask; the result has the smallest unsigned integer type that holds it.

    Args:
        strategy: As checked by ``parse``.
        labels: Labels from 0 to 65535.
        spacing: Voxel spacing in mm.
    """
    changed, _ = apply_counted(strategy, labels, spacing)
    return changed


def apply_counted(strategy: Strategy, labels: LabelMap, spacing: Spacing) -> tuple[LabelMap, list[int]]:
    """Apply a strategy like ``apply``, and count the voxels that each step changed."""
    low, high = int(labels.min(initial=0)), int(labels.max(initial=0))
    if low < 0 or high > _HIGHEST:
        raise ValueError(f"labels must lie between 0 and {_HIGHEST}, found {low} to {high}")
    current, counts = np.ascontiguousarray(labels, dtype=np.min_scalar_type(high)), []
    for step in strategy:
        before, current = current, _applied(step, current, spacing)
        counts.append(int(np.count_nonzero(before != current)))
    return current.astype(np.min_scalar_type(int(current.max(initial=0)))), counts


def _applied(step: Step, labels: LabelMap, spacing: Spacing) -> LabelMap:
    """Apply a step; every region is transformed as it was before the step."""
    transform = TRANSFORMS[step.transform]
    result = labels.copy()
    for box, mask in _regions(step, labels):
        region = Region(labels[box.slices], mask, spacing)
        changed = transform.function(region, **step.params)
        if changed is not region.labels:
            result = result.astype(np.promote_types(result.dtype, changed.dtype), copy=False)
            np.copyto(result[box.slices], changed, where=changed != region.labels)
    return result


def _regions(step: Step, labels: LabelMap) -> Iterator[tuple[Box, Mask]]:
    boxes = label_boxes(labels)
    present = [label for label in boxes if step.labels == (ALL,) or label in step.labels]
    if step.per_label:
        for label in present:
            box = grown(boxes[label], 1, labels.shape)
            yield box, labels[box.slices] == label
    elif present:
        box = grown(reduce(union_box, (boxes[label] for label in present)), 1, labels.shape)
        yield box, _any_of(labels[box.slices], present)


def _any_of(labels: LabelMap, selected: Sequence[int]) -> Mask:
    chosen = np.zeros(int(labels.max()) + 1, dtype=bool)
    chosen[list(selected)] = True
    return np.take(chosen, labels)
