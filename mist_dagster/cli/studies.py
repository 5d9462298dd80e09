"""The commands on a study: how each checks its flags, and what it puts on the work list.

Imported after the flags are parsed, because Dagster loads here.
"""

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mist_dagster.assets.launchpad import launchpad
from mist_dagster.cli.options import (
    AcceptOptions,
    AnalyzeOptions,
    CalibrateOptions,
    ChoosePostprocessingOptions,
    FinalizeOptions,
    GuardOptions,
    KeepOptions,
    PlanOptions,
    PreprocessOptions,
    ReviewOptions,
    RunAllOptions,
    StatusOptions,
    StudyOptions,
    TrainOptions,
)
from mist_dagster.cli.run_config import Settings, absolute
from mist_dagster.cli.submission import queue_tags, submit_folds, submit_patients, submit_plan
from mist_dagster.freshness.keep import Choice, report_kept, undo
from mist_dagster.freshness.keep import keep as keep_artifacts
from mist_dagster.freshness.outputs import stale_outputs
from mist_dagster.freshness.rebuild import rebuild, record_current
from mist_dagster.freshness.review import report_review, reviewed
from mist_dagster.freshness.status import Status, as_json, duration, of_replica, report, stale_results
from mist_dagster.freshness.status import status as study_status
from mist_dagster.instance.home import dagster_home
from mist_dagster.instance.studies import owner_of_arrays, register
from mist_dagster.launch import Launcher, others_first
from mist_dagster.partitions import fold_index, fold_key
from mist_dagster.pipeline import Resources, in_order, make_current, run, show_status, stale_replicas
from mist_dagster.pipeline import analyze as analyze_study
from mist_dagster.runtime.locks import settings_lock
from mist_dagster.runtime.progress import shown
from mist_dagster.slurm.settings import find as slurm_settings
from mist_dagster.stages import STAGES
from mist_dagster.stages.settings import configure
from mist_ops.analysis.analyze import find_leaks
from mist_ops.analysis.folds import check_folds, make_fold
from mist_ops.config import NAMES, StudyConfig, override, read_config
from mist_ops.dataset import Assignment, Case, Fold, read_description, read_paths, read_train_paths
from mist_ops.errors import ConfigError, DatasetError, counted, few, listing
from mist_ops.files import file_hash, write_text
from mist_ops.records.arrays import CORRUPTED, NO_DISTANCES, NOT_PREPROCESSED, stale_arrays
from mist_ops.records.calibration import read_calibration, report_calibration
from mist_ops.records.comparison import why_stale
from mist_ops.records.guard import read_guard, summary
from mist_ops.records.history import record_accepted
from mist_ops.records.prediction import NOT_RECORDED, stale_predictions, stale_test_predictions
from mist_ops.records.source import check_arrays, check_dataset
from mist_ops.replicas import replica_seeds, replicate
from mist_ops.study import Study
from mist_ops.training.attempts import discard, resumable
from mist_ops.training.pretrained import present_model


def analyze(launcher: Launcher, options: AnalyzeOptions, settings: Settings) -> None:
    """Analyze a dataset, which makes it a study."""
    if options.update and options.overwrite:
        raise ConfigError(
            "--update keeps folds and edits, --overwrite discards them. Give one of them.", code="flags-contradict"
        )
    _check_replan(options)
    study = _study(options, data=options.data)
    if study.config.exists() and not options.overwrite and not options.update:
        raise ConfigError(
            f"{study.config} already exists. Use --update to keep its edits and the folds, --overwrite to replace it, "
            "or --results for another folder.",
            code="output-exists",
            file=study.config,
        )
    _analyze(launcher, study, options, settings)


def _check_replan(options: AnalyzeOptions) -> None:
    if options.replan and not options.update:
        raise ConfigError(
            "--replan replaces the plan that --update keeps. Give it with --update.", code="flags-contradict"
        )


def _analyze(launcher: Launcher, study: Study, options: AnalyzeOptions, settings: Settings) -> None:
    how = {
        "workers": options.num_workers_analyze,
        "verify": options.verify,
        "fresh": not options.update,
        "replan": options.replan,
    }
    analyze_study(launcher, study, {**how, **launchpad(settings)})
    if options.data_dump:
        launcher.run_stage(study, "dump", {"workers": options.num_workers_analyze})
        launcher.progress.note(f"Data dump: {shown(study.data_dump_md)}")


def preprocess(launcher: Launcher, options: PreprocessOptions, settings: Settings) -> None:
    """Preprocess the patients whose arrays are missing or stale."""
    study = _study(options, numpy=options.numpy)
    config = _configure(launcher, study, settings)
    cases = read_train_paths(study.train_paths).cases
    check_dataset(study)  # files that are missing fail by themselves
    reasons = _stale_arrays(study, config, cases, options)
    needed = [case.id for case in cases if options.overwrite or case.id in reasons]
    current = [case.id for case in cases if case.id not in reasons] if not options.overwrite else []
    record_current(launcher, study, STAGES["preprocess"], current)
    resources = Resources(workers={"preprocess": options.num_workers_preprocess})
    if options.submit:
        submit_patients(launcher, study, "preprocess", resources, needed, [case.id for case in cases])
        return
    run(launcher, study, in_order({"preprocess": needed}, {}), resources)
    patients = counted(len(cases), "patient")
    launcher.progress.note(
        f"Preprocessing complete: {len(needed)} of {patients} preprocessed into {shown(study.numpy)}"
    )


def _stale_arrays(
    study: Study, config: StudyConfig, cases: Sequence[Case], options: PreprocessOptions
) -> Mapping[str, str]:
    """Why arrays are missing or stale.

    Raises:
        ConfigError: Some are those of other files or settings, or of another program, and are not to be replaced.
    """
    reasons = stale_arrays(study, config, cases)
    foreign = sorted(name for name, why in reasons.items() if why == NOT_PREPROCESSED and study.image(name).exists())
    stale = [name for name, why in reasons.items() if why not in (NOT_PREPROCESSED, CORRUPTED, NO_DISTANCES)] + foreign
    if stale and not options.overwrite:
        owner = owner_of_arrays(study)
        raise ConfigError(
            f"{study.numpy} holds arrays of {counted(len(stale), 'patient')} made from other files or settings, or by "
            f"another program ({few(stale)}).{f' It is also the folder of {owner}.' if owner else ''} Use --overwrite "
            "to replace them, or --numpy for another folder.",
            code="arrays-differ",
            file=study.numpy,
            found=stale,
        )
    return reasons


def train(launcher: Launcher, options: TrainOptions, settings: Settings) -> None:
    """Train folds, predict their held-out patients, score the predictions, and predict the test set."""
    _check_flags(options, settings)
    study = _study(options, numpy=options.numpy)
    if options.seeds:
        train_seeds(launcher, study, options, {**settings, **_weighting(options)})
    else:
        _train(launcher, study, options, {**settings, **_weighting(options)})


def train_seeds(launcher: Launcher, study: Study, options: TrainOptions, settings: Settings) -> None:
    """Train a study once with each seed. The settings are those of the original, so the flags change them there."""
    seeds, own = replica_seeds(study, options.seeds or ()), read_config(study.config).training.seed
    kept = options.model_copy(update={"resume": not options.overwrite and not options.discard})
    with others_first() as holding_back:
        if own in seeds:
            with holding_back():
                _train(launcher, study, kept, settings)
        elif not options.discard:
            _configure(launcher, study, settings)
        for seed in (seed for seed in seeds if seed != own):
            if options.discard and not study.replica(seed).config.exists():
                continue
            replica = replicate(study, seed, redraw=options.redraw_validation, overwrite=options.overwrite)
            launcher.progress.note(f"Seed {seed}: {shown(replica.results)}")
            with holding_back():
                _train(launcher, register(replica.results), kept, {})


def _train(launcher: Launcher, study: Study, options: TrainOptions, settings: Settings) -> None:
    if options.discard:
        _discard(launcher, study, options.folds)
        return
    assignment = read_train_paths(study.train_paths)
    _check_dataset(launcher, study)
    check_arrays(study, assignment.cases, owner_of_arrays(study))
    config = override(read_config(study.config), settings)
    _check_metrics(study, config)  # before hours of training
    folds, pretrained = _folds_to_train(study, config, assignment, options), _pretrained(options, config)
    pretrained |= _warm_start(study, folds.values(), options)
    left = [index for index, fold in folds.items() if not options.resume or _is_left(launcher, study, config, fold)]
    _configure(launcher, study, settings)
    # Without either flag the folds are new; an unfinished training would have been refused.
    how = {"resume": options.resume, **pretrained}
    if options.submit:
        submit_folds(launcher, study, options, how, left)
        return
    current = [fold for fold in folds if fold not in left]
    stale = stale_predictions(study, config, assignment, _weights(study, current))
    needed: dict[str, Sequence[str] | None] = {
        "train": [fold_key(fold) for fold in left],
        "predict": [*(case_id for fold in left for case_id in assignment.held_out(fold)), *stale],
    }
    _run_and_report(launcher, study, needed, options, {"train": how})


def _discard(launcher: Launcher, study: Study, folds: Sequence[int] | None) -> None:
    """Remove unfinished trainings."""
    discarded = [fold for fold in folds or read_config(study.config).training.folds if discard(study, fold)]
    which = f" ({few(discarded)})" if discarded else ""
    launcher.progress.note(f"Discarded {counted(len(discarded), 'unfinished training')}{which}.")


def _check_flags(options: TrainOptions, settings: Settings) -> None:
    """Refuse flags that no study can be trained with.

    Raises:
        ConfigError: Two of them contradict each other, or one has an unknown name.
    """
    if options.resume and options.overwrite:
        raise ConfigError(
            "--resume continues existing trainings, --overwrite replaces them. Give one of them.",
            code="flags-contradict",
        )
    if options.discard and (options.resume or options.overwrite):
        raise ConfigError(
            "--discard only removes unfinished trainings. Give it without --resume and --overwrite.",
            code="flags-contradict",
        )
    if options.warm_start and (options.resume or options.pretrained_weights):
        other = "--resume" if options.resume else "--pretrained-weights"
        raise ConfigError(
            f"--warm-start and {other} start a training from different weights. Give one of them.",
            code="flags-contradict",
            found=["--warm-start", other],
        )
    if options.warm_start and options.seeds:
        raise ConfigError(
            "Runs that start from the same weights (--warm-start) are no replicas. Give it without --seeds.",
            code="flags-contradict",
            found=["--warm-start", "--seeds"],
        )
    if options.redraw_validation and not options.seeds:
        raise ConfigError(
            "--redraw-validation is for replicas. Give their seeds with --seeds.", code="flags-incomplete"
        )
    if options.max_hours is not None and not options.submit:
        raise ConfigError("--max-hours needs --submit: the queue enforces it.", code="flags-incomplete")
    for path in NAMES.keys() & settings.keys():
        NAMES[path][settings[path]]
    if options.device and not options.submit:  # a worker may have other devices
        from mist_ops.devices import resolve_device  # torch loads for seconds

        resolve_device(options.device)


def _check_dataset(launcher: Launcher, study: Study) -> None:
    """Check files and folds before hours of training, and warn of files that are missing.

    Raises:
        DatasetError: The dataset is missing or another one, or a fold trains on what it holds out.
    """
    for warning in check_dataset(study):
        launcher.progress.problem(warning)
    leaks = find_leaks(study)
    if leaks:
        raise DatasetError(listing(leaks), code="folds-leak", file=study.train_paths, found=leaks)


def _check_metrics(study: Study, config: StudyConfig) -> None:
    from mist_ops.evaluation.score import check_classes  # SciPy loads for half a second

    try:
        check_classes(config.evaluation, config.dataset_info.labels)
    except ConfigError as error:
        raise ConfigError(f"{study.config}: {error.message}", code=error.code, file=study.config) from error


def finalize(launcher: Launcher, options: FinalizeOptions, settings: Settings) -> None:
    """Predict the held-out patients of all trained folds, score the predictions, and predict the test set.

    Raises:
        ConfigError: No fold is trained; or some are not, or are stale, which is reported after the others are done.
    """
    study = _study(options)
    assignment = read_train_paths(study.train_paths)
    _check_dataset(launcher, study)
    config = _configure(launcher, study, settings)
    _check_metrics(study, config)
    trained = [fold for fold in config.training.folds if study.model(fold).exists()]
    if not trained:
        raise ConfigError(
            f"{study.models} holds no model. Run mist_train first.", code="model-missing", file=study.models
        )
    stale = stale_predictions(study, config, assignment, _weights(study, trained))
    # Predictions of another program, or without a record, are scored as they are.
    needed: dict[str, Sequence[str] | None] = {
        "predict": [case_id for case_id, reason in stale.items() if reason != NOT_RECORDED],
    }
    if options.submit:
        _submit_finalize(launcher, study, needed["predict"] or (), options)
    else:
        _run_and_report(launcher, study, needed, options, {})
    untrained = [fold for fold in config.training.folds if fold not in trained]
    if untrained:
        raise ConfigError(
            f"The scores cover the trained folds only; without a model: {few(untrained)}. Train them with mist_train.",
            code="folds-untrained",
            found=untrained,
        )
    old = [
        key
        for key in study_status(study, launcher.instance, as_analyzed=True).of("train")
        if study.passport(fold_index(key)).exists()
    ]
    if old:
        raise ConfigError(
            f"The models of {few([key.replace('_', ' ') for key in old])} are stale, and so are the scores. Retrain "
            "them.",
            code="models-stale",
            found=old,
        )


def _submit_finalize(launcher: Launcher, study: Study, patients: Sequence[str], options: FinalizeOptions) -> None:
    """Submit the prediction of some training patients, and the scores and the test patients where these are stale."""
    config = read_config(study.config)
    tests = _tests(launcher, study, config)
    if not patients and not tests and not study_status(study, as_analyzed=True).of("evaluate"):
        launcher.progress.note("Nothing to submit: predictions and scores are current.")
        return
    stages = [*(["predict"] if patients else []), "evaluate", *tests]
    submit_plan(launcher, study, options, stages=stages, patients=list(patients), seeds=[config.training.seed])


def status(launcher: Launcher, options: StatusOptions, settings: Settings) -> None:
    """Report what is stale."""
    study = _study(options, numpy=options.numpy)
    found = study_status(study, launcher.instance)
    replicas = [register(replica.results) for replica in study.replicas]
    if options.rebuild:
        count = rebuild(launcher, study, found)
        count += sum(rebuild(launcher, replica, study_status(replica, launcher.instance)) for replica in replicas)
        for each in (study, *replicas):
            show_status(launcher, each)
        artifacts = counted(count, "artifact")
        launcher.progress.note(f"Recorded {artifacts} of {study.results} in {dagster_home()}.")
    if options.json_output:
        known = as_json(found, _outputs(launcher, study, found))
        known["replicas"] = {
            str(replica.seed): as_json(of_replica(study_status(replica, launcher.instance))) for replica in replicas
        }
        sys.stdout.write(json.dumps(known, indent=2) + "\n")
    else:
        _report(launcher, study, found)


def plan(launcher: Launcher, options: PlanOptions, settings: Settings) -> None:
    """Report what is stale, and with --apply rebuild it: each stage for just the partitions that need it."""
    if options.submit and not options.apply:
        raise ConfigError("--submit needs --apply: it submits what --apply would do.", code="flags-incomplete")
    if options.apply and options.what_if:
        raise ConfigError(
            "--apply and --what-if contradict each other. Change the settings, then use --apply.",
            code="flags-contradict",
            found=["--apply", "--what-if"],
        )
    if options.warm_start and not options.apply:
        raise ConfigError("--warm-start needs --apply, which trains.", code="flags-incomplete", field="--warm-start")
    study = _study(options, numpy=options.numpy)
    found = study_status(study, launcher.instance, what_if=options.what_if)
    if options.what_if:
        launcher.progress.note(f"With {', '.join(options.what_if)}:")
    outputs = _report(launcher, study, found, options.what_if)
    if not options.apply:
        return
    if options.submit:
        if outputs or not found.current or stale_replicas(study, launcher.instance):
            submit_plan(launcher, study, options, warm_start=options.warm_start)
        return
    if outputs or not found.current:
        make_current(launcher, study, found, _resources(options), {"warm_start": options.warm_start})
        _report_scores(launcher, study, read_config(study.config))
    for replica, stale in stale_replicas(study, launcher.instance).items():
        make_current(launcher, replica, stale, _resources(options))


def _report(launcher: Launcher, study: Study, found: Status, what_if: Sequence[str] = ()) -> bool:
    """Report what is stale, also of the replicas of a study; return whether outputs of tools are."""
    outputs = _outputs(launcher, study, found)
    for line in report(found, outputs):
        launcher.progress.note(line)
    for replica in study.replicas:
        for line in report(of_replica(study_status(replica, launcher.instance, what_if=what_if))):
            launcher.progress.note(f"Seed {replica.seed}: {line[0].lower()}{line[1:]}")
    return bool(outputs)


def _outputs(launcher: Launcher, study: Study, found: Status) -> dict[Path, str]:
    """The stale outputs of tools, with the reason of each."""
    return {output.path: reason for output, reason in stale_outputs(launcher.instance, study, found).items()}


def keep(launcher: Launcher, options: KeepOptions, settings: Settings) -> None:
    """Keep stale artifacts, or undo that; then report what is stale."""
    study = _study(options, numpy=options.numpy)
    choice = Choice(options.stage, options.only, options.change)
    if options.undo:
        launcher.progress.note(report_kept(undo(launcher, study, choice), "No longer kept:"))
    else:
        launcher.progress.note(report_kept(keep_artifacts(launcher, study, choice, options.reason or ""), "Kept"))
    show_status(launcher, study)
    _report(launcher, study, study_status(study, launcher.instance))


def review(launcher: Launcher, options: ReviewOptions, settings: Settings) -> None:
    """Rank the masks where that is stale, and report the queue."""
    study = _study(options, numpy=options.numpy)
    found = study_status(study, launcher.instance)
    needed = {"review": study.review_queue, **({"label_next": study.label_queue} if options.tests else {})}
    if options.tests:
        _check_tests(study)
    stale: dict[str, None] = {name: None for name, path in needed.items() if not path.is_file() or found.of(name)}
    if stale:
        run(launcher, study, in_order(stale, {}), _resources(options))
        show_status(launcher, study)
    hours = duration(sum(found.hours.values())) if "train" in found.hours else ""
    for line in report_review(study, reviewed(study, lambda: (found.stale, hours)), options.length):
        launcher.progress.note(line)


def _check_tests(study: Study) -> None:
    """Refuse to rank test patients who do not exist, or are not predicted yet."""
    config = read_config(study.config)
    cases = read_paths(study.test_paths, config.dataset_info.images) if study.test_paths.exists() else []
    missing = [case.id for case in cases if not study.test_prediction(case.id).is_file()]
    if not cases or missing:
        found = f"{few(missing)} need prediction. Run mist_finalize" if cases else "there are none. Add some"
        raise ConfigError(
            f"--tests ranks the test patients, but {found} first.",
            code="predictions-missing",
            field="--tests",
            found=missing,
        )


def accept(launcher: Launcher, options: AcceptOptions, settings: Settings) -> None:
    """Copy the scores to accepted.csv."""
    from mist_ops.evaluation.accepted import check_whole
    from mist_ops.evaluation.score import columns

    study = _study(options)
    if not study.results_csv.is_file():
        raise ConfigError(
            f"{study.results_csv} does not exist. Run mist_train or mist_finalize first.",
            code="scores-missing",
            file=study.results_csv,
        )
    check_whole(study.results_csv, columns(read_config(study.config).evaluation))
    write_text(study.accepted_csv, study.results_csv.read_text(encoding="utf-8"))
    record_accepted(study)
    launcher.progress.note(f"Accepted: {study.accepted_csv}. Later scores are compared with it.")


def choose_postprocessing(launcher: Launcher, options: ChoosePostprocessingOptions, settings: Settings) -> None:
    """Search for the postprocessing that raises the scores."""
    study = _study(options)
    if not list(study.cv_predictions.glob("*.nii.gz")):
        raise ConfigError(
            f"{study.cv_predictions} holds no predictions. Run mist_train first.",
            code="predictions-missing",
            file=study.cv_predictions,
        )
    run(launcher, study, in_order({"choose_postprocessing": None}, {}), _resources(options))
    found = json.loads(study.strategy_search.read_text(encoding="utf-8"))
    for step in found["strategy"]:
        launcher.progress.note(f"  {step['transform']} of labels {step['apply_to_labels']}: {step['kwargs']}")
    gain = f"{found['before']:.4f} before, {found['after']:.4f} after"
    steps = counted(len(found["strategy"]), "step")
    launcher.progress.note(f"Mean overlap: {gain} ({steps}). Strategy: {shown(study.strategy)}")


def guard(launcher: Launcher, options: GuardOptions, settings: Settings) -> None:
    """Build the guard, and let it report on test patients that are predicted already."""
    study = _study(options)
    config = read_config(study.config)
    untrained = [fold for fold in config.training.folds if not study.model(fold).exists()]
    if untrained:
        raise ConfigError(
            f"The guard needs the models of all folds; without one: {few(untrained)}. Train them with mist_train.",
            code="model-missing",
            file=study.models,
            found=untrained,
        )
    resources = _resources(options)
    run(launcher, study, in_order({"guard": None}, {}, {"guard": {"damages": options.damages}}), resources)
    for line in summary(read_guard(study.guard)):
        launcher.progress.note(line)
    launcher.progress.note(f"Guard: {shown(study.guard)}")
    tests = read_paths(study.test_paths, config.dataset_info.images) if study.test_paths.exists() else []
    predicted = [case.id for case in tests if study.test_prediction(case.id).exists()]
    if predicted:
        run(launcher, study, in_order({"test": predicted}, {}), resources)


def calibrate(launcher: Launcher, options: CalibrateOptions, settings: Settings) -> None:
    """Fit the calibration of the models on their held-out patients, and report what it gains."""
    study = _study(options, numpy=options.numpy)
    config, assignment = read_config(study.config), read_train_paths(study.train_paths)
    trained = [fold for fold in config.training.folds if study.model(fold).is_file()]
    if not trained:
        raise ConfigError(
            f"{study.models} holds no model. Run mist_train first.", code="model-missing", file=study.models
        )
    check_arrays(study, assignment.cases, owner_of_arrays(study))
    if options.tests and (not study.test_paths.is_file() or len(trained) < len(config.training.folds)):
        raise ConfigError(
            "--tests needs test patients, and the models of all folds. Add test-data to dataset.json, or train the "
            "other folds.",
            code="tests-missing",
            field="--tests",
            found=trained,
            expected=list(config.training.folds),
        )
    run(launcher, study, in_order({"calibrate": None}, {}), _resources(options))
    for line in report_calibration(read_calibration(study.calibration)):
        launcher.progress.note(line)
    launcher.progress.note(f"Calibration: {shown(study.calibration)}")
    if options.tests:
        run(launcher, study, in_order({"calibrate_tests": None}, {}), _resources(options))
        launcher.progress.note(f"Volumes of the test patients: {shown(study.calibrated_volumes)}")


def _run_and_report(
    launcher: Launcher,
    study: Study,
    needed: Mapping[str, Sequence[str] | None],
    options: StudyOptions,
    how: Mapping[str, Mapping[str, Any]],
) -> None:
    """Run what a command needs; then score and predict the test set where stale; report scores and stale results."""
    config, resources = read_config(study.config), _resources(options)
    fold_of = read_train_paths(study.train_paths).fold_of
    with others_first() as holding_back:
        with holding_back():
            run(launcher, study, in_order(needed, fold_of, how), resources)
        later = {
            **({"evaluate": None} if study_status(study, as_analyzed=True).of("evaluate") else {}),
            **_tests(launcher, study, config),
        }
        with holding_back():
            run(launcher, study, in_order(later, {}), resources)
        if later or any(needed.values()):
            show_status(launcher, study)
        _report_scores(launcher, study, config)
        stale = stale_results(study, study_status(study, launcher.instance, as_analyzed=True))
        if not stale.current:
            launcher.progress.problem("Some results may not belong together; mist_plan --apply would rebuild:")
        for line in report(stale) if not stale.current else ():
            launcher.progress.problem(f"  {line}")


def _weights(study: Study, folds: Iterable[int]) -> dict[int, str]:
    """SHA-256 of the weights of some folds, current or not."""
    return {fold: file_hash(study.model(fold)) for fold in folds}


def _tests(launcher: Launcher, study: Study, config: StudyConfig) -> dict[str, Sequence[str] | None]:
    """The test patients whose prediction is missing or stale, if all folds have models."""
    untrained = [fold for fold in config.training.folds if not study.model(fold).exists()]
    if not study.test_paths.exists():
        return {}
    if untrained:
        folds = "fold" if len(untrained) == 1 else "folds"
        launcher.progress.note(f"Test set not predicted: {folds} {few(untrained)} not trained.")
        return {}
    cases = read_paths(study.test_paths, config.dataset_info.images)
    stale = stale_test_predictions(study, config, cases, _weights(study, config.training.folds))
    return {"test": list(stale)} if stale else {}


def _resources(options: StudyOptions) -> Resources:
    """What the flags of a command say of the machine."""
    workers = {stage: getattr(options, f"num_workers_{name}", 1) for stage, name in _WORKERS.items()}
    return Resources(getattr(options, "device", None), workers, figures=not getattr(options, "no_figures", False))


_WORKERS = {
    "analyze": "analyze",
    "preprocess": "preprocess",
    "evaluate": "evaluate",
    "review": "review",
    "choose_postprocessing": "postprocess",
}
"""The flag ``--num-workers-…`` of each stage that has workers."""


def _report_scores(launcher: Launcher, study: Study, config: StudyConfig) -> None:
    from mist_ops.evaluation.accepted import regressions
    from mist_ops.evaluation.table import read_summary

    launcher.progress.note(f"Scores: {shown(study.results_csv)}")
    if study.accepted_csv.is_file():
        for worse in regressions(study.results_csv, study.accepted_csv, config.evaluation):
            launcher.progress.problem(
                f"Worse than accepted: {worse.column} by {abs(worse.difference):.4g} over {worse.patients} patients "
                f"(95 % interval of the difference {worse.low:.4g} to {worse.high:.4g})."
            )
    for column, mean in read_summary(study.results_csv).items():
        launcher.progress.note(f"  mean {column}: {mean:.4f}")


def run_all(launcher: Launcher, options: RunAllOptions, settings: Settings) -> None:
    """Run all stages, or those that are left."""
    _check_flags(options, settings)  # before hours of preprocessing
    _check_replan(options)
    study = _study(options, data=options.data, numpy=options.numpy)
    if study.config.exists() and not options.overwrite and not options.resume:
        raise ConfigError(
            f"{study.config} already exists. Use --resume to continue with it, --overwrite to start over, or "
            "--results for another folder.",
            code="output-exists",
            file=study.config,
        )
    if not study.config.exists() or options.overwrite or options.update:
        _analyze(launcher, study, options, settings)
    if options.submit and slurm_settings(study):
        _submit_stages(launcher, study, options, {**settings, **_weighting(options)})
        return
    planned = override(read_config(study.config), settings)
    _folds_to_train(study, planned, read_train_paths(study.train_paths), options)
    preprocess(launcher, options.model_copy(update={"submit": False}), settings)  # of the folds alone
    train(launcher, options, settings)


def _submit_stages(launcher: Launcher, study: Study, options: RunAllOptions, settings: Settings) -> None:
    """Submit everything after the analysis as one run, which submits the stages in turn: on Slurm, as jobs."""
    assignment = read_train_paths(study.train_paths)
    _check_dataset(launcher, study)
    config = override(read_config(study.config), settings)
    _check_metrics(study, config)
    seeds = replica_seeds(study, options.seeds or [config.training.seed])
    folds = sorted(_folds_to_train(study, config, assignment, options))
    _stale_arrays(study, config, assignment.cases, options)
    pretrained = _pretrained(options, config)
    _configure(launcher, study, settings)
    for seed in (seed for seed in seeds if seed != config.training.seed):
        replica = replicate(study, seed, redraw=options.redraw_validation, overwrite=options.overwrite)
        register(replica.results)
    models = {fold for fold in config.training.folds if fold in folds or study.model(fold).exists()}
    submit_plan(
        launcher,
        study,
        options,
        **pretrained,
        stages=[
            "preprocess",
            "train",
            "predict",
            "evaluate",
            *(["test"] if models >= set(config.training.folds) else []),
        ],
        folds=folds,
        patients=[case_id for fold in folds for case_id in assignment.held_out(fold)],
        seeds=seeds,
        overwrite=options.overwrite,
        warm_start=options.warm_start,
        training_tags=queue_tags(options),
    )


def _study(options: StudyOptions, *, data: Path | None = None, numpy: Path | None = None) -> Study:
    if data is not None:
        read_description(data.expanduser())  # a study whose description is broken is not registered
    elif not (options.results.expanduser() / "config.json").exists():
        raise ConfigError(
            f"{options.results} holds no config.json. Run mist_analyze first, or name its folder with --results.",
            code="config-missing",
            file=options.results / "config.json",
        )
    return register(options.results, data=data, numpy=numpy, name=options.study)


def _configure(launcher: Launcher, study: Study, settings: Settings) -> StudyConfig:
    with settings_lock(study):
        return configure(launcher.instance, study, settings, "flags")


def _folds_to_train(
    study: Study, config: StudyConfig, assignment: Assignment, options: TrainOptions
) -> dict[int, Fold]:
    training = config.training
    folds = training.folds if options.folds is None else sorted(set(options.folds))
    unknown = sorted(set(folds) - set(range(training.nfolds)))
    if unknown:
        raise ConfigError(
            f"{'Fold' if len(unknown) == 1 else 'Folds'} {few(unknown)} {'does' if len(unknown) == 1 else 'do'} not "
            f"exist; this study has folds 0–{training.nfolds - 1}.",
            code="unknown-fold",
            found=unknown,
            expected=list(range(training.nfolds)),
        )
    check_folds(assignment, training.nfolds)
    begun = [
        fold for fold in folds if any(path(fold).exists() for path in (study.model, study.checkpoint, study.attempt))
    ]
    if begun and not options.resume and not options.overwrite:
        raise ConfigError(
            f"{study.results} has models or checkpoints of {counted(len(begun), 'fold')} ({few(begun)}). Use --resume "
            "to continue them, --overwrite to retrain them, or --folds to choose others.",
            code="output-exists",
            file=study.results,
            found=begun,
        )
    return {
        fold: make_fold(assignment, fold, training.val_percent, training.seed_of_validation, training.validation_cases)
        for fold in folds
    }


def _is_left(launcher: Launcher, study: Study, config: StudyConfig, fold: Fold) -> bool:
    """Whether a resumed fold needs training: if it has an unfinished training, or its model is missing or stale.

    Raises:
        ConfigError: Its checkpoint has other settings or cases; or it has none, and its model is stale.
    """
    weights, checkpoint = study.model(fold.index), resumable(study, fold.index)
    reasons = why_stale(study, config, fold) if weights.exists() else []
    if weights.exists() and not reasons and not study.attempt(fold.index).exists():
        return False
    if checkpoint:
        from mist_ops.training.plan import run_settings  # torch takes seconds to load
        from mist_ops.training.state import changes_on_resuming

        for change in changes_on_resuming(checkpoint, run_settings(study, config, fold)):
            launcher.progress.note(f"Fold {fold.index} resumes, but {change}.")
    elif reasons:
        raise ConfigError(
            f"Fold {fold.index} has a model but no checkpoint to resume from. {reasons[0]} Restore "
            f"{study.checkpoint(fold.index)}, or retrain the fold with --overwrite --folds {fold.index}.",
            code="checkpoint-missing",
            file=study.checkpoint(fold.index),
        )
    return True


def _weighting(options: TrainOptions) -> Settings:
    from mist_ops.losses.blending import weighting

    name = options.composite_loss_weighting
    return {} if name is None else {"training.loss.composite_loss_weighting": weighting(name)}


def _warm_start(study: Study, folds: Iterable[Fold], options: TrainOptions) -> dict[str, Any]:
    """Run config of a training from the present models, after checking that there are some that fit."""
    if not options.warm_start:
        return {}
    missing = [fold.index for fold in folds if present_model(study, fold) is None]
    if missing:
        raise ConfigError(
            f"--warm-start starts each fold from its present model; without one: {few(missing)}. Train them first, or "
            "choose others with --folds.",
            code="model-missing",
            file=study.models,
            found=missing,
        )
    return {"warm_start": True}


def _pretrained(options: TrainOptions, config: StudyConfig) -> dict[str, Any]:
    """Run config of transfer learning, after checking that its files fit."""
    weights, of_weights = options.pretrained_weights, options.pretrained_config
    if weights is None and of_weights is None:
        return {}
    if weights is None or of_weights is None:
        raise ConfigError(
            "--pretrained-weights needs --pretrained-config, the config.json that the weights were trained with, and "
            "vice versa. Give both.",
            code="flags-incomplete",
        )
    from mist_ops.training.pretrained import Pretrained
    from mist_ops.training.transfer import check

    check(Pretrained(weights.expanduser(), of_weights.expanduser(), options.input_channel_strategy), config)
    paths = absolute({"weights": weights, "config_file": of_weights})
    return {"pretrained": {**paths, "input_channels": options.input_channel_strategy}}
