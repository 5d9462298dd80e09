"""What of a study is out of date, all the way down, told from the files alone: they are the truth, records are not."""

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

from mist_ops.analysis.analyze import unseen_patients
from mist_ops.analysis.folds import make_fold
from mist_ops.config import StudyConfig, read_config
from mist_ops.dataset import Assignment, Case, Fold, read_paths, read_train_paths
from mist_ops.evaluation.table import summary_path
from mist_ops.files import file_hash
from mist_ops.preprocessing.case import why_outdated
from mist_ops.study import Study
from mist_ops.training.passports import case_content, read_passport, verify

_SHOWN = 5


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
    predictions = dict(_of_predictions(study, config, assignment, folds, patients))
    return Status(
        unseen=unseen_patients(study),
        patients=patients,
        folds=folds,
        predictions=predictions,
        tests=dict(_of_tests(study, config, folds)),
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
    study: Study, config: StudyConfig, assignment: Assignment, folds: Collection[int], patients: Mapping[str, str]
) -> Iterator[tuple[str, str]]:
    others = _predicted_otherwise(study, config)
    for case in assignment.cases:
        fold, made = assignment.fold_of[case.id], study.cv_prediction(case.id)
        if fold in folds:
            yield case.id, f"fold {fold} is to be trained"
        elif case.id in patients:
            yield case.id, patients[case.id]
        elif not made.is_file():
            yield case.id, "it is not predicted"
        elif _older(made, study.model(fold)):
            yield case.id, f"fold {fold} was trained since"
        elif fold in others and _older(made, study.config):
            yield case.id, "the settings of prediction changed"


def _predicted_otherwise(study: Study, config: StudyConfig) -> set[int]:
    """The folds that were trained when config.json had other settings of prediction."""
    now, others = config.settings("prediction"), set()
    for fold in config.training.folds:
        if study.passport(fold).is_file():
            then = StudyConfig.model_validate(read_passport(study.model(fold))["config"])
            others |= {fold} if then.settings("prediction") != now else set()
    return others


def _of_tests(study: Study, config: StudyConfig, folds: Collection[int]) -> Iterator[tuple[str, str]]:
    if not study.test_paths.is_file():
        return
    for case in read_paths(study.test_paths, config.dataset_info.images):
        made = study.test_prediction(case.id)
        inputs = [*(study.model(fold) for fold in config.training.folds), *case.files]
        if folds:
            yield case.id, f"folds {_some([str(fold) for fold in folds])} are to be trained"
        elif not made.is_file():
            yield case.id, "it is not predicted"
        elif any(_older(made, path) for path in inputs):
            yield case.id, "a model or an image changed since"


def _of_scores(study: Study, config: StudyConfig, assignment: Assignment, predictions: Collection[str]) -> str | None:
    if not study.results_csv.is_file():
        return "there are none"
    if predictions:
        return f"{len(predictions)} patients are to be predicted"
    changed = list(_changed_inputs(study, config, assignment))
    return f"{_some(changed)} changed since" if changed else None


def _changed_inputs(study: Study, config: StudyConfig, assignment: Assignment) -> Iterator[str]:
    """What the scores were made from that has another content now; only files that are newer are read."""
    try:
        made_from = json.loads(summary_path(study.results_csv).read_text(encoding="utf-8"))["inputs"]
    except (OSError, ValueError, KeyError):
        yield "what they were made from is not on record, and may have"
        return
    if made_from["settings"] != config.digest("evaluation"):
        yield "the settings of evaluation"
    for case in assignment.cases:
        for part, path in (("mask", case.mask), ("prediction", study.cv_prediction(case.id))):
            known = made_from[f"{part}s"].get(case.id)
            if path and _older(study.results_csv, path) and known != file_hash(path):
                yield f"the {part} of {case.id}"


def _older(made: Path, source: Path) -> bool:
    return source.is_file() and made.stat().st_mtime_ns < source.stat().st_mtime_ns


def _hours(study: Study, config: StudyConfig, folds: Collection[int]) -> float | None:
    trained = [fold for fold in config.training.folds if study.passport(fold).is_file()]
    seconds = [float(read_passport(study.model(fold))["seconds"]) for fold in trained]
    return len(folds) * sum(seconds) / len(seconds) / 3600 if seconds else None


def sentences(found: Status) -> Iterator[str]:
    """A status as lines for people."""
    if found.current:
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
    if found.folds and found.hours is not None:
        yield f"Training took {found.hours:.2f} hours for as many folds."


def _by_reason(reasons: Mapping[str, str]) -> dict[str, list[str]]:
    grouped: dict[str, list[str]] = {}
    for case_id, reason in reasons.items():
        grouped.setdefault(reason, []).append(case_id)
    return grouped


def _some(items: list[str]) -> str:
    return ", ".join(items[:_SHOWN]) + (f" and {len(items) - _SHOWN} more" if len(items) > _SHOWN else "")
