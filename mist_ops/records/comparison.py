"""Passports compared: with the files and settings of today, with the folds of today, and with one another."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from mist_ops.config import STEP_VERSIONS, StudyConfig, read_config
from mist_ops.dataset import Fold, read_train_paths
from mist_ops.errors import ConfigError, counted, few
from mist_ops.files import file_hash, json_hash
from mist_ops.records.arrays import ARRAYS, LABELED, case_contents
from mist_ops.records.kept import Kept
from mist_ops.records.passport import Passport, read_passport
from mist_ops.steps import changed_settings, settings
from mist_ops.study import Study


def verify(
    weights: Path,
    study: Study,
    except_cases: Collection[str] = (),
    contents_of: Callable[[str], Collection[str]] | None = None,
    config: StudyConfig | None = None,
) -> list[str]:
    """List what changed since a model was trained: one message each, none if nothing did.

    Compared are the weights, the training settings in config.json, the version of the training code, and the arrays of
    every patient that trained the model or selected its weights.

    Args:
        weights: The file of weights.
        study: Gives settings and arrays.
        except_cases: Patients whose arrays are not compared.
        contents_of: Returns the hashes by which a patient's arrays may be on record; ``case_contents`` by default.
        config: The settings; those of config.json by default.

    Raises:
        ConfigError: As ``read_passport``.
    """
    passport = read_passport(weights)
    return [
        *_changed_weights(weights, passport),
        *_changed_settings(study, passport, config),
        *_changed_code(passport),
        *_changed_arrays(passport, except_cases, contents_of or partial(case_contents, study)),
    ]


def arrays_read(weights: Path) -> frozenset[str]:
    """The arrays of a patient that a model depends on: names of ``ARRAYS``.

    Raises:
        ConfigError: As ``read_passport``.
    """
    passport = read_passport(weights)
    could = passport.config.get("preprocessing", {}).get("compute_dtms", True)
    return frozenset(passport.arrays or (ARRAYS if could else LABELED))


def _changed_weights(weights: Path, passport: Passport) -> Iterator[str]:
    if not weights.is_file():
        yield f"The weights {weights} are missing."
    elif file_hash(weights) != passport.weights:
        yield f"The weights {weights} do not match the passport."


def _changed_settings(study: Study, passport: Passport, config: StudyConfig | None) -> Iterator[str]:
    if config is None and not study.config.is_file():
        yield f"{study.config} is missing, so settings cannot be compared."
        return
    try:
        # Keys of later versions get their defaults, so a passport does not age.
        before = settings(StudyConfig.model_validate(passport.config), "training")
    except ValueError:
        yield "The passport holds settings of another version, so settings cannot be compared."
        return
    changed = changed_settings(before, config or read_config(study.config), "training")
    if changed:
        yield f"{'; '.join(changed.values())}."


def _changed_code(passport: Passport) -> Iterator[str]:
    before, now = passport.version, STEP_VERSIONS["training"]
    if before != now:
        yield f"The training code changed from version {before} to {now}: the same settings give other weights."


def _changed_arrays(
    passport: Passport, except_cases: Collection[str], contents_of: Callable[[str], Collection[str]]
) -> Iterator[str]:
    for part, cases in (("training", passport.content.training), ("validation", passport.content.validation)):
        found = {case_id: contents_of(case_id) for case_id in cases if case_id not in except_cases}
        missing = [case_id for case_id, content in found.items() if not content]
        changed = [case_id for case_id, content in found.items() if content and cases[case_id] not in content]
        if missing:
            yield f"The arrays of {few(missing)} ({part}) are missing."
        if changed:
            yield f"The arrays of {few(changed)} ({part}) changed."


def fold_changes(weights: Path, fold: Fold, patients: Collection[str]) -> list[str]:
    """List the patients that joined or left the training or validation set since a model was trained.

    Args:
        weights: The file of weights.
        fold: The patients that train it and select its weights now.
        patients: All patients of the study; others are gone.

    Raises:
        ConfigError: As ``read_passport``.
    """
    content = read_passport(weights).content
    parts = (("training", content.training, fold.training), ("validation", content.validation, fold.validation))
    everyone = set(patients)
    return [message for part, before, now in parts for message in _membership(part, set(before), set(now), everyone)]


def why_stale(study: Study, config: StudyConfig, fold: Fold) -> list[str]:
    """List why the model of a fold is stale, a missing or invalid passport included; empty if it is current."""
    weights = study.model(fold.index)
    try:
        patients = read_train_paths(study.train_paths).fold_of
        changes = [*fold_changes(weights, fold, patients), *verify(weights, study, config=config)]
    except ConfigError as error:
        return [error.message]
    left = without_kept(Kept(study), weights, changes, partial(case_contents, study))
    return [f"{left}."] if left else []


def without_kept(
    kept: Kept, weights: Path, changes: Sequence[str], contents_of: Callable[[str], Collection[str]]
) -> str:
    """Return what changed since a model was trained without what was kept.

    Args:
        kept: What was kept.
        weights: The file of weights.
        changes: What changed.
        contents_of: Returns the hashes by which a patient's arrays may be on record.

    Raises:
        ConfigError: As ``read_passport``.
    """
    if not weights.is_file():
        return kept.left(("training", weights.stem), changes, None, str)
    passport = read_passport(weights)
    content = {**passport.content.validation, **passport.content.training}
    found = {case_id: contents_of(case_id) for case_id in content}

    def inputs() -> str:
        # Other arrays of the same patient may be added, such as distance maps that the model does not read.
        return json_hash({key: [content[key]] if content[key] in now else sorted(now) for key, now in found.items()})

    return kept.left(("training", weights.stem), changes, passport.weights, inputs)


def _membership(part: str, before: set[str], now: set[str], patients: set[str]) -> Iterator[str]:
    left = before - now
    verbs = (("added", now - before), ("removed", left & patients), ("gone", left - patients))
    changes = [f"{verb}: {few(sorted(cases))}" for verb, cases in verbs if cases]
    if changes:
        yield f"The {part} patients changed ({' and '.join(changes)})."


def differences(first: Passport, second: Passport) -> list[str]:
    """List why two models may score differently, and how their training went.

    Args:
        first: Passport of A.
        second: Passport of B.

    Returns:
        Messages that call them A and B.
    """
    parts = (
        ("train on", first.content.training, second.content.training),
        ("validate on", first.content.validation, second.content.validation),
    )
    return [
        *(message for use, one, other in parts for message in _of_cases(use, one, other)),
        *_of_values(first.config, second.config),
        *_of_values(first.model_dump(mode="json", include=_FACTS), second.model_dump(mode="json", include=_FACTS)),
        *_of_results(first, second),
    ]


_FACTS = {"fold", "seed", "mist_version", "version", "device", "processes", "versions", "pretrained", "changes"}


def _of_cases(use: str, one: Mapping[str, str], other: Mapping[str, str]) -> Iterator[str]:
    verb, preposition = use.split()
    for name, mine, theirs in (("A", one, other), ("B", other, one)):
        alone = sorted(set(mine) - set(theirs))
        if alone:
            yield f"Only {name} {verb}s {preposition} {counted(len(alone), 'patient')}: {few(alone)}."
    altered = sorted(case_id for case_id in set(one) & set(other) if one[case_id] != other[case_id])
    if altered:
        yield f"Both {use} {few(altered)}, but with different arrays."


def _of_values(first: Mapping[str, Any], second: Mapping[str, Any]) -> Iterator[str]:
    for key, one, other in _differing(first, second):
        yield f"{key} is {_formatted(one)} for A and {_formatted(other)} for B."


def _of_results(first: Passport, second: Passport) -> Iterator[str]:
    if first.weights == second.weights:
        yield "The weights are identical."
        return
    for name, passport in (("A", first), ("B", second)):
        yield (
            f"{name}: best epoch {passport.best.index + 1} of {len(passport.history)}, validation loss "
            f"{passport.best_loss:.4f}, training time {passport.seconds / 3600:.1f} h."
        )


def _differing(one: Mapping[str, Any], other: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """The values that differ, by dotted path."""
    for key in dict.fromkeys([*one, *other]):
        mine, theirs = one.get(key), other.get(key)
        if isinstance(mine, Mapping) and isinstance(theirs, Mapping):
            yield from _differing(mine, theirs, f"{prefix}{key}.")
        elif mine != theirs:
            yield f"{prefix}{key}", mine, theirs


def _formatted(value: Any) -> str:
    return "not set" if value is None else json.dumps(value)
