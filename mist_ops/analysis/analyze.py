"""Analysis of a study: measure every case, plan the configuration, and assign cases to folds."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from types import MappingProxyType
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from mist_ops.analysis.fingerprint import CaseFingerprint, HuStatistics, measure
from mist_ops.analysis.folds import assign_folds, check_nfolds, default_nfolds
from mist_ops.analysis.plan import alternatives, describe_alternatives, kept, plan, warnings
from mist_ops.analysis.verify import UnusableCase, divided_groups, leaks, repeated_images
from mist_ops.boxes import write_boxes
from mist_ops.config import StudyConfig, edits, override, read_config, write_config
from mist_ops.dataset import (
    Assignment,
    Case,
    DatasetDescription,
    PatientTable,
    find_test_cases,
    find_training_cases,
    is_movable,
    linked_away,
    read_description,
    read_patient_table,
    read_train_paths,
    write_test_paths,
    write_train_paths,
)
from mist_ops.errors import ConfigError, DatasetError, MistError, counted, few, listing
from mist_ops.files import temporary_folder, together, write_json
from mist_ops.imaging.nifti import seconds_for
from mist_ops.registry import MODELS
from mist_ops.schema import Section, read_checked
from mist_ops.study import Study, record_dataset
from mist_ops.types import Box
from mist_ops.workers import Outcome, outcomes, worthwhile


class Fingerprint(Section):
    """Contents of fingerprint.json."""

    plan: Annotated[StudyConfig, Field(description="config.json as planned, before edits.")]
    cases: Annotated[dict[str, CaseFingerprint], Field(description="Measurements by id of the cases in use.")]
    excluded: Annotated[dict[str, list[str]], Field(description="Reasons by id of the excluded cases.")]
    warnings: Annotated[list[str], Field(description="Findings that need attention.")]
    folds: dict[str, int] = Field(default_factory=dict, description="Fold of each case as assigned, before edits.")
    data: Annotated[str | None, Field(description="Path of dataset.json, relative like those in the tables.")] = None
    patterns: dict[str, list[str]] = Field(
        default_factory=dict, description="Strings that identify the file of each channel and of the mask."
    )
    alternatives: dict[str, Any] = Field(
        default_factory=dict,
        description="What a fresh analysis would choose, by dotted path, where the plan of an earlier one was kept.",
    )


EDITED = "edited by hand"
"""Origin of a fold that was edited in train_paths.csv."""

Measured = Outcome[Case, CaseFingerprint]
_Model = TypeVar("_Model", bound=BaseModel)

_log = logging.getLogger(__name__)


def analyze(
    study: Study,
    *,
    workers: int = 1,
    check: bool = False,
    fresh: bool = False,
    replan: bool = False,
    overrides: Mapping[str, Any] = MappingProxyType({}),
) -> Iterator[Measured]:
    """Measure the training cases; when exhausted, write the configuration, the folds and the foreground boxes.

    Everything that does not require reading an image is checked on the call. Either all files are written or none; a
    failed analysis keeps an earlier one.

    Args:
        study: With its dataset.json.
        workers: Processes that read cases.
        check: Check everything that ``verify`` checks, and exclude the cases that fail. fingerprint.json lists them
            with the reasons. An analysis after one that excluded cases always does.
        fresh: Discard edits of config.json and the folds and plan of an earlier analysis. By default these are kept,
            and new cases are assigned to the smallest folds.
        replan: Plan the ``MEASURED`` settings again, which arrays and models depend on. By default those of an
            earlier plan are kept, and fingerprint.json lists what would be chosen instead.
        overrides: Settings by dotted path that take precedence over both; they are kept as edits.

    Yields:
        The outcome of each case, in the order of the ids.

    Raises:
        DatasetError: The dataset cannot be used as described, or, at the end, a case cannot be used (without
            ``check``) or none can.
        ConfigError: A setting is invalid, or there are more folds than cases.
    """
    if study.data is None:
        raise ConfigError(
            f"The dataset.json of '{study.name}' is unknown. Pass it with --data.", code="dataset-unknown"
        )
    description = read_description(study.data)
    cases, tests = find_training_cases(description), find_test_cases(description)
    table = read_patient_table(description)
    nfolds, chosen = _choices(study, fresh, overrides, default_nfolds([case.id for case in cases], table))
    base = {} if fresh or replan else _kept(study, description, overrides)
    check = check or bool(not fresh and study.fingerprint.is_file() and read_fingerprint(study).excluded)
    check_nfolds(nfolds, len(cases))
    earlier = {} if fresh else _earlier_folds(study, nfolds)
    known = replace(table, fold_of={**earlier, **table.fold_of})
    # Validates settings and folds before images are read.
    plan([_ANY_CASE], description, nfolds, chosen, base)
    assign_folds([case.id for case in cases], nfolds, known)
    notes = list(_notes(description, table, cases, tests))

    def run() -> Iterator[Measured]:
        measured = []
        needed = worthwhile(workers, len(cases), seconds_for(cases[0].files))
        for outcome in outcomes(partial(measure, description=description, thorough=check), cases, needed):
            measured.append(outcome)
            yield outcome
        good, excluded = _partition(measured, check)
        folds = assign_folds(list(good), nfolds, known)
        by_id = {case.id: case for case in cases}
        groups = {case_id: known.group_of[case_id] for case_id in folds if case_id in known.group_of}
        assignment = Assignment(tuple(by_id[case_id] for case_id in folds), folds, groups)
        fingerprint, config = _planned(good, excluded, description, nfolds, chosen, base)
        fingerprint = fingerprint.model_copy(update={"warnings": [*notes, *fingerprint.warnings]})
        unedited = {} if fresh else _unedited_folds(study, table)
        drawn = {
            case_id: unedited.get(case_id, fold) if case_id in earlier else fold for case_id, fold in folds.items()
        }
        _write(study, fingerprint.model_copy(update={"folds": drawn}), config, assignment, tests)

    return run()


class Planned(BaseModel):
    """What fingerprint.json says of the plan; of thousands of patients, it is read in half of the time."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    plan: StudyConfig
    excluded: dict[str, list[str]]
    patterns: dict[str, list[str]] = {}


def read_fingerprint(study: Study) -> Fingerprint:
    """Read fingerprint.json."""
    return _read(study, Fingerprint)


def read_planned(study: Study) -> Planned:
    """Read the plan in fingerprint.json."""
    return _read(study, Planned)


def _read(study: Study, model: type[_Model]) -> _Model:
    try:
        return read_checked(study.fingerprint, model, ConfigError)
    except ConfigError as error:
        raise ConfigError(f"{error.message} Or run the analysis again with --overwrite.", **error.facts) from error


def kept_settings(study: Study) -> list[str]:
    """Describe the settings of an earlier plan that the last analysis kept and a fresh one would choose otherwise."""
    return describe_alternatives(read_config(study.config), read_fingerprint(study).alternatives)


def find_leaks(study: Study) -> list[str]:
    """Describe images and groups that the current folds both train on and hold out.

    Without fingerprint.json, equal images are not detected.
    """
    assignment = read_train_paths(study.train_paths)
    divided = divided_groups(assignment)
    if not study.fingerprint.is_file():
        return divided
    contents = {case_id: case.content for case_id, case in read_fingerprint(study).cases.items()}
    return [*divided, *leaks(contents, assignment.fold_of)]


def fold_origins(study: Study) -> dict[str, str]:
    """Origin of each case's fold: ``drawn``, ``table of patients`` or ``EDITED``."""
    given = read_patient_table(read_description(study.data)).fold_of if study.data else {}
    unedited = read_fingerprint(study).folds if study.fingerprint.is_file() else {}
    fold_of = read_train_paths(study.train_paths).fold_of
    return {
        case_id: EDITED
        if unedited.get(case_id, fold) != fold
        else "table of patients"
        if given.get(case_id) == fold
        else "drawn"
        for case_id, fold in fold_of.items()
    }


def _notes(
    description: DatasetDescription, table: PatientTable, cases: Sequence[Case], tests: Sequence[Case]
) -> Iterator[str]:
    """Yield findings that do not require reading an image."""
    away = linked_away(cases, description.train_data)
    if description.test_data:
        away += linked_away(tests, description.test_data)
    if away:
        yield (
            f"Files of {few(away)} are links to files outside the dataset's folders. A copy of the folders will not "
            "contain them."
        )
    unknown = sorted(table.ids - {case.id for case in (*cases, *tests)})
    if unknown:
        yield f"{description.patients} lists {few(unknown)}, not in the dataset. Check the ids for typos."


def _earlier_folds(study: Study, nfolds: int) -> dict[str, int]:
    """Return the current folds; none if their number changes."""
    if not study.train_paths.exists() or read_config(study.config).training.nfolds != nfolds:
        return {}
    return dict(read_train_paths(study.train_paths).fold_of)


def _unedited_folds(study: Study, table: PatientTable) -> dict[str, int]:
    known = read_fingerprint(study).folds if study.fingerprint.exists() else {}
    return {case_id: fold for case_id, fold in known.items() if case_id not in table.fold_of}


_ANY_CASE = CaseFingerprint(
    id="any",
    size=(64, 64, 64),
    spacing=(1.0, 1.0, 1.0),
    axes=(0, 1, 2),
    box=Box.whole((64, 64, 64)),
    nonzero_fraction=1.0,
    labels={},
    content="",
    hu=HuStatistics(count=1, mean=0.0, m2=0.0, first=0, counts=[1]),
)


def _choices(study: Study, fresh: bool, overrides: Mapping[str, Any], nfolds: int) -> tuple[int, dict[str, Any]]:
    """Return the number of folds, by default ``nfolds``, and edits and overrides by dotted path."""
    kept: dict[str, Any] = {}
    if study.config.exists() and not fresh:
        config = read_config(study.config)
        nfolds, kept = config.training.nfolds, edits(_last_plan(study), config)
    chosen = {**kept, **overrides}
    nfolds = chosen.pop("training.nfolds", nfolds)
    # These come from dataset.json and from this program.
    fixed = ("mist_version", "dataset_info")
    return nfolds, {path: value for path, value in chosen.items() if not path.startswith(fixed)}


def _kept(study: Study, description: DatasetDescription, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of an earlier plan to keep, none without one."""
    if not study.config.exists():
        return {}
    return kept(_last_plan(study), read_config(study.config), description, overrides)


def _last_plan(study: Study) -> StudyConfig:
    if not study.fingerprint.exists():
        raise ConfigError(
            f"{study.config} exists, but {study.fingerprint.name} does not, so its edits are unknown. Run the analysis "
            "with --overwrite, or choose another folder with --results.",
            code="fingerprint-missing",
            file=study.fingerprint,
        )
    return read_fingerprint(study).plan


def _partition(measured: Sequence[Measured], exclude: bool) -> tuple[dict[str, CaseFingerprint], dict[str, list[str]]]:
    """Return the measurements, and the reasons of the cases that have none, by id."""
    good = {outcome.item.id: outcome.result for outcome in measured if outcome.result}
    bad = [outcome.error for outcome in measured if outcome.error]
    if bad and not (exclude and good):
        counts = f"{len(bad)} of {counted(len(measured), 'case')} cannot be used, and nothing was written"
        start = f"{counts}{'' if exclude else '; --verify excludes such cases'}: "
        if len(bad) == 1 and isinstance(bad[0], MistError):
            raise DatasetError(start + bad[0].message, **bad[0].facts) from bad[0]
        ids = [outcome.item.id for outcome in measured if outcome.error]
        raise DatasetError(start + listing([str(error) for error in bad]), code="cases-unusable", found=ids)
    return good, {outcome.item.id: _reasons(outcome.error) for outcome in measured if outcome.error}


def _reasons(error: Exception) -> list[str]:
    return [str(problem.error) for problem in error.problems] if isinstance(error, UnusableCase) else [str(error)]


def _planned(
    good: Mapping[str, CaseFingerprint],
    excluded: dict[str, list[str]],
    description: DatasetDescription,
    nfolds: int,
    chosen: Mapping[str, Any],
    base: Mapping[str, Any],
) -> tuple[Fingerprint, StudyConfig]:
    cases = list(good.values())
    config = plan(cases, description, nfolds, chosen, base)
    spatial = config.spatial_config
    MODELS[config.model.architecture].check_patch_size(spatial.patch_size, spatial.target_spacing)
    # Settings that depend on an edit are planned as well, so that only the edit itself differs from the plan.
    unedited = edits(config, plan(cases, description, nfolds, base=base))
    planned = override(config, {path: value for path, value in unedited.items() if path in chosen})
    found = [*warnings(cases, config), *repeated_images({case.id: case.content for case in cases})]
    others = alternatives(config, plan(cases, description, nfolds, chosen)) if base else {}
    fingerprint = Fingerprint(
        plan=planned,
        cases=dict(good),
        excluded=excluded,
        warnings=found,
        patterns=description.patterns,
        alternatives=others,
    )
    return fingerprint, config


def _write(
    study: Study, fingerprint: Fingerprint, config: StudyConfig, assignment: Assignment, tests: Sequence[Case]
) -> None:
    """Write all files to a temporary folder, then move them to the results."""
    cases = [fingerprint.cases[case.id] for case in assignment.cases]
    with temporary_folder(study.results) as temporary, together(study.results) as files:
        staged = replace(study, results=temporary)
        base = study.results if study.data and is_movable(study.data) else None
        data = os.path.relpath(study.data, base) if study.data and base else str(study.data)
        write_train_paths(staged.train_paths, assignment, base)
        write_boxes(staged, {case.id: case.box for case in cases}, {case.id: case.size for case in cases})
        write_json(staged.fingerprint, fingerprint.model_copy(update={"data": data}).model_dump(mode="json"))
        write_config(staged.config, config)
        if tests:
            write_test_paths(staged.test_paths, tests, base)
        else:
            files.remove(study.test_paths)
        for path in temporary.iterdir():
            files.move(path, study.results / path.name)
    if study.data:
        record_dataset(study.results, study.data)
    for note in fingerprint.warnings:
        _log.warning("%s", note)
