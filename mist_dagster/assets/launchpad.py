"""Settings in Dagster's launchpad: a field for each setting that is also a flag, from its declaration."""

from collections.abc import Iterable, Mapping
from typing import Any, Literal, Optional, get_origin

import dagster as dg
from pydantic import Field

from mist_ops.config import StudyConfig
from mist_ops.schema import FlaggedField, flagged_fields


def _name(flagged: FlaggedField) -> str:
    return flagged.flag.removeprefix("--").replace("-", "_")


FLAGS: Mapping[str, FlaggedField] = {_name(flagged): flagged for flagged in flagged_fields(StudyConfig)}
"""The settings that are also flags, by their name in the launchpad."""


class Overrides(dg.Config):
    """Base of run config that has settings among its fields."""

    def overrides(self) -> dict[str, Any]:
        """The settings given for this run, by their dotted path in config.json."""
        own = {FLAGS[name].path: getattr(self, name) for name in FLAGS if name in type(self).model_fields}
        return {path: value for path, value in own.items() if value is not None}


def fields(names: Iterable[str] = FLAGS) -> dict[str, Any]:
    """Fields of run config for settings, as ``pydantic.create_model`` takes them; all are optional."""
    return {name: _field(FLAGS[name]) for name in names}


def _field(flagged: FlaggedField) -> tuple[Any, Any]:
    annotation = flagged.field.annotation
    # The launchpad has neither tuples nor literals; the values are validated with the configuration.
    shown = {tuple: list[int], Literal: str}.get(get_origin(annotation), annotation)
    return Optional[shown], Field(None, description=flagged.field.description)  # noqa: UP045 - not a static type


def launchpad(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Run config that gives settings, by their dotted path, to the analysis."""
    names = {flagged.path: name for name, flagged in FLAGS.items()}
    return {names[path]: list(value) if isinstance(value, tuple) else value for path, value in settings.items()}
