"""JSON that is checked against a declaration: sections, flags, and mistakes told as sentences."""

from __future__ import annotations

import difflib
import inspect
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError, create_model
from pydantic.fields import FieldInfo

from mist_ops.errors import MistError, listing

Value = TypeVar("Value")
Model = TypeVar("Model", bound=BaseModel)


@dataclass(frozen=True)
class Flag:
    """Marks a field as a flag of some commands; ``name`` where it differs from the field's."""

    command: str
    name: str | None = None


class Section(BaseModel):
    """A part of a configuration: immutable, and strict about its keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def read_checked(path: Path, model: type[Model], error: type[MistError]) -> Model:
    """Read a JSON file as a model; every mistake in it is named at once, in one ``error``.

    A byte-order mark is accepted; comments, ``NaN`` and a key given twice are not.
    """
    try:
        raw = json.loads(
            path.read_text(encoding="utf-8-sig"), object_pairs_hook=_unique_keys, parse_constant=_no_constant
        )
    except (ValueError, OSError, RecursionError) as cause:  # the last where it is nested too deeply
        raise error(f"{path} cannot be read as JSON: {cause}. Correct it, and save it in UTF-8.") from cause
    try:
        return model.model_validate(raw)
    except ValidationError as cause:
        raise error(f"{path}: {listing(mistakes(cause, model))}") from cause


def _unique_keys(pairs: list[tuple[str, Value]]) -> dict[str, Value]:
    found: dict[str, Value] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key {key!r} is given twice")
        found[key] = value
    return found


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number in JSON")


@dataclass(frozen=True)
class FlaggedField:
    """A field that is also a command-line flag. ``path`` is dotted, from the model that was walked."""

    path: str
    flag: str
    command: str
    field: FieldInfo


def flagged_fields(model: type[BaseModel], prefix: str = "") -> Iterator[FlaggedField]:
    """Walk a model and its sections for the fields that are flags, in the order of declaration."""
    for name, field in model.model_fields.items():
        for marker in field.metadata:
            if isinstance(marker, Flag):
                flag = "--" + (marker.name or name).replace("_", "-")
                yield FlaggedField(f"{prefix}{name}", flag, marker.command, field)
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from flagged_fields(field.annotation, f"{prefix}{name}.")


def parameters_of(name: str, function: Callable[..., object]) -> type[Section]:
    """A model of a function's parameters after the first, that checks their names, types and ranges."""
    _, *parameters = inspect.signature(function, eval_str=True).parameters.values()
    fields = {parameter.name: (parameter.annotation, parameter.default) for parameter in parameters}
    model: type[Section] = create_model(name, __base__=Section, **fields)  # type: ignore[call-overload]
    return model


def mistakes(error: ValidationError, model: type[BaseModel]) -> list[str]:
    """Pydantic's complaints as sentences that name the key, what was found and, for an unknown key, the nearest."""
    return [_mistake(detail, model) for detail in error.errors()]


_IN_JSON = {
    **dict.fromkeys(("model_type", "dict_type"), "Input should be an object"),
    **dict.fromkeys(("list_type", "tuple_type"), "Input should be a list"),
}
"""What JSON calls a thing that Python calls otherwise."""


def _mistake(detail: Any, model: type[BaseModel]) -> str:
    path = ".".join(str(part) for part in detail["loc"])
    if detail["type"] == "extra_forbidden":
        *parents, name = (str(part) for part in detail["loc"])
        known = _keys(model, parents)
        near = difflib.get_close_matches(name, known, n=1)
        return f"the key '{path}' is not known." + (
            f" Did you mean '{near[0]}'?" if near else f" Known: {', '.join(known)}."
        )
    # A sentence of ours says itself what it found.
    found = "" if detail["type"] in ("missing", "value_error") else f" (found {detail['input']!r:.80})"
    where = f"'{path}': " if path else ""
    said = _IN_JSON.get(detail["type"], detail["msg"].removeprefix("Value error, "))
    return f"{where}{said}{found}."


def _keys(model: type[BaseModel], parents: list[str]) -> list[str]:
    for parent in parents:
        field = model.model_fields.get(parent)
        inner = [field.annotation, *get_args(field.annotation)] if field else []
        sections = [part for part in inner if isinstance(part, type) and issubclass(part, BaseModel)]
        model = sections[0] if sections else model
    return [field.alias or name for name, field in model.model_fields.items()]
