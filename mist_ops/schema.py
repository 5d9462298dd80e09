"""JSON files and settings checked against a declaration: sections, flags, and one message for all mistakes."""

from __future__ import annotations

import difflib
import inspect
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError, create_model
from pydantic.fields import FieldInfo

from mist_ops.errors import MistError, counted, listing

Value = TypeVar("Value")
Model = TypeVar("Model", bound=BaseModel)

_MOST_CHARACTERS = 80


@dataclass(frozen=True)
class Flag:
    """Marks a field as a flag of some commands; ``name`` where it differs from the field's."""

    command: str
    name: str | None = None


class Section(BaseModel):
    """A part of a configuration: immutable, and strict about its keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def read_checked(path: Path, model: type[Model], kind: type[MistError]) -> Model:
    """Read a JSON file as a model.

    A byte-order mark is accepted; comments, ``NaN`` and duplicate keys are not.

    Raises:
        MistError: Of the given kind. The file is not JSON, or does not fit the model; all mistakes are listed.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        raw = json.loads(text, object_pairs_hook=_unique_keys, parse_constant=_no_constant)
    except (ValueError, OSError, RecursionError) as error:
        reason = _reason(error)
        raise kind(
            f"{path} is not valid JSON: {reason}. Correct it and save it as UTF-8.", code="json-invalid", file=path
        ) from error
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        raise refusal(kind, error, model, path) from error


def refusal(
    kind: type[MistError], error: ValidationError, model: type[BaseModel], file: Path | None = None
) -> MistError:
    """Return an error that lists every mistake; its code and its facts are those of the first."""
    found = _mistakes(error, model)
    listed = listing([mistake.message for mistake in found])
    first = found[0]
    return kind(
        f"{file}: {listed}" if file else listed,
        code=first.code,
        file=file,
        field=first.field or None,
        found=first.found,
        expected=first.expected,
    )


def mistakes(error: ValidationError, model: type[BaseModel]) -> list[str]:
    """Describe each mistake that pydantic found: the key, what is expected and what it got."""
    return [mistake.message for mistake in _mistakes(error, model)]


def flag_mistake(flag: str, error: ValidationError) -> str:
    """Describe the first mistake in the value of a flag, as in ``--epochs: must be at least 1 (got 0)``."""
    details: list[Any] = error.errors(include_url=False)
    return f"{flag}: must {_expected(details[0])} (got {_got(details[0])})".replace("'", "")


def _reason(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"line {error.lineno}, column {error.colno}: {error.msg.lower()}" if error.doc.strip() else "it is empty"
    if isinstance(error, UnicodeDecodeError):
        return f"byte {error.start} is not UTF-8 text"
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def _unique_keys(pairs: list[tuple[str, Value]]) -> dict[str, Value]:
    found: dict[str, Value] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"duplicate key '{key}'")
        found[key] = value
    return found


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


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
    """Build a model of a function's parameters after the first, to check their names, types and ranges."""
    _, *parameters = inspect.signature(function, eval_str=True).parameters.values()
    fields = {parameter.name: (parameter.annotation, parameter.default) for parameter in parameters}
    model: type[Section] = create_model(name, __base__=Section, **fields)  # type: ignore[call-overload]
    return model


@dataclass(frozen=True)
class _Mistake:
    """One mistake, and the code and facts of an error about it."""

    message: str
    code: str
    field: str
    found: object = None
    expected: object = None


def _mistakes(error: ValidationError, model: type[BaseModel]) -> list[_Mistake]:
    details: list[Any] = error.errors(include_url=False)
    # Pydantic reports each item that a list of fixed length lacks.
    short = {_path(detail["loc"][:-1]): detail for detail in details if _lacks_item(detail)}
    found = [_mistake(detail, model) for detail in details if not _lacks_item(detail)]
    return found + [_too_few(path, detail) for path, detail in short.items()]


def _lacks_item(detail: Any) -> bool:
    return bool(detail["type"] == "missing" and isinstance(detail["loc"][-1], int))


def _too_few(path: str, last: Any) -> _Mistake:
    items = counted(last["loc"][-1] + 1, "item")
    return _Mistake(
        f"'{path}' must have {items}, got {len(last['input'])}.", "value-invalid", path, last["input"], items
    )


def _mistake(detail: Any, model: type[BaseModel]) -> _Mistake:
    path, value = _path(detail["loc"]), detail["input"]
    if detail["type"] == "extra_forbidden":
        *parents, name = (str(part) for part in detail["loc"])
        known = _keys(model, parents)
        near = difflib.get_close_matches(name, known, n=1)
        advice = f"Did you mean '{near[0]}'?" if near else f"Known: {', '.join(known)}."
        return _Mistake(f"unknown key '{path}'. {advice}", "unknown-key", path, name, known)
    if detail["type"] == "missing":
        return _Mistake(f"'{path}' is missing.", "key-missing", path)
    if detail["type"] == "value_error":
        return _of_a_validator(detail["ctx"]["error"], path, value)
    subject = f"'{path}'" if path else "the content"
    return _Mistake(_sentence(subject, detail), "value-invalid", path, value, _expected(detail).removeprefix("be "))


def _of_a_validator(error: ValueError, path: str, value: object) -> _Mistake:
    """Describe what a validator of ours refused; its message states what it found."""
    cause = error.__cause__ if isinstance(error.__cause__, MistError) else None
    message = (cause.message if cause else str(error)).removesuffix(".")
    message = f"'{path}': {message}." if path else f"{message}."
    if cause:
        return _Mistake(message, cause.code, path, cause.found, cause.expected)
    return _Mistake(message, "value-invalid", path, None if isinstance(value, dict) else value)


def _sentence(subject: str, detail: Any) -> str:
    return f"{subject} must {_expected(detail)}, got {_got(detail)}."


def _got(detail: Any) -> str:
    return str(detail["ctx"]["actual_length"]) if detail["type"] in _LENGTHS else _shown(detail["input"])


def _path(parts: Sequence[int | str]) -> str:
    return ".".join(str(part) for part in parts)


_TYPES = {
    "be a number": ("float_type", "float_parsing"),
    "be a finite number": ("finite_number",),
    "be an integer": ("int_type", "int_parsing", "int_parsing_size", "int_from_float"),
    "be true or false": ("bool_type", "bool_parsing"),
    "be text": ("string_type", "path_type"),
    "be a list": ("list_type", "tuple_type"),
    "be an object": ("dict_type", "model_type", "model_attributes_type"),
    "not be empty": ("string_too_short",),
}
_EXPECTED = {name: expected for expected, names in _TYPES.items() for name in names}
_BOUNDS = {
    "greater_than": ("greater than", "gt"),
    "greater_than_equal": ("at least", "ge"),
    "less_than": ("less than", "lt"),
    "less_than_equal": ("at most", "le"),
}
_LENGTHS = {"too_short": ("at least", "min_length"), "too_long": ("at most", "max_length")}


def _expected(detail: Any) -> str:
    """What a value must be or have."""
    kind, context = detail["type"], detail.get("ctx", {})
    if kind == "greater_than" and isinstance(context["gt"], int):
        return f"be at least {context['gt'] + 1}"
    if kind in _BOUNDS:
        words, name = _BOUNDS[kind]
        return f"be {words} {context[name]:g}"
    if kind in _LENGTHS:
        words, name = _LENGTHS[kind]
        return f"have {words} {counted(context[name], 'item')}"
    if kind == "literal_error":
        return f"be {context['expected']}".replace("'", "")
    return _EXPECTED.get(kind) or f"be valid ({detail['msg']})"


def _shown(value: object) -> str:
    if isinstance(value, list | tuple | dict):
        return "an object" if isinstance(value, dict) else "a list"
    return f"'{value}'"[:_MOST_CHARACTERS] if isinstance(value, str) else json.dumps(value, default=str)


def _keys(model: type[BaseModel], parents: list[str]) -> list[str]:
    for parent in parents:
        field = model.model_fields.get(parent)
        inner = [field.annotation, *get_args(field.annotation)] if field else []
        sections = [part for part in inner if isinstance(part, type) and issubclass(part, BaseModel)]
        model = sections[0] if sections else model
    return [field.alias or name for name, field in model.model_fields.items()]
