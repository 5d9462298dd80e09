"""What of a study is out of date, all the way down, told from the files alone: they are the truth, records are not."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from types import MappingProxyType

from mist_ops.analysis.analyze import unseen_patients
from mist_ops.analysis.folds import check_folds, make_fold
from mist_ops.config import STEP_VERSIONS, StudyConfig, read_config
from mist_ops.dataset import Assignment, Case, Fold, read_paths, read_train_paths
from mist_ops.errors import ConfigError, few
from mist_ops.evaluation.table import summary_path
from mist_ops.files import file_hash
from mist_ops.records.arrays import case_content, input_hashes, why_outdated
from mist_ops.records.comparison import fold_changes, verify
from mist_ops.records.passport import read_passport
from mist_ops.records.prediction import Origin, read_prediction_record
from mist_ops.records.prediction import why_stale as prediction_outdated
from mist_ops.records.scores import ScoreInputs, read_score_inputs
from mist_ops.study import Study

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
        unused: Arrays and predictions of patients who are not in the study (any more).
    """

    unseen: list[str]
    patients: Mapping[str, str]
    folds: Mapping[int, list[str]]
    predictions: Mapping[str, str]
    tests: Mapping[str, str]
    scores: str | None
    hours: float | None
    unused: Sequence[Path] = ()

    @property
    def current(self) -> bool:
        """Whether there is nothing to do."""
        return not (self.unseen or self.patients or self.folds or self.predictions or self.tests or self.scores)


def status(study: Study) -> Status:
    """Compare every file of a study with what it was made from.

    Raises:
        MistError: The study has not been analyzed, its tables cannot be read, or a patient is in no fold of it.
    """
    config, assignment = read_config(study.config), read_train_paths(study.train_paths)
    check_folds(assignment, config.training.nfolds)
    patients = patients_to_preprocess(study, config, assignment.cases)
    content_of = cache(partial(case_content, study))
    checked = {
        fold: list(_of_fold(study, config, assignment, fold, patients, content_of)) for fold in config.training.folds
    }
    folds = {fold: found for fold, found in checked.items() if found}
    weights = {fold: read_passport(study.model(fold)).weights for fold in checked if fold not in folds}
    predictions = dict(_of_predictions(study, config, assignment, weights, patients, content_of))
    return Status(
        unseen=unseen_patients(study),
        patients=patients,
        folds=folds,
        predictions=predictions,
        tests=dict(_of_tests(study, config, weights)),
        scores=_of_scores(study, config, assignment, predictions),
        hours=_hours(study, config, folds),
        unused=unused(study, config, assignment),
    )


def unused(study: Study, config: StudyConfig, assignment: Assignment) -> list[Path]:
    """Arrays and predictions of patients who are not in the study, such as those of an earlier analysis."""
    tests = read_paths(study.test_paths, config.dataset_info.images) if study.test_paths.is_file() else []
    used = {locate(case_id) for case_id in assignment.fold_of for locate in (study.image, study.cv_prediction)}
    used |= {study.test_prediction(case.id) for case in tests}
    found = [*study.arrays.glob("*.npy"), *study.cv_predictions.glob("*.gz"), *study.test_predictions.glob("*.gz")]
    return sorted(path for path in found if path not in used and not path.name.startswith("."))


def predictions_to_make(
    study: Study, config: StudyConfig, assignment: Assignment, folds: Iterable[int]
) -> dict[str, str]:
    """Why patients that some folds hold out are to be predicted anew by the models that these have, by id."""
    weights = {fold: file_hash(study.model(fold)) for fold in folds}
    outdated = _of_predictions(study, config, assignment, weights, {}, partial(case_content, study))
    return {case_id: reason for case_id, reason in outdated if assignment.fold_of[case_id] in weights}


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
    if not study.model(index).is_file():
        yield "it is not trained"
        return
    if not study.passport(index).is_file():
        yield f"what its model was made from is not on record: there is no {study.passport(index)}"
        return
    try:
        fold = make_fold(assignment, index, config.training.val_percent, config.training.seed)
        yield from _parts_outdated(fold, patients)
        yield from fold_changes(study.model(index), fold)
        # What preprocessing will change anyway is told above, by its reason.
        yield from verify(study.model(index), study, patients, content_of)
    except ConfigError as error:  # which must not hide what else is out of date
        yield str(error)


def _parts_outdated(fold: Fold, patients: Mapping[str, str]) -> Iterator[str]:
    for use, ids in (("train it", fold.training), ("select its weights", fold.validation)):
        for reason, those in _by_reason({case_id: patients[case_id] for case_id in ids if case_id in patients}).items():
            verb, _, rest = use.partition(" ")
            one = f"patient {those[0]} {verb}s {rest}, and {reason}"
            yield one if len(those) == 1 else f"of {len(those)} patients who {use} ({few(those)}): {reason}"


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
        if fold not in config.training.folds:
            continue
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
            yield case.id, f"folds {few(untrained)} are to be trained"
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
    recorded = read_score_inputs(summary_path(study.results_csv))
    if recorded is None:
        return "what they were made from is not on record, and may have changed since"
    changed = list(recorded.changes(_score_inputs(study, config, assignment), assignment.fold_of))
    return f"{few(changed)} changed since" if changed else None


def _score_inputs(study: Study, config: StudyConfig, assignment: Assignment) -> ScoreInputs:
    """What the scores would be computed from now; files are read only if their times are new."""
    cases = [case for case in assignment.cases if assignment.fold_of[case.id] in config.training.folds]
    records = {case.id: read_prediction_record(study.prediction_record("train", case.id)) for case in cases}
    return ScoreInputs(
        settings=config.digest("evaluation"),
        version=STEP_VERSIONS["evaluation"],
        masks={case.id: input_hashes(study, case).get("mask") for case in cases},
        predictions={case_id: record and record.mask for case_id, record in records.items()},
    )


def _hours(study: Study, config: StudyConfig, folds: Collection[int]) -> float | None:
    seconds = []
    for fold in config.training.folds:
        with suppress(ConfigError):
            seconds.append(read_passport(study.model(fold)).seconds)
    return len(folds) * sum(seconds) / len(seconds) / 3600 if seconds else None


def sentences(found: Status, outputs: Mapping[Path, str] = _NO_OUTPUTS) -> Iterator[str]:
    """A status as lines for people.

    Args:
        found: What of the study is out of date.
        outputs: What tools made of it that is out of date too, with the reasons.
    """
    yield from told_unused(found.unused)
    if found.current and not outputs:
        yield "Everything is current."
        return
    if found.unseen:
        yield f"Analyze: {len(found.unseen)} patients are new ({few(found.unseen)}); mist_analyze --update adds them."
    for reason, ids in _by_reason(found.patients).items():
        yield f"Preprocess {len(ids)} patients ({few(ids)}): {reason}."
    for fold, reasons in found.folds.items():
        yield f"Train fold {fold}: {'; '.join(reason.rstrip('.') for reason in reasons)}."
    for name, predictions in (("held-out", found.predictions), ("test", found.tests)):
        for reason, ids in _by_reason(predictions).items():
            yield f"Predict {len(ids)} {name} patients ({few(ids)}): {reason}."
    if found.scores:
        yield f"Score: {found.scores}."
    for path, reason in outputs.items():
        yield f"Make {path}: {reason}."
    if found.folds and found.hours is not None:
        yield f"Training took {found.hours:.2f} hours for as many folds."


def told_unused(paths: Sequence[Path]) -> Iterator[str]:
    """A sentence on files that are not used, if there are any."""
    if paths:
        yield (
            f"Not used: {len(paths)} arrays and predictions of patients who are not in this study, such as {paths[0]}. "
            "Remove them if nothing else needs them."
        )


def stale_results(study: Study, found: Status) -> Iterator[str]:
    """What is out of date among the models, predictions and scores that there are; not what there never was."""
    outdated = Status(
        unseen=[],
        patients={},
        folds={fold: reasons for fold, reasons in found.folds.items() if study.model(fold).exists()},
        predictions={name: why for name, why in found.predictions.items() if study.cv_prediction(name).exists()},
        tests={name: why for name, why in found.tests.items() if study.test_prediction(name).exists()},
        scores=None,
        hours=None,
    )
    if not outdated.current:
        yield from sentences(outdated)


def _by_reason(reasons: Mapping[str, str]) -> dict[str, list[str]]:
    grouped: dict[str, list[str]] = {}
    for case_id, reason in reasons.items():
        grouped.setdefault(reason, []).append(case_id)
    return grouped
