"""What of a study is out of date, all the way down, told from the files alone: they are the truth, records are not."""

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from types import MappingProxyType

from mist_ops.analysis.analyze import unseen_patients
from mist_ops.analysis.folds import make_fold
from mist_ops.config import STEP_VERSIONS, StudyConfig, read_config
from mist_ops.dataset import Assignment, Case, Fold, read_paths, read_train_paths
from mist_ops.evaluation.table import summary_path
from mist_ops.inference.records import Origin, read_mask_hash
from mist_ops.inference.records import why_outdated as prediction_outdated
from mist_ops.preprocessing.case import input_hashes, why_outdated
from mist_ops.study import Study
from mist_ops.training.passports import case_content, read_passport, verify

_SHOWN = 5
_NO_OUTPUTS: Mapping[Path, str] = MappingProxyType({})


@dataclass(frozen=True)
class Status:
    """What is to be made again, with the reasons.

    Attributes:
        unseen: Patients that came to the dataset since it was analyzed.
        patients: Patients to preprocess.
        folds: Folds to train, each with one reason or more.
        predictions: Held-out patients to predict.
        tests: Test patients to predict.
        scores: Why results.csv is to be computed; None if it is current.
        hours: What training those folds took before, in hours; those never trained count as much as the others.
    """

    unseen: list[str]
    patients: Mapping[str, str]
    folds: Mapping[int, list[str]]
    predictions: Mapping[str, str]
    tests: Mapping[str, str]
    scores: str | None
    hours: float | None

    @property
    def current(self) -> bool:
        """Whether there is nothing to do."""
        return not (self.unseen or self.patients or self.folds or self.predictions or self.tests or self.scores)


def status(study: Study) -> Status:
    """Compare every file of a study with what it was made from.

    Raises:
        MistError: The study has not been analyzed, or its tables cannot be read.
    """
    config, assignment = read_config(study.config), read_train_paths(study.train_paths)
    patients = patients_to_preprocess(study, config, assignment.cases)
    content_of = cache(partial(case_content, study))
    checked = {
        fold: list(_of_fold(study, config, assignment, fold, patients, content_of)) for fold in config.training.folds
    }
    folds = {fold: found for fold, found in checked.items() if found}
    weights = {fold: str(read_passport(study.model(fold))["weights"]) for fold in checked if fold not in folds}
    predictions = dict(_of_predictions(study, config, assignment, weights, patients, content_of))
    return Status(
        unseen=unseen_patients(study),
        patients=patients,
        folds=folds,
        predictions=predictions,
        tests=dict(_of_tests(study, config, weights)),
        scores=_of_scores(study, config, assignment, predictions),
        hours=_hours(study, config, folds),
    )


def patients_to_preprocess(study: Study, config: StudyConfig, cases: Iterable[Case]) -> dict[str, str]:
    """Why each patient is to be preprocessed, by id; those whose arrays are current are left out."""
    settings, with_dtm = config.digest("preprocessing"), config.preprocessing.compute_dtms
    reasons = {case.id: why_outdated(study, case, settings, with_dtm) for case in cases}
    return {case_id: reason for case_id, reason in reasons.items() if reason}


def _of_fold(
    study: Study,
    config: StudyConfig,
    assignment: Assignment,
    index: int,
    patients: Mapping[str, str],
    content_of: Callable[[str], str],
) -> Iterator[str]:
    if not study.model(index).is_file() or not study.passport(index).is_file():
        yield "it is not trained"
        return
    fold = make_fold(assignment, index, config.training.val_percent, config.training.seed)
    yield from _parts_outdated(fold, patients)
    # What preprocessing will change anyway is told above, by its reason.
    yield from verify(study.model(index), study, patients, content_of)


def _parts_outdated(fold: Fold, patients: Mapping[str, str]) -> Iterator[str]:
    for use, ids in (("trains it", fold.training), ("selects its weights", fold.validation)):
        for case_id in ids:
            if case_id in patients:
                yield f"patient {case_id} {use}, and {patients[case_id]}"


def _of_predictions(
    study: Study,
    config: StudyConfig,
    assignment: Assignment,
    weights: Mapping[int, str],
    patients: Mapping[str, str],
    content_of: Callable[[str], str],
) -> Iterator[tuple[str, str]]:
    settings = config.digest("prediction")
    for case in assignment.cases:
        fold = assignment.fold_of[case.id]
        if fold not in weights:
            yield case.id, f"fold {fold} is to be trained"
        elif case.id in patients:
            yield case.id, patients[case.id]
        else:
            origin = Origin({fold: weights[fold]}, settings, content_of(case.id))
            reason = prediction_outdated(
                study.prediction_record("train", case.id), study.cv_prediction(case.id), origin
            )
            if reason:
                yield case.id, reason


def _of_tests(study: Study, config: StudyConfig, weights: Mapping[int, str]) -> Iterator[tuple[str, str]]:
    if not study.test_paths.is_file():
        return
    settings, untrained = config.digest("prediction"), sorted(set(config.training.folds) - set(weights))
    for case in read_paths(study.test_paths, config.dataset_info.images):
        if untrained:
            yield case.id, f"folds {_some([str(fold) for fold in untrained])} are to be trained"
            continue
        origin = Origin(weights, settings, images=case.images)
        reason = prediction_outdated(study.prediction_record("test", case.id), study.test_prediction(case.id), origin)
        if reason:
            yield case.id, reason


def _of_scores(study: Study, config: StudyConfig, assignment: Assignment, predictions: Collection[str]) -> str | None:
    if not study.results_csv.is_file():
        return "there are none"
    if predictions:
        return f"{len(predictions)} patients are to be predicted"
    changed = list(_changed_inputs(study, config, assignment))
    return f"{_some(changed)} changed since" if changed else None


def _changed_inputs(study: Study, config: StudyConfig, assignment: Assignment) -> Iterator[str]:
    """What the scores were made from that has another content now; the files are read if their times are new."""
    try:
        made_from = json.loads(summary_path(study.results_csv).read_text(encoding="utf-8"))["inputs"]
    except (OSError, ValueError, KeyError):
        yield "what they were made from is not on record, and may have"
        return
    if made_from["settings"] != config.digest("evaluation"):
        yield "the settings of evaluation"
    if made_from.get("version", 1) != STEP_VERSIONS["evaluation"]:
        yield "the version of evaluation"
    for case in assignment.cases:
        if made_from["masks"].get(case.id) != input_hashes(study, case).get("mask"):
            yield f"the mask of {case.id}"
        if made_from["predictions"].get(case.id) != read_mask_hash(study.prediction_record("train", case.id)):
            yield f"the prediction of {case.id}"


def _hours(study: Study, config: StudyConfig, folds: Collection[int]) -> float | None:
    trained = [fold for fold in config.training.folds if study.passport(fold).is_file()]
    seconds = [float(read_passport(study.model(fold))["seconds"]) for fold in trained]
    return len(folds) * sum(seconds) / len(seconds) / 3600 if seconds else None


def sentences(found: Status, outputs: Mapping[Path, str] = _NO_OUTPUTS) -> Iterator[str]:
    """A status as lines for people.

    Args:
        found: What of the study is out of date.
        outputs: What tools made of it that is out of date too, with the reasons.
    """
    if found.current and not outputs:
        yield "Everything is current."
        return
    if found.unseen:
        yield f"Analyze: {len(found.unseen)} patients are new ({_some(found.unseen)}); mist_analyze --update adds them."
    for reason, ids in _by_reason(found.patients).items():
        yield f"Preprocess {len(ids)} patients ({_some(ids)}): {reason}."
    for fold, reasons in found.folds.items():
        yield f"Train fold {fold}: {'; '.join(reason.rstrip('.') for reason in reasons)}."
    for name, predictions in (("held-out", found.predictions), ("test", found.tests)):
        for reason, ids in _by_reason(predictions).items():
            yield f"Predict {len(ids)} {name} patients ({_some(ids)}): {reason}."
    if found.scores:
        yield f"Score: {found.scores}."
    for path, reason in outputs.items():
        yield f"Make {path}: {reason}."
    if found.folds and found.hours is not None:
        yield f"Training took {found.hours:.2f} hours for as many folds."


def _by_reason(reasons: Mapping[str, str]) -> dict[str, list[str]]:
    grouped: dict[str, list[str]] = {}
    for case_id, reason in reasons.items():
        grouped.setdefault(reason, []).append(case_id)
    return grouped


def _some(items: list[str]) -> str:
    return ", ".join(items[:_SHOWN]) + (f" and {len(items) - _SHOWN} more" if len(items) > _SHOWN else "")
