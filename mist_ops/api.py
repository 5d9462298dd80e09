"""The functions of ``import mist_ops``: a study from dataset.json to scores, for notebooks and scripts.

The functions write the same files as the ``mist_*`` commands, without records in Dagster. They do not lock the study or
a GPU, so do not run a command on the same study at the same time.

If a patient fails, the others continue. The failure is logged as a warning and is part of the result, whose
``raise_for_failures`` raises it. With several ``workers``, a script needs ``if __name__ == "__main__":``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import pandas as pd

from mist_ops.analysis import analyze as analysis
from mist_ops.analysis.folds import check_folds, make_fold
from mist_ops.config import StudyConfig, check_names, override, read_config, write_config
from mist_ops.dataset import Case, Fold, read_description, read_paths, read_train_paths
from mist_ops.errors import CaseError, ConfigError, DatasetError, MistError, counted, few, listing
from mist_ops.evaluation import table
from mist_ops.evaluation.picture import dice_of, draw_case, draw_scores
from mist_ops.evaluation.score import Absent, CaseScores, Classes, columns, read_evaluation
from mist_ops.evaluation.study import open_evaluation
from mist_ops.evaluation.table import Pair
from mist_ops.files import file_hash, file_hashes, read_object
from mist_ops.pictures import learning_curves
from mist_ops.postprocessing.strategy import read_strategy
from mist_ops.preprocessing.case import write_cases
from mist_ops.ranking import rank as ranking
from mist_ops.ranking.picture import draw_ranking
from mist_ops.ranking.rank import Ranking
from mist_ops.ranking.tables import Missing
from mist_ops.records.arrays import CORRUPTED, NO_DISTANCES, NOT_PREPROCESSED, stale_arrays
from mist_ops.records.comparison import why_stale
from mist_ops.records.passport import Epoch, Passport, read_passport
from mist_ops.records.prediction import NOT_RECORDED, stale_predictions, stale_test_predictions
from mist_ops.records.source import check_arrays, check_dataset, check_same_dataset, check_table
from mist_ops.study import Study, check_id, find_dataset
from mist_ops.workers import IdentifiedT, Outcome, collect, outcomes

Result = TypeVar("Result")
Checked = TypeVar("Checked", bound="_Result")  # beartype knows Self only in decorated classes
Settings: TypeAlias = Mapping[str, Any]
Table: TypeAlias = str | Path | Study

_LOG = logging.getLogger(__name__)
_SHOWN = 5


@dataclass(frozen=True)
class Progress:
    """A finished step, which functions pass to their ``progress`` callback; ``progress=print`` prints a line for each.

    Attributes:
        task: What is running, such as "Preprocessing".
        done: Number of finished steps.
        total: Number of all steps; None if unknown.
        detail: The patient, or the losses of the epoch.
        epoch: The epoch that was trained.
    """

    task: str
    done: int
    total: int | None
    detail: str
    epoch: Epoch | None = None

    def __str__(self) -> str:
        return f"{self.task} {self.done}{f'/{self.total}' if self.total else ''}: {self.detail}"


OnProgress: TypeAlias = Callable[[Progress], object]


@dataclass(frozen=True, eq=False, kw_only=True)
class _Result:
    failures: Mapping[str, CaseError]

    def raise_for_failures(self: Checked) -> Checked:
        """Return the result if no patient failed.

        Raises:
            MistError: Some failed; the code is that of the first.
        """
        if self.failures:
            first = next(iter(self.failures.values()))
            messages = [error.message for error in self.failures.values()]
            more = [f"{len(messages) - _SHOWN} more"] if len(messages) > _SHOWN else []
            raise MistError(
                f"{counted(len(messages), 'patient')} failed: {listing([*messages[:_SHOWN], *more])}",
                code=first.code,
                case=first.case,
                found=list(self.failures),
            ) from first
        return self


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Processed(_Result):
    """Patients that were preprocessed or predicted.

    Attributes:
        done: Ids of the patients that were processed.
        current: Ids of the patients that were skipped because their files are current.
        failures: The error of each patient that failed, by id.
    """

    done: tuple[str, ...] = ()
    current: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"Processed({len(self.done)} done, {len(self.current)} current, {len(self.failures)} failed)"


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Scores(_Result):
    """Scores of predictions.

    Attributes:
        table: A row per scored patient, with the id as index, and a column ``<class>_<metric>`` per score.
        summary: A row per column of ``table``: unit, number of patients, mean and its 95% confidence interval.
        missing: Ids of the patients without a score.
        failures: The error of each patient that could not be scored, by id.
    """

    table: pd.DataFrame
    summary: pd.DataFrame
    missing: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"Scores({len(self.table)} scored, {len(self.missing)} missing, {len(self.failures)} failed)"


@dataclass(frozen=True)
class Analysis:
    """Result of the analysis of a dataset.

    Attributes:
        config: The planned settings, as in config.json.
        folds: The fold that holds out each patient, by id.
        excluded: Reasons by id of the patients that ``verify`` excluded.
        warnings: Properties of the dataset to know before training.
        alternatives: What a fresh analysis would choose, by dotted path, where the plan of an earlier one was kept.
    """

    config: StudyConfig
    folds: Mapping[str, int]
    excluded: Mapping[str, Sequence[str]]
    warnings: Sequence[str]
    alternatives: Settings = field(default_factory=dict)


def open_study(
    results: str | Path, *, numpy: str | Path = "numpy", data: str | Path | None = None, name: str | None = None
) -> Study:
    """Open a study: the folder of its results, with the folder of its arrays and its dataset.json.

    Args:
        results: Folder of everything but the arrays.
        numpy: Folder of the preprocessed arrays.
        data: The dataset.json; by default the one that was analyzed into ``results``.
        name: Name of the study; by default that of the folder.

    Raises:
        DatasetError: dataset.json is missing or invalid.
        ConfigError: ``results`` holds no config.json, and ``data`` is not given.
    """
    folder = _path(results)
    if data is not None:
        read_description(_path(data))
    elif not (folder / "config.json").is_file():
        raise ConfigError(
            f"{folder} holds no config.json. Pass data, the dataset.json to analyze, or another folder.",
            code="config-missing",
            file=folder / "config.json",
        )
    study = Study(name or folder.name, _path(numpy), folder)
    return replace(study, data=find_dataset(study.analysis) if data is None else _path(data))


def analyze(
    study: Study,
    settings: Settings | None = None,
    *,
    verify: bool = False,
    fresh: bool = False,
    replan: bool = False,
    workers: int = 1,
    progress: OnProgress | None = None,
) -> Analysis:
    """Measure the training patients; write config.json, the folds and the foreground boxes (``mist_analyze``).

    Args:
        study: A study with a dataset.json.
        settings: Settings by dotted path that replace planned ones: ``{"training.nfolds": 3}``.
        verify: Read every file of every patient, and exclude the patients with a problem.
        fresh: Discard the folds, the plan and the edits of config.json of an earlier analysis. By default they are
            kept, new patients are added, and those that are gone are removed.
        replan: Plan spacing, patch size and normalization again. By default those of an earlier analysis are kept.
        workers: Number of processes.
        progress: Called after each patient.

    Raises:
        DatasetError: The dataset or, without ``verify``, a patient cannot be used; nothing is written.
        ConfigError: A setting is invalid.
    """
    measured = analysis.analyze(
        study, workers=workers, check=verify, fresh=fresh, replan=replan, overrides=settings or {}
    )
    for outcome in _tracked(measured, "Analyzing", None, progress):
        if outcome.error:
            _LOG.warning("%s", outcome.error)
    found = analysis.read_fingerprint(study)
    folds = read_train_paths(study.train_paths).fold_of
    return Analysis(read_config(study.config), folds, found.excluded, found.warnings, found.alternatives)


def configure(study: Study, settings: Settings) -> StudyConfig:
    """Change settings in config.json; results that depend on them become stale.

    Args:
        study: An analyzed study.
        settings: Values by dotted path: ``{"training.epochs": 100}``.

    Raises:
        ConfigError: A setting or a name is unknown, or a value is invalid; nothing is written.
    """
    before = read_config(study.config)
    config = override(before, settings)
    check_names(config)
    if config != before:
        write_config(study.config, config)
    return config


def preprocess(
    study: Study, *, overwrite: bool = False, workers: int = 1, progress: OnProgress | None = None
) -> Processed:
    """Preprocess the training patients whose arrays are missing or corrupted (``mist_preprocess``).

    Args:
        study: An analyzed study.
        overwrite: Preprocess all patients, and replace arrays made from other files or settings.
        workers: Number of processes.
        progress: Called after each patient.

    Raises:
        ConfigError: The folder of the arrays holds some made from other files or settings, or by another program.
        DatasetError: The images are those of another dataset than the one that was analyzed.
        MachineError: The disk is full.
    """
    config, cases = read_config(study.config), read_train_paths(study.train_paths).cases
    check_same_dataset(study, cases)
    reasons = stale_arrays(study, config, cases)
    others = [
        case_id
        for case_id, reason in reasons.items()
        if reason not in (CORRUPTED, NO_DISTANCES) and (reason != NOT_PREPROCESSED or study.image(case_id).exists())
    ]
    if others and not overwrite:
        raise ConfigError(
            f"{study.numpy} holds arrays of {counted(len(others), 'patient')} made from other files or settings, or by "
            f"another program ({few(others)}). Pass overwrite=True to replace them, or open the study with another "
            "numpy folder.",
            code="arrays-differ",
            file=study.numpy,
            found=others,
        )
    needed = [case for case in cases if overwrite or case.id in reasons]
    written = write_cases(study, sorted(needed, key=lambda case: case.id), config, workers)
    return _processed(_tracked(written, "Preprocessing", len(needed), progress), cases)


def train(
    study: Study,
    fold: int,
    *,
    device: str | Sequence[str] | None = None,
    resume: bool = False,
    overwrite: bool = False,
    workers: int | None = None,
    progress: OnProgress | None = None,
) -> Passport:
    """Train a fold (``mist_train --folds``, without the predictions), and return the passport of its model.

    Args:
        study: A preprocessed study.
        fold: Index of the fold.
        device: ``"cpu"``, ``"cuda"``, the number of a GPU, or several; by default all GPUs or else the CPU.
        resume: Continue from the last checkpoint, if there is one; return at once if the model is current.
        overwrite: Replace the model and the checkpoint of an earlier training.
        workers: Processes that load patches; by default as in config.json on a GPU, and none on the CPU.
        progress: Called after each epoch.

    Raises:
        ConfigError: The fold does not exist, has a model or a checkpoint already, or a setting is invalid.
        DatasetError: Arrays are missing, the training set contains held-out images, or the dataset is missing or
            another one.
        DivergedError: The loss is not finite.
        MachineError: A batch does not fit into memory.
    """
    config, model = read_config(study.config), study.model(fold)
    members, attempt = _fold(study, config, fold), study.attempt(fold)
    if not resume and not overwrite and any(path.exists() for path in (model, study.checkpoint(fold), attempt)):
        raise ConfigError(
            f"{study.results} has a model or a checkpoint of fold {fold}. Pass resume=True to continue it, or "
            "overwrite=True to retrain it.",
            code="output-exists",
            file=study.results,
            found=fold,
        )
    if resume and model.exists() and not attempt.exists() and not why_stale(study, config, members):
        return read_passport(model)
    from mist_ops.training.fold import train_fold  # torch takes seconds to load

    for epoch in train_fold(study, config, members, device=device, resume=resume, workers=workers):
        if progress:
            progress(Progress(f"Training fold {fold}", epoch.index + 1, config.training.epochs, epoch.summary, epoch))
    passport = read_passport(model)
    learning_curves(study.figure(f"learning_curves_fold_{fold}"), {fold: passport.history})
    return passport


def _fold(study: Study, config: StudyConfig, index: int) -> Fold:
    training, assignment = config.training, read_train_paths(study.train_paths)
    check_folds(assignment, training.nfolds)
    leaks = analysis.find_leaks(study)
    if leaks:
        raise DatasetError(listing(leaks), code="folds-leak", file=study.train_paths, found=leaks)
    for warning in check_dataset(study):
        _LOG.warning("%s", warning)
    check_arrays(study, assignment.cases)
    return make_fold(assignment, index, training.val_percent, training.seed_of_validation, training.validation_cases)


def predict(
    study: Study,
    folds: Sequence[int] | None = None,
    *,
    device: str | None = None,
    overwrite: bool = False,
    progress: OnProgress | None = None,
) -> Processed:
    """Predict held-out patients, each with the model of its fold; skip predictions that are current.

    Args:
        study: A study with trained folds.
        folds: Indices of the folds; by default all with a model.
        device: ``"cpu"``, ``"cuda"`` or the number of a GPU; by default a GPU if there is one.
        overwrite: Predict all held-out patients.
        progress: Called after each patient.

    Raises:
        ConfigError: A fold has no model, or its model does not match config.json.
        MachineError: The disk is full.
    """
    from mist_ops.devices import resolve_device  # torch takes seconds to load
    from mist_ops.inference.study import predict_held_out

    config, assignment = read_config(study.config), read_train_paths(study.train_paths)
    weights = _weights(study, config.training.folds if folds is None else folds, require_all=folds is not None)
    cases = [case for case in assignment.cases if assignment.fold_of[case.id] in weights]
    reasons = stale_predictions(study, config, assignment, weights)
    needed = [case.id for case in cases if overwrite or reasons.get(case.id, NOT_RECORDED) != NOT_RECORDED]
    predicted = predict_held_out(study, needed, resolve_device(device, "predicting"))
    drawn = _drawn(predicted, config, study.cv_prediction, study.cv_figure)
    return _processed(_tracked(drawn, "Predicting held-out patients", len(needed), progress), cases)


def predict_tests(
    study: Study, *, device: str | None = None, overwrite: bool = False, progress: OnProgress | None = None
) -> Processed:
    """Predict the test patients of dataset.json with all folds together; skip predictions that are current.

    Args:
        study: A study whose folds are all trained.
        device: ``"cpu"``, ``"cuda"`` or the number of a GPU; by default a GPU if there is one.
        overwrite: Predict all test patients.
        progress: Called after each patient.

    Raises:
        ConfigError: A fold has no model, or its model does not match config.json.
        DatasetError: The dataset has no test patients.
        MachineError: The disk is full.
    """
    from mist_ops.devices import resolve_device  # torch takes seconds to load
    from mist_ops.inference import study as inference

    config = read_config(study.config)
    if not study.test_paths.is_file():
        raise DatasetError(
            f"The study in {study.results} has no test patients. Add test-data to dataset.json, and analyze it again.",
            code="test-data-missing",
            file=study.test_paths,
        )
    weights = _weights(study, config.training.folds, require_all=True)
    cases = read_paths(study.test_paths, config.dataset_info.images)
    needed = [case.id for case in cases] if overwrite else list(stale_test_predictions(study, config, cases, weights))
    predicted = inference.predict_tests(study, needed, resolve_device(device, "predicting"))
    drawn = _drawn(predicted, config, study.test_prediction, lambda case_id: study.figure(f"test_{case_id}"))
    return _processed(_tracked(drawn, "Predicting test patients", len(needed), progress), cases)


def predict_files(
    study: Study,
    patients: str | Path | Mapping[str, Mapping[str, str | Path]],
    output: str | Path,
    *,
    device: str | None = None,
    strategy: str | Path | None = None,
    probabilities: bool = False,
    strict: bool = False,
    progress: OnProgress | None = None,
) -> Processed:
    """Predict images of new patients with all models of a study together (``mist_predict``).

    If the study has a guard, it writes ``<id>.guard.json`` beside each mask.

    Args:
        study: A study with trained folds.
        patients: The image of each channel by patient, ``{"new_1": {"t1": "t1.nii.gz", "t2": "t2.nii.gz"}}``, or a
            table with the columns id and the channels.
        output: Folder of the masks, ``<id>.nii.gz``.
        device: ``"cpu"``, ``"cuda"`` or the number of a GPU; by default a GPU if there is one.
        strategy: Postprocessing strategy, a JSON file.
        probabilities: Also write class probabilities; masks are then in ``discrete`` and probabilities in
            ``probabilities`` below ``output``.
        strict: Write no mask of a scan that is unlike those of the training patients; such a patient fails.
        progress: Called after each patient.

    Raises:
        ConfigError: There is no model or, with ``strict``, no guard of these models; a model does not match
            config.json, or ``output`` is a file.
        DatasetError: The table cannot be used, or an id cannot name a file.
        MachineError: The disk is full.
    """
    from mist_ops.devices import resolve_device  # torch takes seconds to load
    from mist_ops.inference.case import Predictor
    from mist_ops.inference.compiling import compile_networks
    from mist_ops.inference.guarding import checking, guarding_of
    from mist_ops.inference.models import load_models
    from mist_ops.inference.pipeline import Job, predict_cases

    config, folder = read_config(study.config), _path(output)
    cases = _new_patients(patients, config)
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder} is a file. Choose another output.", code="file-not-folder", file=folder)
    steps = read_strategy(_path(strategy)) if strategy else ()
    masks = folder / "discrete" if probabilities else folder
    place = resolve_device(device, "predicting")
    guarding = guarding_of(study.models, config, strict=strict)
    predictor = Predictor(compile_networks(load_models(study, config), config, place), config, place)

    def job(case: Case) -> Job:
        target = folder / "probabilities" / f"{case.id}.nii.gz" if probabilities else None
        mask = masks / f"{case.id}.nii.gz"
        return Job(case, mask, strategy=steps, probabilities=target, check=checking(guarding, case, mask))

    predicted = predict_cases(predictor, map(job, cases))
    return _processed(_tracked(predicted, "Predicting", len(cases), progress), cases)


def _new_patients(patients: str | Path | Mapping[str, Mapping[str, str | Path]], config: StudyConfig) -> list[Case]:
    if isinstance(patients, Mapping):
        return [
            Case(check_id(case_id), {channel: _path(image) for channel, image in images.items()})
            for case_id, images in patients.items()
        ]
    check_table(_path(patients))
    return read_paths(_path(patients), config.dataset_info.images)


def evaluate(study: Study, *, workers: int = 1, progress: OnProgress | None = None) -> Scores:
    """Score the predictions of held-out patients; write results.csv with its summary, the plot and a page per patient.

    Args:
        study: A study with predictions.
        workers: Number of processes.
        progress: Called after each patient.

    Raises:
        ConfigError: There is no prediction, or a metric or label is unknown.
        MachineError: The disk is full.
    """
    task = open_evaluation(study)
    if not task.pairs:
        raise ConfigError(
            f"{study.cv_predictions} holds no predictions. Predict first.",
            code="predictions-missing",
            file=study.cv_predictions,
        )
    hashes = file_hashes(task.inputs)
    rows, failures = collect(_tracked(task.score(workers), "Evaluating", len(task.pairs), progress), _warn)
    written = task.write(rows, _messages(failures), hashes)
    return _scores(study.results_csv, rows, failures, task.config.evaluation, written.missing)


def evaluate_files(
    study: Study,
    pairs: str | Path | Mapping[str, tuple[str | Path, str | Path]],
    output: str | Path,
    *,
    absent: Absent = "best",
    workers: int = 1,
    progress: OnProgress | None = None,
) -> Scores:
    """Score any predictions with the classes and metrics of a study (``mist_evaluate``).

    Args:
        study: A study; only its config.json is read.
        pairs: Mask and prediction by patient, ``{"new_1": ("mask.nii.gz", "prediction.nii.gz")}``, or a table with the
            columns id, mask and prediction.
        output: Table of scores, a CSV file; summary and plot are written beside it.
        absent: Score of a class that is in neither mask: the best value, or NaN.
        workers: Number of processes.
        progress: Called after each patient.

    Raises:
        ConfigError: A metric or label is unknown, or ``output`` is one of the inputs.
        DatasetError: The table cannot be used.
        MachineError: The disk is full.
    """
    classes, path = read_evaluation(study.config).classes, _path(output)
    if isinstance(pairs, Mapping):
        found = [Pair(check_id(case_id), *map(_path, files)) for case_id, files in pairs.items()]
    else:
        found = table.read_pairs(_path(pairs))
    table.check_output(path, [study.config, *(file for pair in found for file in (pair.mask, pair.prediction))])
    scored = table.evaluate(found, classes, workers, absent=absent)
    rows, failures = collect(_tracked(scored, "Evaluating", len(found), progress), _warn)
    table.write_evaluation(path, found, classes, rows, _messages(failures), absent)
    draw_scores(rows, failures, classes, table.figure_path(path), path.stem)
    return _scores(path, rows, failures, classes, list(failures))


def _scores(
    results: Path,
    rows: Mapping[str, CaseScores],
    failures: Mapping[str, CaseError],
    classes: Classes,
    missing: Sequence[str],
) -> Scores:
    ids = pd.Index(list(rows), name="id")
    values = pd.DataFrame([row.scores for row in rows.values()], index=ids, columns=columns(classes), dtype=float)
    summary = pd.DataFrame.from_dict(read_object(table.summary_path(results))["columns"], orient="index")
    return Scores(table=values, summary=summary, missing=tuple(missing), failures=failures)


def rank(
    results: Sequence[Table] | Mapping[str, Table],
    output: str | Path | None = None,
    *,
    directions: Mapping[str, str] | None = None,
    missing: Missing = "error",
    significance: bool = False,
) -> Ranking:
    """Rank strategies by their scores on the same patients (``mist_rank``).

    Args:
        results: Two or more tables of scores, or studies, as a list or by name.
        output: Table of mean ranks to write, a CSV file; further tables and a plot are written beside it.
        directions: "higher" or "lower" for the columns of unknown metrics.
        missing: Raise an error if a score is missing, rank it last ("worst"), or exclude its patient ("drop").
        significance: Compute p-values.

    Raises:
        DatasetError: A table cannot be read, or the tables do not match.
        ConfigError: A direction is unknown, or ``output`` is one of the tables.
    """
    names, given = (list(results), results.values()) if isinstance(results, Mapping) else (None, results)
    tables = [found.results_csv if isinstance(found, Study) else _path(found) for found in given]
    if output is not None:
        ranking.check_outputs(tables, _path(output))
    ranked = ranking.rank(tables, names, overrides=directions, missing=missing, significance=significance)
    if output is not None:
        ranking.write_ranking(ranked, _path(output))
        draw_ranking(ranked, _path(output).with_suffix(".png"))
    return ranked


def _path(path: str | Path) -> Path:
    return Path(path).expanduser().resolve()


def _weights(study: Study, folds: Sequence[int], *, require_all: bool) -> dict[int, str]:
    """SHA-256 of the weights of the trained folds.

    Raises:
        ConfigError: No fold is trained, or one is not although all are required.
    """
    missing = [fold for fold in folds if not study.model(fold).is_file()]
    if missing and (require_all or len(missing) == len(folds)):
        raise ConfigError(
            f"{study.models} holds no model of {'fold' if len(missing) == 1 else 'folds'} {few(missing)}. Train first.",
            code="model-missing",
            file=study.models,
            found=missing,
        )
    return {fold: file_hash(study.model(fold)) for fold in folds if fold not in missing}


def _drawn(
    predicted: Iterable[Outcome[Case, None]],
    config: StudyConfig,
    mask_of: Callable[[str], Path],
    figure_of: Callable[[str], Path],
) -> Iterator[Outcome[Case, object]]:
    """Draw each predicted patient; one that cannot be drawn is a failure."""

    def draw(case: Case) -> bytes:
        mask = mask_of(case.id)
        return draw_case(case, mask, figure_of(case.id), config, dice_of(case, mask, config))

    for outcome in predicted:
        yield from [outcome] if outcome.error else outcomes(draw, [outcome.item])


def _tracked(
    found: Iterable[Outcome[IdentifiedT, Result]], task: str, total: int | None, progress: OnProgress | None
) -> Iterator[Outcome[IdentifiedT, Result]]:
    for done, outcome in enumerate(found, start=1):
        if progress:
            progress(Progress(task, done, total, outcome.item.id))
        yield outcome


def _processed(found: Iterable[Outcome[Case, object]], cases: Sequence[Case]) -> Processed:
    results, failures = collect(found, _warn)
    current = [case.id for case in cases if case.id not in results and case.id not in failures]
    return Processed(done=tuple(results), current=tuple(current), failures=failures)


def _warn(error: CaseError) -> None:
    _LOG.warning("%s", error)


def _messages(failures: Mapping[str, CaseError]) -> dict[str, str]:
    return {case_id: str(error) for case_id, error in failures.items()}
