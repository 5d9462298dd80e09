"""The whole analysis of a study: every case measured once, then everything that follows from it written together."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any

from pydantic import Field

from mist_ops.analysis.fingerprint import CaseFingerprint, HuStatistics, measure
from mist_ops.analysis.folds import assign_folds, check_nfolds, default_nfolds
from mist_ops.analysis.plan import plan, warnings
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
    patient_folders,
    read_description,
    read_patient_table,
    read_train_paths,
    write_test_paths,
    write_train_paths,
)
from mist_ops.errors import ConfigError, DatasetError, few, listing
from mist_ops.files import write_json
from mist_ops.registry import MODELS
from mist_ops.schema import Section, read_checked
from mist_ops.study import Study
from mist_ops.types import Box
from mist_ops.workers import Outcome, outcomes


class Fingerprint(Section):
    """What fingerprint.json holds."""

    plan: Annotated[StudyConfig, Field(description="config.json as planned, before anyone's edits.")]
    cases: Annotated[dict[str, CaseFingerprint], Field(description="Measurements by id, of the cases in use.")]
    excluded: Annotated[dict[str, list[str]], Field(description="Reasons against the cases that were left out.")]
    warnings: Annotated[list[str], Field(description="What should be known before going on.")]
    folds: dict[str, int] = Field(default_factory=dict, description="The fold of each case, before anyone's edits.")
    data: Annotated[str | None, Field(description="dataset.json, as the tables name files.")] = None


EDITED = "edited by hand"
"""Who decided on a fold that is not the analysis's."""

Measured = Outcome[Case, CaseFingerprint]

_log = logging.getLogger(__name__)


def analyze(
    study: Study,
    *,
    workers: int = 1,
    check: bool = False,
    fresh: bool = False,
    overrides: Mapping[str, Any] = MappingProxyType({}),
) -> Iterator[Measured]:
    """Measure the training cases and, once all are measured, write the configuration, the folds and the boxes.

    Whatever can be found out without reading an image is checked before this returns. The files are written when the
    iterator is exhausted, all or none; an analysis that fails leaves an earlier one as it was.

    Args:
        study: With its dataset.json.
        workers: Processes that read cases.
        check: Look for everything that ``verify`` finds, and leave out the cases that fail. They are recorded in
            fingerprint.json with the reasons.
        fresh: Forget the edits that were made to config.json since it was planned, and the folds of an earlier
            analysis. Otherwise both are kept, and cases that are new go to the smallest folds.
        overrides: Settings at dotted paths that win over both; they count as edits from now on.

    Yields:
        What became of each case, as soon as it is known, in the order of the ids.

    Raises:
        DatasetError: The dataset cannot be used as described, or, at the end, a case cannot be used (without
            ``check``), or none can.
        ConfigError: A setting that is none, or more folds than cases.
    """
    if study.data is None:
        raise ConfigError(f"The dataset.json of '{study.name}' is not known. Name it with --data.")
    description = read_description(study.data)
    cases, tests = find_training_cases(description), find_test_cases(description)
    table = read_patient_table(description)
    nfolds, chosen = _choices(study, fresh, overrides, default_nfolds([case.id for case in cases], table))
    check_nfolds(nfolds, len(cases))
    earlier = {} if fresh else _earlier_folds(study, nfolds)
    known = replace(table, fold_of={**earlier, **table.fold_of})
    # Only to refuse settings that are none, and folds that there cannot be.
    plan([_ANY_CASE], description, nfolds, chosen)
    assign_folds([case.id for case in cases], nfolds, known)
    notes = list(_notes(description, table, cases, tests))

    def run() -> Iterator[Measured]:
        measured = []
        for outcome in outcomes(partial(measure, description=description, thorough=check), cases, workers):
            measured.append(outcome)
            yield outcome
        good, excluded = _sorted_out(measured, check)
        folds = assign_folds(list(good), nfolds, known)
        by_id = {case.id: case for case in cases}
        groups = {case_id: known.group_of[case_id] for case_id in folds if case_id in known.group_of}
        assignment = Assignment(tuple(by_id[case_id] for case_id in folds), folds, groups)
        fingerprint, config = _conclusion(good, excluded, description, nfolds, chosen, notes)
        unedited = {} if fresh else _unedited_folds(study, table)
        drawn = {
            case_id: unedited.get(case_id, fold) if case_id in earlier else fold for case_id, fold in folds.items()
        }
        _write(study, fingerprint.model_copy(update={"folds": drawn}), config, assignment, tests)

    return run()


def read_fingerprint(study: Study) -> Fingerprint:
    """What the last analysis measured and planned."""
    try:
        return read_checked(study.fingerprint, Fingerprint, ConfigError)
    except ConfigError as error:
        raise ConfigError(f"{error} Or analyze the dataset anew, with --overwrite.") from error


def find_leaks(study: Study) -> list[str]:
    """Images and groups that the folds as they are now both train on and hold out.

    Which images are the same is not known of a study from elsewhere.
    """
    assignment = read_train_paths(study.train_paths)
    divided = divided_groups(assignment)
    if not study.fingerprint.is_file():
        return divided
    contents = {case_id: case.content for case_id, case in read_fingerprint(study).cases.items()}
    return [*divided, *leaks(contents, assignment.fold_of)]


def unseen_patients(study: Study) -> list[str]:
    """Ids of the patients that came to the dataset since it was analyzed; none where it is not there (any more)."""
    try:
        folder = read_description(study.data).train_data if study.data else None
    except DatasetError:
        return []
    excluded = read_fingerprint(study).excluded if study.fingerprint.is_file() else {}
    seen = {*read_train_paths(study.train_paths).fold_of, *excluded}
    return [path.name for path in patient_folders(folder) if path.name not in seen] if folder else []


def fold_origins(study: Study) -> dict[str, str]:
    """Who decided on the fold of each case: ``drawn``, ``table of patients`` or ``EDITED``."""
    decided = read_patient_table(read_description(study.data)).fold_of if study.data else {}
    unedited = read_fingerprint(study).folds if study.fingerprint.is_file() else {}
    fold_of = read_train_paths(study.train_paths).fold_of
    return {
        case_id: EDITED
        if unedited.get(case_id, fold) != fold
        else "table of patients"
        if decided.get(case_id) == fold
        else "drawn"
        for case_id, fold in fold_of.items()
    }


def _notes(
    description: DatasetDescription, table: PatientTable, cases: Sequence[Case], tests: Sequence[Case]
) -> Iterator[str]:
    """What should be known of a dataset, as far as no image need be read for it."""
    away = linked_away(cases, description.train_data)
    if description.test_data:
        away += linked_away(tests, description.test_data)
    if away:
        yield (
            f"Files of {few(away)} lie outside the dataset's folders, where links lead. They are read there; a copy of "
            "the folders does not hold them."
        )
    unknown = sorted(table.ids - {case.id for case in (*cases, *tests)})
    if unknown:
        yield f"{description.patients} names {few(unknown)}, which the dataset does not hold. Is an id misspelled?"


def _earlier_folds(study: Study, nfolds: int) -> dict[str, int]:
    """The folds as they are now; none if there are to be more or fewer."""
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
    """The number of folds, by default ``nfolds``, and the settings, at dotted paths, that a person has decided."""
    kept: dict[str, Any] = {}
    if study.config.exists() and not fresh:
        config = read_config(study.config)
        nfolds, kept = config.training.nfolds, edits(_last_plan(study), config)
    chosen = {**kept, **overrides}
    nfolds = chosen.pop("training.nfolds", nfolds)
    # What is in the dataset is for dataset.json to say.
    foreign = ("mist_version", "dataset_info")
    return nfolds, {path: value for path, value in chosen.items() if not path.startswith(foreign)}


def _last_plan(study: Study) -> StudyConfig:
    if not study.fingerprint.exists():
        raise ConfigError(
            f"{study.config} exists but {study.fingerprint.name} does not, so its edits cannot be told "
            "from what was planned. Analyze with --overwrite, or into another folder."
        )
    return read_fingerprint(study).plan


def _sorted_out(measured: Sequence[Measured], exclude: bool) -> tuple[dict[str, CaseFingerprint], dict[str, list[str]]]:
    """The measurements, and the reasons against the cases that have none, by id."""
    good = {outcome.item.id: outcome.result for outcome in measured if outcome.result}
    bad = [outcome.error for outcome in measured if outcome.error]
    if bad and not (exclude and good):
        advice = "Correct them." if exclude else "Correct them, or leave them out with --verify."
        raise DatasetError(
            f"{len(bad)} of {len(measured)} cases cannot be used, and nothing was written. {advice} "
            + listing([str(error) for error in bad])
        )
    return good, {outcome.item.id: _reasons(outcome.error) for outcome in measured if outcome.error}


def _reasons(error: Exception) -> list[str]:
    return [*error.problems] if isinstance(error, UnusableCase) else [str(error)]


def _conclusion(
    good: Mapping[str, CaseFingerprint],
    excluded: dict[str, list[str]],
    description: DatasetDescription,
    nfolds: int,
    chosen: Mapping[str, Any],
    notes: Sequence[str],
) -> tuple[Fingerprint, StudyConfig]:
    cases = list(good.values())
    config = plan(cases, description, nfolds, chosen)
    spatial = config.spatial_config
    MODELS[config.model.architecture].check_patch_size(spatial.patch_size, spatial.target_spacing)
    # What follows from an edit is planned; only the edits themselves differ from the plan, and so are kept next time.
    unedited = edits(config, plan(cases, description, nfolds))
    planned = override(config, {path: value for path, value in unedited.items() if path in chosen})
    found = [*notes, *warnings(cases, config), *repeated_images({case.id: case.content for case in cases})]
    return Fingerprint(plan=planned, cases=dict(good), excluded=excluded, warnings=found), config


def _write(
    study: Study, fingerprint: Fingerprint, config: StudyConfig, assignment: Assignment, tests: Sequence[Case]
) -> None:
    """Write everything beside the results, then put it in their place; config.json last."""
    study.results.mkdir(parents=True, exist_ok=True)
    cases = [fingerprint.cases[case.id] for case in assignment.cases]
    with tempfile.TemporaryDirectory(prefix=".tmp-", dir=study.results) as temporary:
        staged = replace(study, results=Path(temporary))
        base = study.results if study.data and is_movable(study.data) else None
        data = os.path.relpath(study.data, base) if study.data and base else str(study.data)
        write_train_paths(staged.train_paths, assignment, base)
        write_boxes(staged, {case.id: case.box for case in cases}, {case.id: case.size for case in cases})
        write_json(staged.fingerprint, fingerprint.model_copy(update={"data": data}).model_dump(mode="json"))
        write_config(staged.config, config)
        if tests:
            write_test_paths(staged.test_paths, tests, base)
        else:
            study.test_paths.unlink(missing_ok=True)
        for path in sorted(Path(temporary).iterdir(), key=lambda path: path == staged.config):
            path.replace(study.results / path.name)
    for note in fingerprint.warnings:
        _log.warning("%s", note)
