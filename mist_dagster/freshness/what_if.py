"""Changes of a study that are only imagined: ``training.epochs=200``, ``remove=patient_017``."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

from mist_dagster.stages.inspection import State
from mist_ops.analysis.changes import without
from mist_ops.config import NAMES, override
from mist_ops.dataset import Assignment
from mist_ops.errors import ConfigError

_REMOVE = "remove"


def imagined(changes: Sequence[str]) -> Callable[[State], State]:
    """Return what makes the state of a study after some changes.

    Args:
        changes: Each a setting by its dotted path and a value as in config.json, or ``remove`` and the id of a training
            patient, with ``=`` between.

    Raises:
        ConfigError: A change is neither, or the settings would not be valid. Raised also by the returned function.
    """
    settings: dict[str, object] = {}
    gone: list[str] = []
    for given in changes:
        path, found, text = given.partition("=")
        if not found or not path or not text:
            raise ConfigError(
                f"--what-if: '{given}' is not a change. Use a setting, such as training.epochs=200, or remove=PATIENT.",
                code="what-if-invalid",
                field="--what-if",
                found=given,
            )
        if path == _REMOVE:
            gone.append(text)
        else:
            settings[path] = _value(text)
    for path in NAMES.keys() & settings.keys():
        NAMES[path][str(settings[path])]

    def change(state: State) -> State:
        config, assignment = state
        try:
            changed = override(config, settings)
        except KeyError as error:
            raise ConfigError(
                f"--what-if: config.json has no section {error}. Use a path such as training.epochs.",
                code="unknown-setting",
                field="--what-if",
                found=list(settings),
            ) from error
        return changed, _without(assignment, gone)

    return change


def _value(text: str) -> object:
    try:
        value: object = json.loads(text)
    except json.JSONDecodeError:
        return text
    return value


def _without(assignment: Assignment, ids: Sequence[str]) -> Assignment:
    unknown = [case_id for case_id in ids if case_id not in assignment.fold_of]
    if unknown:
        raise ConfigError(
            f"--what-if: '{unknown[0]}' is not a training patient of this study.",
            code="unknown-patient",
            field="--what-if",
            found=unknown[0],
        )
    return without(assignment, ids)
