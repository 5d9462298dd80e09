"""Passports of models: the JSON beside the weights, checked against what is there now or compared with another's."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import BaseModel, StrictInt, ValidationError, model_validator

from mist_ops.config import STEP_VERSIONS, StudyConfig, read_config
from mist_ops.dataset import Fold
from mist_ops.errors import ConfigError, few
from mist_ops.files import file_hash, read_object
from mist_ops.records.arrays import case_content
from mist_ops.schema import mistakes
from mist_ops.study import Study
from mist_ops.types import Json


class _Epoch(BaseModel):
    index: StrictInt
    validation_loss: float


class _Passport(BaseModel):
    """The part of a passport that is read here."""

    weights: str
    content: dict[str, dict[str, str]]
    config: Json
    history: list[_Epoch]
    best_epoch: StrictInt
    seconds: float

    @model_validator(mode="after")
    def _best_epoch_is_one(self) -> _Passport:
        if not 0 <= self.best_epoch < len(self.history):
            raise ValueError(f"'best_epoch' is {self.best_epoch}, and there are {len(self.history)} epochs")
        return self


def read_passport(weights: Path) -> Json:
    """The passport of a model.

    Args:
        weights: The file of the weights; ``fold_0.json`` is the passport of ``fold_0.pt``.

    Raises:
        ConfigError: There is none, or it cannot be read.
    """
    path = weights.with_suffix(".json")
    if not path.is_file():
        raise ConfigError(f"{weights} has no passport: there is no {path}. Models get one when they are trained here.")
    try:
        passport = read_object(path)
        _Passport.model_validate(passport)
    except ValueError as error:
        found = mistakes(error, _Passport)[0] if isinstance(error, ValidationError) else str(error)
        raise ConfigError(f"{path} is damaged ({found.rstrip('.')}). Restore it, or train the fold again.") from error
    return passport


def trained_on(weights: Path) -> frozenset[str]:
    """The patients that trained a model, as its passport says; none if it has no passport.

    Raises:
        ConfigError: The passport cannot be read.
    """
    if not weights.with_suffix(".json").is_file():
        return frozenset()
    return frozenset(read_passport(weights)["content"].get("training", {}))


def regrouped(weights: Path, fold: Fold) -> list[str]:
    """Sentences on the patients that a model saw and would not see now, or the reverse.

    Args:
        weights: The file of the weights.
        fold: Who trains it now, and who selects its weights.

    Raises:
        ConfigError: As ``read_passport``.
    """
    content = read_passport(weights)["content"]
    told = []
    for part, now, what in (
        ("training", fold.training, "It was trained"),
        ("validation", fold.validation, "Its weights were selected"),
    ):
        then = set(content.get(part, {}))
        come, gone = sorted(set(now) - then), sorted(then - set(now))
        changes = [*([f"with {few(gone)}"] if gone else []), *([f"without {few(come)}"] if come else [])]
        told += [f"{what} {' and '.join(changes)}, which is not so any more."] if changes else []
    return told


def verify(
    weights: Path,
    study: Study,
    besides: Collection[str] = (),
    content_of: Callable[[str], str] | None = None,
    config: StudyConfig | None = None,
) -> list[str]:
    """What no longer holds of a model's passport: a sentence each, none if all holds.

    Checked are the weights themselves, the settings of training in config.json, the version of training, and the arrays
    of every patient that trained the model or selected its weights.

    Args:
        weights: The file of the weights.
        study: Whose settings and arrays they are held against.
        besides: Patients whose arrays are not looked at.
        content_of: The hash of a patient's arrays, if it is known to the caller; else ``case_content``.
        config: The settings; those of config.json if None.

    Raises:
        ConfigError: As ``read_passport``.
    """
    passport = read_passport(weights)
    return [
        *_changed_weights(weights, passport),
        *_changed_settings(study, passport, config),
        *_changed_code(passport),
        *_changed_arrays(passport, besides, content_of or partial(case_content, study)),
    ]


def _changed_weights(weights: Path, passport: Json) -> Iterator[str]:
    if not weights.is_file():
        yield f"The weights {weights} are gone."
    elif file_hash(weights) != passport["weights"]:
        yield f"The weights {weights} are not those that the passport was written for."


def _changed_settings(study: Study, passport: Json, config: StudyConfig | None) -> Iterator[str]:
    if config is None and not study.config.is_file():
        yield f"{study.config} is gone, so the settings cannot be compared."
        return
    try:
        # Keys that came with a later version have their defaults, so that a passport does not age.
        then = StudyConfig.model_validate(passport["config"]).settings("training")
    except ValueError:
        yield "The settings of the passport are of another version, and cannot be compared."
        return
    changed = list(_differing(then, (config or read_config(study.config)).settings("training")))
    if changed:
        told = "; ".join(f"{key} was {_told(old)} and is {_told(new)}" for key, old, new in changed)
        yield f"Settings changed since: {told}."


def _changed_code(passport: Json) -> Iterator[str]:
    then, now = passport.get("version", 1), STEP_VERSIONS["training"]
    if then != now:
        yield f"Training is of version {now} now, and was of {then}: the same settings would give other weights."


def _changed_arrays(passport: Json, besides: Collection[str], content_of: Callable[[str], str]) -> Iterator[str]:
    for part, cases in passport["content"].items():
        found = {case_id: content_of(case_id) for case_id in cases if case_id not in besides}
        gone = [case_id for case_id, content in found.items() if not content]
        changed = [case_id for case_id, content in found.items() if content and content != cases[case_id]]
        if gone:
            yield f"The arrays of {few(gone)} ({part}) are gone."
        if changed:
            yield f"The arrays of {few(changed)} ({part}) are not those that were used."


def differences(first: Json, second: Json) -> list[str]:
    """Why two models may score differently, and how they did.

    Args:
        first: Passport of A.
        second: Passport of B.

    Returns:
        Sentences that call them A and B.
    """
    return [
        *(sentence for part in ("training", "validation") for sentence in _of_cases(part, first, second)),
        *(
            f"{key} is {_told(one)} for A and {_told(other)} for B."
            for key, one, other in _differing(first["config"], second["config"])
        ),
        *_of_facts(first, second),
        *_of_results(first, second),
    ]


def _of_cases(part: str, first: Json, second: Json) -> Iterator[str]:
    one, other = first["content"].get(part, {}), second["content"].get(part, {})
    use = {"training": "trains on", "validation": "selects its weights on"}[part]
    for name, mine, theirs in (("A", one, other), ("B", other, one)):
        alone = sorted(set(mine) - set(theirs))
        if alone:
            yield f"{name} alone {use} {len(alone)} patients: {few(alone)}."
    altered = sorted(case_id for case_id in set(one) & set(other) if one[case_id] != other[case_id])
    if altered:
        yield f"Both {use.replace('s ', ' ', 1)} {few(altered)}, but on different arrays."


_FACTS = ("fold", "seed", "mist_version", "version", "device", "processes", "versions", "pretrained", "changes")


def _of_facts(first: Json, second: Json) -> Iterator[str]:
    mine, theirs = ({name: passport.get(name) for name in _FACTS} for passport in (first, second))
    for key, one, other in _differing(mine, theirs):
        yield f"{key} is {_told(one)} for A and {_told(other)} for B."


def _of_results(first: Json, second: Json) -> Iterator[str]:
    if first["weights"] == second["weights"]:
        yield "The weights are the same, bit for bit."
        return
    for name, passport in (("A", first), ("B", second)):
        best = passport["history"][passport["best_epoch"]]
        yield (
            f"{name} was best in epoch {best['index'] + 1} of {len(passport['history'])}, with a validation loss of "
            f"{best['validation_loss']:.4f}, and trained for {passport['seconds'] / 3600:.2f} hours."
        )


def _differing(one: Mapping[str, Any], other: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """The values that differ, by dotted path."""
    for key in dict.fromkeys([*one, *other]):
        mine, theirs = one.get(key), other.get(key)
        if isinstance(mine, Mapping) and isinstance(theirs, Mapping):
            yield from _differing(mine, theirs, f"{prefix}{key}.")
        elif mine != theirs:
            yield f"{prefix}{key}", mine, theirs


def _told(value: Any) -> str:
    return "not there" if value is None else json.dumps(value)
