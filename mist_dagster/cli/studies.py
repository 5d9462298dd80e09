"""The commands on a study: what each checks of its flags, and the stages that it runs.

Imported once the flags are read, for Dagster loads here.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mist_dagster.assets.analysis import launchpad
from mist_dagster.cli.options import (
    AcceptOptions,
    AnalyzeOptions,
    ChoosePostprocessingOptions,
    FinalizeOptions,
    PlanOptions,
    PreprocessOptions,
    RunAllOptions,
    StatusOptions,
    StudyOptions,
    TrainOptions,
)
from mist_dagster.cli.run_config import Settings, absolute, given
from mist_dagster.freshness.checks import PlanRun
from mist_dagster.freshness.outputs import outdated_outputs
from mist_dagster.freshness.rebuild import rebuild
from mist_dagster.freshness.status import Status, patients_to_preprocess, predictions_to_make, sentences, stale_results
from mist_dagster.freshness.status import status as study_status
from mist_dagster.instance.home import dagster_home
from mist_dagster.instance.studies import register
from mist_dagster.launch import Launcher, others_first, submit
from mist_dagster.partitions import fold_key
from mist_dagster.pipeline import analyze_anew, make_current, show_status
from mist_dagster.provenance import adopt_config
from mist_dagster.runtime.gpu import ALL_GPUS
from mist_ops.analysis.folds import check_folds, make_fold
from mist_ops.config import NAMES, StudyConfig, check_names, edits, override, read_config, write_config
from mist_ops.dataset import Assignment, Fold, read_description, read_paths, read_train_paths
from mist_ops.errors import ConfigError, few
from mist_ops.files import write_text
from mist_ops.records.arrays import DAMAGED, NOT_THERE
from mist_ops.records.comparison import fold_changes, verify
from mist_ops.records.prediction import NOT_RECORDED
from mist_ops.study import Study

_RETRIES = 2
"""How often a submitted run is begun again whose worker was lost."""


def analyze(launcher: Launcher, options: AnalyzeOptions, settings: Settings) -> None:
    """Analyze a dataset, which makes it a study."""
    study = _study(options, data=options.data)
    if options.update and options.overwrite:
        raise ConfigError("--update keeps folds and edits, --overwrite forgets them. Give one of them.")
    if study.config.exists() and not options.overwrite and not options.update:
        raise ConfigError(
            f"{study.config} exists already. Give --update to keep its edits and the folds, --overwrite to analyze "
            "anew, or another folder with --results."
        )
    _plan(launcher, study, options, settings)


def _plan(launcher: Launcher, study: Study, options: AnalyzeOptions, settings: Settings) -> None:
    how = {"workers": options.num_workers_analyze, "verify": options.verify, "fresh": not options.update}
    analyze_anew(launcher, study, {**how, **launchpad(settings)})
    if options.data_dump:
        launcher.run_stage(study, "dump", {"workers": options.num_workers_analyze})
        launcher.progress.note(f"Data dump: {study.data_dump_md}")


def preprocess(launcher: Launcher, options: PreprocessOptions, settings: Settings) -> None:
    """Preprocess the patients whose arrays are missing or outdated."""
    study = _study(options, numpy=options.numpy)
    config = _configure(launcher, study, settings)
    cases = read_train_paths(study.train_paths).cases
    reasons = patients_to_preprocess(study, config, cases)
    foreign = {case_id for case_id, reason in reasons.items() if reason == NOT_THERE and study.image(case_id).exists()}
    outdated = [case_id for case_id, reason in reasons.items() if reason not in (NOT_THERE, DAMAGED)] + sorted(foreign)
    if outdated and not options.overwrite:
        raise ConfigError(
            f"{study.numpy} holds arrays of {len(outdated)} patients that were made from other files or settings, or "
            f"by another program ({few(outdated)}). Give --overwrite to replace them, or another folder with --numpy."
        )
    todo = [case.id for case in cases if options.overwrite or case.id in reasons]
    if todo and study.data:
        launcher.run_stage(study, "observe")
    if todo:
        launcher.run_stage(study, "preprocess", {"workers": options.num_workers_preprocess}, todo)
    launcher.progress.note(f"Preprocessing complete: {study.numpy} ({len(todo)} of {len(cases)} patients were to do)")


def train(launcher: Launcher, options: TrainOptions, settings: Settings) -> None:
    """Train folds, predict what they held out, score that, and predict the test set."""
    _check_flags(options, settings)
    study = _study(options, numpy=options.numpy)
    settings = {**settings, **_weighting(options)}
    config = override(read_config(study.config), settings)
    _check_metrics(study, config)  # before hours of training
    assignment, device = read_train_paths(study.train_paths), given("device", options.device)
    folds, pretrained = _folds_to_train(study, config, assignment, options), _pretrained(options, config)
    left = [index for index, fold in folds.items() if not options.resume or _is_left(launcher, study, config, fold)]
    _configure(launcher, study, settings)
    if options.submit:
        _submit(launcher, study, options, {"resume": options.resume, **device, **pretrained}, left)
        return
    # One fold after another, so each may have all GPUs.
    how = {"resume": options.resume, "gpus": config.training.hardware.num_gpus or ALL_GPUS, **device, **pretrained}
    with others_first() as waiting:
        for fold in folds:
            if fold in left:
                launcher.run_stage(study, "train", how, [fold_key(fold)])
            with waiting():
                launcher.run_stage(study, "predict", device, assignment.held_out(fold))
        _score_and_test(launcher, study, config, options.num_workers_evaluate, device)


def _check_flags(options: TrainOptions, settings: Settings) -> None:
    """Refuse flags that no study can be trained with.

    Raises:
        ConfigError: Two of them contradict each other, or one names what there is not.
    """
    if options.resume and options.overwrite:
        raise ConfigError("--resume goes on with what is there, --overwrite replaces it. Give one of them.")
    if options.max_hours is not None and not options.submit:
        raise ConfigError("--max-hours is watched over by the queue of mist_ui. Give --submit, or leave it out.")
    for path in NAMES.keys() & settings.keys():
        NAMES[path][settings[path]]
    if options.device and not options.submit:  # a worker may have other devices
        from mist_ops.devices import resolve_device  # torch loads for seconds

        resolve_device(options.device)


def _check_metrics(study: Study, config: StudyConfig) -> None:
    from mist_ops.evaluation.score import check_classes  # SciPy loads for half a second

    try:
        check_classes(config.evaluation, config.dataset_info.labels)
    except ConfigError as error:
        raise ConfigError(f"{study.config}: {error}") from error


def _submit(
    launcher: Launcher, study: Study, options: TrainOptions, how: Mapping[str, Any], folds: Sequence[int]
) -> None:
    """Hand folds to the queue; several train at once there, so each has one GPU unless config.json says otherwise."""
    run_config = {**how, "gpus": read_config(study.config).training.hardware.num_gpus or 1}
    limit = {} if options.max_hours is None else {"dagster/max_runtime": str(round(3600 * options.max_hours))}
    # Dagster begins a run again that its limit ended, as it does where a worker is lost.
    retries = 0 if limit else _RETRIES
    tags = {"dagster/max_retries": str(retries), "dagster/priority": str(options.priority), **limit}
    for fold in folds:
        address = submit(study, "train", run_config, fold_key(fold), tags)
        launcher.progress.note(f"Fold {fold}: {address}")
    launcher.progress.note("mist_finalize predicts and scores what is trained.")


def finalize(launcher: Launcher, options: FinalizeOptions, settings: Settings) -> None:
    """Predict what the models there are have held out, score it, and predict the test set.

    Raises:
        ConfigError: No fold is trained, or some are not or are out of date; then what is there is done first.
    """
    study = _study(options)
    assignment, device = read_train_paths(study.train_paths), given("device", options.device)
    config = _configure(launcher, study, settings)
    _check_metrics(study, config)
    trained = [fold for fold in config.training.folds if study.model(fold).exists()]
    if not trained:
        raise ConfigError(f"There is no model in {study.models}. Run mist_train first.")
    outdated = predictions_to_make(study, config, assignment, trained)
    # Those of another program, or whose record is lost, are scored as they are.
    todo = [case_id for case_id, reason in outdated.items() if reason != NOT_RECORDED]
    with others_first() as waiting:
        if todo:
            with waiting():
                launcher.run_stage(study, "predict", device, todo)
        _score_and_test(launcher, study, config, options.num_workers_evaluate, device)
    untrained = [fold for fold in config.training.folds if fold not in trained]
    if untrained:
        raise ConfigError(f"Folds {few(untrained)} have no models, so the scores are of the others alone. Train them.")
    stale = [fold for fold in study_status(study).folds if study.passport(fold).exists()]
    if stale:
        raise ConfigError(f"The models of folds {few(stale)} are out of date, and so the scores. Train them anew.")


def status(launcher: Launcher, options: StatusOptions, settings: Settings) -> None:
    """Say what is out of date."""
    study = _study(options, numpy=options.numpy)
    found = study_status(study)
    if options.rebuild:
        count = rebuild(launcher, study, found)
        show_status(launcher, study)
        launcher.progress.note(f"Recorded {count} artifacts of {study.results} in {dagster_home()}.")
    _say_status(launcher, study, found)


def plan(launcher: Launcher, options: PlanOptions, settings: Settings) -> None:
    """Say what is out of date, and make it again if wanted: each stage for just the partitions that need it."""
    study = _study(options, numpy=options.numpy)
    found = study_status(study)
    outputs = _say_status(launcher, study, found)
    if options.apply and (outputs or not found.current):
        workers = {
            "preprocess_workers": options.num_workers_preprocess,
            "evaluate_workers": options.num_workers_evaluate,
        }
        make_current(launcher, study, found, PlanRun(device=options.device, **workers))
        _say_results(launcher, study, read_config(study.config))


def _say_status(launcher: Launcher, study: Study, found: Status) -> bool:
    """Say what is out of date; return whether outputs of tools are."""
    outputs = outdated_outputs(launcher.instance, study, found)
    for sentence in sentences(found, {output.path: reason for output, reason in outputs.items()}):
        launcher.progress.note(sentence)
    return bool(outputs)


def accept(launcher: Launcher, options: AcceptOptions, settings: Settings) -> None:
    """Copy the scores beside themselves."""
    from mist_ops.evaluation.accepted import check_whole
    from mist_ops.evaluation.score import columns

    study = _study(options)
    if not study.results_csv.is_file():
        raise ConfigError(f"There is no {study.results_csv} to accept. Run mist_train or mist_finalize first.")
    check_whole(study.results_csv, columns(read_config(study.config).evaluation))
    write_text(study.accepted_csv, study.results_csv.read_text(encoding="utf-8"))
    launcher.progress.note(f"Accepted: {study.accepted_csv}. A later table that is worse is told of.")


def choose_postprocessing(launcher: Launcher, options: ChoosePostprocessingOptions, settings: Settings) -> None:
    """Search for the postprocessing that helps."""
    study = _study(options)
    if not list(study.cv_predictions.glob("*.nii.gz")):
        raise ConfigError(f"There are no predictions in {study.cv_predictions}. Run mist_train first.")
    launcher.run_stage(study, "choose_postprocessing", {"workers": options.num_workers_postprocess})
    found = json.loads(study.strategy_search.read_text(encoding="utf-8"))
    for step in found["strategy"]:
        launcher.progress.note(f"  {step['transform']} of labels {step['apply_to_labels']}: {step['kwargs']}")
    gain = f"{found['before']:.4f} before, {found['after']:.4f} after"
    launcher.progress.note(f"Mean overlap: {gain}; {len(found['strategy'])} steps help. Strategy: {study.strategy}")


def _score_and_test(
    launcher: Launcher, study: Study, config: StudyConfig, workers: int, device: Mapping[str, str]
) -> None:
    with others_first() as waiting:
        with waiting():
            launcher.run_stage(study, "evaluate", {"workers": workers})
        _predict_test_set(launcher, study, config, device)
    show_status(launcher, study)
    _say_results(launcher, study, config)
    stale = list(stale_results(study, study_status(study)))
    if stale:
        launcher.progress.problem("Not all of these results are known to go together; mist_plan --apply would do:")
    for sentence in stale:
        launcher.progress.problem(f"  {sentence}")


def _predict_test_set(launcher: Launcher, study: Study, config: StudyConfig, device: Mapping[str, str]) -> None:
    untrained = [fold for fold in config.training.folds if not study.model(fold).exists()]
    if not study.test_paths.exists():
        return
    if untrained:
        launcher.progress.note(f"The test set waits for the models of folds {few(untrained)}.")
        return
    cases = read_paths(study.test_paths, config.dataset_info.images)
    if study.data:
        launcher.run_stage(study, "observe_tests")
    launcher.run_stage(study, "test", device, [case.id for case in cases])


def _say_results(launcher: Launcher, study: Study, config: StudyConfig) -> None:
    from mist_ops.evaluation.accepted import regressions
    from mist_ops.evaluation.table import read_summary

    launcher.progress.note(f"Scores: {study.results_csv}")
    if study.accepted_csv.is_file():
        for worse in regressions(study.results_csv, study.accepted_csv, config.evaluation):
            launcher.progress.problem(
                f"Worse than accepted: {worse.column} by {abs(worse.difference):.4g} over {worse.patients} patients "
                f"(95 % interval of the difference {worse.low:.4g} to {worse.high:.4g})."
            )
    for column, mean in read_summary(study.results_csv).items():
        launcher.progress.note(f"  mean {column}: {mean:.4f}")


def run_all(launcher: Launcher, options: RunAllOptions, settings: Settings) -> None:
    """Do all stages, or those that are left."""
    _check_flags(options, settings)  # before hours of preprocessing
    study = _study(options, data=options.data, numpy=options.numpy)
    if study.config.exists() and not options.overwrite and not options.resume:
        raise ConfigError(
            f"{study.config} exists already. Give --resume to go on with it, --overwrite to begin anew, "
            "or another folder with --results."
        )
    if not study.config.exists() or options.overwrite or options.update:
        _plan(launcher, study, options, settings)
    planned = override(read_config(study.config), settings)
    _folds_to_train(study, planned, read_train_paths(study.train_paths), options)
    preprocess(launcher, options, settings)
    train(launcher, options, settings)


def _study(options: StudyOptions, *, data: Path | None = None, numpy: Path | None = None) -> Study:
    if data is not None:
        read_description(data.expanduser())  # a study with a broken description is not worth registering
    elif not (options.results.expanduser() / "config.json").exists():
        raise ConfigError(
            f"There is no config.json in {options.results}. Run mist_analyze first, or name its --results."
        )
    return register(options.results, data=data, numpy=numpy, name=options.study)


def _configure(launcher: Launcher, study: Study, settings: Settings) -> StudyConfig:
    """Put flags into config.json once they are known to be usable, and report edits of the file to the graph."""
    before = read_config(study.config)
    config = override(before, settings)
    if any(path.startswith(("model", "training", "spatial_config")) for path in settings):
        check_names(config)  # loads torch, so only where a name or a size is new
    changes = edits(before, config)
    if changes:
        write_config(study.config, config)
    told = ", ".join(f"{path} = {value}" for path, value in changes.items())
    adopt_config(launcher.instance, study, config, f"flags: {told}" if told else "config.json was edited")
    return config


def _folds_to_train(
    study: Study, config: StudyConfig, assignment: Assignment, options: TrainOptions
) -> dict[int, Fold]:
    training = config.training
    folds = training.folds if options.folds is None else sorted(set(options.folds))
    unknown = sorted(set(folds) - set(range(training.nfolds)))
    if unknown:
        raise ConfigError(f"There are no folds {few(unknown)}. This study has folds 0 to {training.nfolds - 1}.")
    check_folds(assignment, training.nfolds)
    begun = [fold for fold in folds if study.model(fold).exists() or study.checkpoint(fold).exists()]
    if begun and not options.resume and not options.overwrite:
        raise ConfigError(
            f"Folds {few(begun)} have models or checkpoints in {study.results}. Give --resume to go on with them, "
            "--overwrite to train them anew, or --folds for others."
        )
    return {fold: make_fold(assignment, fold, training.val_percent, training.seed) for fold in folds}


def _is_left(launcher: Launcher, study: Study, config: StudyConfig, fold: Fold) -> bool:
    """Whether a fold is to be resumed: not where its model is done and current, and only its checkpoint was removed.

    Raises:
        ConfigError: It has a checkpoint of other settings or cases; or none, and its model is out of date.
    """
    from mist_ops.training.fold import made_from  # torch loads for seconds
    from mist_ops.training.state import changes_on_resuming

    weights, checkpoint = study.model(fold.index), study.checkpoint(fold.index)
    if checkpoint.exists():
        for change in changes_on_resuming(checkpoint, made_from(study, config, fold)):
            launcher.progress.note(f"Fold {fold.index} goes on, but {change}.")
    if checkpoint.exists() or not weights.exists():
        return True
    try:
        reasons = [*fold_changes(weights, fold), *verify(weights, study, config=config)]
    except ConfigError as error:
        reasons = [str(error)]
    if reasons:
        raise ConfigError(
            f"Fold {fold.index} has a model but no checkpoint to go on from. {reasons[0]} Restore {checkpoint}, or "
            f"train the fold anew with --overwrite --folds {fold.index}."
        )
    return False


def _weighting(options: TrainOptions) -> Settings:
    from mist_ops.losses.blending import weighting

    name = options.composite_loss_weighting
    return {} if name is None else {"training.loss.composite_loss_weighting": weighting(name)}


def _pretrained(options: TrainOptions, config: StudyConfig) -> dict[str, Any]:
    """Run config of transfer learning, once its files are known to fit."""
    weights, of_weights = options.pretrained_weights, options.pretrained_config
    if weights is None and of_weights is None:
        return {}
    if weights is None or of_weights is None:
        raise ConfigError(
            "--pretrained-weights and --pretrained-config belong together: the weights, and the config.json that they "
            "were trained with. Give both."
        )
    from mist_ops.training.transfer import Pretrained, check

    check(Pretrained(weights.expanduser(), of_weights.expanduser(), options.input_channel_strategy), config)
    paths = absolute({"weights": weights, "config_file": of_weights})
    return {"pretrained": {**paths, "input_channels": options.input_channel_strategy}}
