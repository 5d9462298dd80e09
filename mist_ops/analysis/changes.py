"""What changed in the dataset of a study since its analysis, and what an update will make of it, without any image."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mist_ops.analysis.analyze import read_planned
from mist_ops.analysis.folds import assign_folds
from mist_ops.analysis.plan import class_settings
from mist_ops.config import StudyConfig, override, read_config
from mist_ops.dataset import (
    Assignment,
    Case,
    DatasetDescription,
    PatientTable,
    listed_cases,
    listed_tests,
    read_description,
    read_paths,
    read_patient_table,
    read_train_paths,
)
from mist_ops.errors import DatasetError, MistError
from mist_ops.steps import worded
from mist_ops.study import Study

NEW, GONE = "new in the dataset", "gone"
"""Why an analysis needs an update."""

DESCRIPTION = "dataset.json"


@dataclass(frozen=True)
class Analyzed:
    """The settings, the training patients with their folds, and the test patients of a study."""

    config: StudyConfig
    assignment: Assignment
    tests: tuple[Case, ...] = ()


@dataclass(frozen=True)
class Update:
    """What ``mist_analyze --update`` will write, without what requires reading images, and why.

    Attributes:
        result: The study after the update.
        reasons: What changed in the dataset, by patient id and ``DESCRIPTION``; a test patient is ``001 (test)``.
    """

    result: Analyzed
    reasons: Mapping[str, str] = field(default_factory=dict)


def read_analyzed(study: Study) -> Analyzed:
    """Read what the analysis of a study wrote."""
    config = read_config(study.config)
    tests = read_paths(study.test_paths, config.dataset_info.images) if study.test_paths.is_file() else []
    return Analyzed(config, read_train_paths(study.train_paths), tuple(tests))


def pending_update(study: Study, before: Analyzed) -> Update:
    """Compare the dataset with what its analysis wrote.

    Nothing changed if dataset.json cannot be used, or if a folder holds no patients, as one that is not mounted.

    Args:
        study: With its dataset.json.
        before: What the analysis wrote.
    """
    known = read_planned(study) if study.fingerprint.is_file() else None
    try:
        if study.data is None:
            return Update(before)
        description = read_description(study.data)
        listed, table = listed_cases(description), read_patient_table(description)
        tests = listed_tests(description)
        if not listed or (description.test_data and not tests):
            return Update(before)
    except DatasetError:
        return Update(before)
    excluded = known.excluded if known else {}
    listed = {case_id: case for case_id, case in listed.items() if case_id not in excluded}
    plan = known.plan if known else before.config
    config, described = _configured(before.config, plan, description)
    patterns = {**description.patterns, **(known.patterns if known else {})}
    found_otherwise = [name for name, strings in description.patterns.items() if patterns[name] != strings]
    assignment, training = _assigned(before, listed, table, found_otherwise)
    present, of_tests = _tests(before.tests, tests, found_otherwise)
    reasons = {**training, **{f"{case_id} (test)": reason for case_id, reason in of_tests.items()}}
    return Update(Analyzed(config, assignment, present), {**({DESCRIPTION: described} if described else {}), **reasons})


def without(assignment: Assignment, ids: Collection[str]) -> Assignment:
    """An assignment without some cases."""
    return replace(
        assignment,
        cases=tuple(case for case in assignment.cases if case.id not in ids),
        fold_of={case_id: fold for case_id, fold in assignment.fold_of.items() if case_id not in ids},
        group_of={case_id: group for case_id, group in assignment.group_of.items() if case_id not in ids},
    )


def _configured(config: StudyConfig, plan: StudyConfig, description: DatasetDescription) -> tuple[StudyConfig, str]:
    """Return the settings after the update, and what dataset.json says otherwise than at the analysis."""
    before, now = _described(plan), {**_facts(description), "final_classes": description.classes}
    differing = [path for path in now if before[path] != now[path]]
    if not differing:
        return config, ""
    changed: dict[str, Any] = {path: now[path] for path in differing if path.startswith("dataset_info.")}
    channels = {"in_channels": len(description.images), "out_channels": len(description.labels)}
    changed["model.params"] = config.model.params.model_dump() | channels
    if "final_classes" in differing and config.evaluation == plan.evaluation:
        changed["evaluation"] = {name: of.model_dump() for name, of in class_settings(description).items()}
    messages = [message for path in differing for message in worded(path, before[path], now[path])]
    return override(config, changed), "; ".join(messages)


def _described(plan: StudyConfig) -> dict[str, Any]:
    info = plan.dataset_info.model_dump()
    classes = {name: of.labels for name, of in plan.evaluation.items()}
    return {**{f"dataset_info.{name}": value for name, value in info.items()}, "final_classes": classes}


def _facts(description: DatasetDescription) -> dict[str, Any]:
    return {
        "dataset_info.task": description.task,
        "dataset_info.modality": description.modality,
        "dataset_info.images": list(description.images),
        "dataset_info.labels": list(description.labels),
    }


def _assigned(
    before: Analyzed, listed: Mapping[str, Case | None], table: PatientTable, found_otherwise: Collection[str]
) -> tuple[Assignment, dict[str, str]]:
    """Return the training patients after the update, and why each of them is another."""
    old = before.assignment
    reasons = {case_id: GONE for case_id in old.fold_of if case_id not in listed}
    reasons |= {case_id: NEW for case_id in listed if case_id not in old.fold_of}
    kept = {case.id: _moved(case, listed[case.id], found_otherwise, reasons) for case in old.cases if case.id in listed}
    # A new patient whose files are missing or ambiguous is an error of the update.
    cases = {**kept, **{case_id: case for case_id, case in listed.items() if case and case_id not in old.fold_of}}
    groups = {case_id: table.group_of[case_id] for case_id in cases if case_id in table.group_of}
    for case_id in kept:
        if groups.get(case_id) != old.group_of.get(case_id):
            reasons.setdefault(case_id, "another group in the table of patients")
    folds = {case_id: old.fold_of[case_id] for case_id in kept}
    if cases.keys() != folds.keys() or any(table.fold_of.get(case_id, fold) != fold for case_id, fold in folds.items()):
        known = replace(table, fold_of={**old.fold_of, **table.fold_of})
        try:
            folds = assign_folds(list(cases), before.config.training.nfolds, known)
        except MistError:  # reported by the update
            return without(old, [case_id for case_id, reason in reasons.items() if reason == GONE]), reasons
    for case_id in kept:
        if folds[case_id] != old.fold_of[case_id]:
            reasons.setdefault(case_id, f"fold {folds[case_id]} in the table of patients")
    return Assignment(tuple(cases[case_id] for case_id in folds), folds, groups), reasons


def _tests(
    before: Iterable[Case], listed: Mapping[str, Case | None], found_otherwise: Collection[str]
) -> tuple[tuple[Case, ...], dict[str, str]]:
    """Return the test patients after the update, and why each of them is another."""
    old = {case.id: case for case in before}
    reasons = {case_id: GONE for case_id in old if case_id not in listed}
    reasons |= {case_id: NEW for case_id in listed if case_id not in old}
    cases = [
        _moved(old[case_id], case, found_otherwise, reasons) if case_id in old else case
        for case_id, case in sorted(listed.items())
    ]
    return tuple(case for case in cases if case), reasons


def _moved(before: Case, now: Case | None, found_otherwise: Collection[str], reasons: dict[str, str]) -> Case:
    """Return a patient with the files that dataset.json finds, where it finds others than the analysis.

    Paths that were edited in the table are kept.

    Args:
        before: The patient of the table.
        now: The patient of the dataset; None if its files are missing or ambiguous.
        found_otherwise: Channels, and the "mask", that dataset.json identifies by other strings than at the analysis.
        reasons: Gets why the patient is another.
    """
    if now is None:
        return before
    old, new = _files(before), _files(now)
    others = [
        name
        for name, path in old.items()
        if name in new and (name in found_otherwise or not path.is_file()) and path.resolve() != new[name].resolve()
    ]
    if others:
        names = " and ".join(f"its {name}" for name in others)
        reasons[before.id] = f"{names} {'is another file' if len(others) == 1 else 'are other files'}"
    files = {name: new[name] if name in others else old.get(name, new[name]) for name in new}
    mask = files.pop("mask", None)
    return Case(now.id, files, mask)


def _files(case: Case) -> dict[str, Path]:
    return {**case.images, **({"mask": case.mask} if case.mask else {})}
