"""Why the artifacts of each stage are stale: functions of an inspection, or of the parts of it that they need.

Files decide, not Dagster's records, which may be lost or belong to another machine.
"""

from collections.abc import Iterator, Mapping

from mist_dagster.partitions import fold_key
from mist_dagster.stages.inspection import Inspection
from mist_ops.analysis.folds import make_fold
from mist_ops.config import STEP_VERSIONS
from mist_ops.dataset import Fold
from mist_ops.errors import ConfigError, counted, few
from mist_ops.evaluation.table import summary_path
from mist_ops.files import file_hash
from mist_ops.records.arrays import IMAGE, changed_arrays, input_hashes
from mist_ops.records.comparison import arrays_read, fold_changes, verify, without_kept
from mist_ops.records.prediction import read_prediction_record, stale_predictions, stale_test_predictions
from mist_ops.records.scores import ScoreInputs, read_score_inputs
from mist_ops.steps import settings


def analysis(seen: Inspection) -> dict[str, str]:
    """Patients that the analysis did not see, or that are gone, and other changes of the dataset."""
    return dict(seen.dataset_changes)


def arrays(seen: Inspection) -> dict[str, str]:
    """Patients whose arrays are missing, or were made from other files or settings."""
    seen.changed = changed_arrays(seen.study, seen.config, seen.assignment.cases, seen.kept)
    return {case_id: change.reason for case_id, change in seen.changed.items()}


def models(seen: Inspection) -> dict[str, str]:
    """Folds without a model, or whose model was trained with other cases, arrays or settings."""
    reasons = {fold_key(fold): _model(seen, fold) for fold in seen.config.training.folds}
    return {fold: reason for fold, reason in reasons.items() if reason}


def _model(seen: Inspection, index: int) -> str:
    weights, changes = seen.study.model(index), list(_of_fold(seen, index))
    if not changes:
        return ""
    try:
        return without_kept(seen.kept, weights, changes, seen.contents_of)
    except ConfigError:  # without a passport, which is what changed
        return "; ".join(change.rstrip(".") for change in changes)


def _of_fold(seen: Inspection, index: int) -> Iterator[str]:
    study, training = seen.study, seen.config.training
    if not study.model(index).is_file():
        yield "it has no model"
        return
    if not study.passport(index).is_file():
        yield f"the origin of its model is not on record ({study.passport(index)} is missing)"
        return
    try:
        fold = make_fold(
            seen.assignment, index, training.val_percent, training.seed_of_validation, training.validation_cases
        )
        stale = seen.arrays_changed(arrays_read(study.model(index)))
        yield from _stale_parts(fold, stale)
        yield from fold_changes(study.model(index), fold, seen.assignment.fold_of)
        # Arrays that preprocessing will rewrite are covered by its own reasons.
        yield from verify(study.model(index), study, stale, seen.contents_of, seen.config)
    except ConfigError as error:  # the other folds are inspected all the same
        yield error.message


def _stale_parts(fold: Fold, patients: Mapping[str, str]) -> Iterator[str]:
    for use, ids in (("in its training set", fold.training), ("in its validation set", fold.validation)):
        for reason, those in by_reason({case_id: patients[case_id] for case_id in ids if case_id in patients}).items():
            yield f"{counted(len(those), 'patient')} {use} ({few(those)}): {reason}"


def held_out(seen: Inspection) -> dict[str, str]:
    """Training patients whose cross-validation prediction is missing or stale."""
    reasons = dict(stale_predictions(seen.study, seen.config, seen.assignment, seen.weights, seen.kept))
    stale = seen.arrays_changed(IMAGE)
    for case_id, fold in seen.assignment.fold_of.items():
        if fold in seen.weights and case_id in stale:
            reasons[case_id] = stale[case_id]
        elif fold in seen.config.training.folds and fold not in seen.weights:
            reasons[case_id] = f"fold {fold} needs training"
    return {case.id: reasons[case.id] for case in seen.assignment.cases if case.id in reasons}


def tests(seen: Inspection) -> dict[str, str]:
    """Test patients whose prediction by all folds is missing or stale."""
    untrained = sorted(set(seen.config.training.folds) - set(seen.weights))
    if untrained:
        folds, need = ("fold", "needs") if len(untrained) == 1 else ("folds", "need")
        return {case.id: f"{folds} {few(untrained)} {need} training" for case in seen.test_cases}
    return stale_test_predictions(seen.study, seen.config, seen.test_cases, seen.weights, seen.kept)


def scores(seen: Inspection) -> dict[str, str]:
    """results.csv, if it is missing or was made from other masks, predictions or settings."""
    reason = _of_scores(seen)
    return {seen.study.results_csv.name: reason} if reason else {}


def _of_scores(seen: Inspection) -> str | None:
    if not seen.study.results_csv.is_file():
        return "missing"
    if seen.stale["predict"]:
        return f"{counted(len(seen.stale['predict']), 'patient')} to predict"
    recorded = read_score_inputs(summary_path(seen.study.results_csv))
    if recorded is None:
        return "inputs are not on record and may have changed"
    now = _score_inputs(seen)
    changed = list(recorded.changes(now, seen.config, seen.assignment.fold_of))
    artifact = ("evaluation", seen.study.results_csv.name)
    return (
        seen.kept.left(artifact, changed, file_hash(seen.study.results_csv), lambda: now.content) if changed else None
    )


def _score_inputs(seen: Inspection) -> ScoreInputs:
    """What the scores would be computed from now."""
    study, fold_of = seen.study, seen.assignment.fold_of
    cases = [case for case in seen.assignment.cases if fold_of[case.id] in seen.config.training.folds]
    records = {case.id: read_prediction_record(study.prediction_record("train", case.id)) for case in cases}
    return ScoreInputs(
        settings=settings(seen.config, "evaluation"),
        version=STEP_VERSIONS["evaluation"],
        masks={case.id: input_hashes(study, case).get("mask") for case in cases},
        predictions={case_id: record and record.mask for case_id, record in records.items()},
    )


def by_reason(reasons: Mapping[str, str]) -> dict[str, list[str]]:
    """Group keys by their reason."""
    grouped: dict[str, list[str]] = {}
    for key, reason in reasons.items():
        grouped.setdefault(reason, []).append(key)
    return grouped
