"""The ``mist_*`` commands: each reads its flags, sees that they make sense, and runs the jobs that it stands for.

What is imported at the top is light, so that ``--help`` answers at once; Dagster comes when there is work to do.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mist_dagster.options import (
    AnalyzeOptions,
    AverageWeightsOptions,
    Chosen,
    ConvertMsdOptions,
    EvaluateOptions,
    PredictOptions,
    PreprocessOptions,
    RunAllOptions,
    StudyOptions,
    TrainOptions,
    UiOptions,
    parse,
)
from mist_ops.config import StudyConfig, check_names, edits, override, read_config, write_config
from mist_ops.errors import ConfigError, MistError
from mist_ops.study import Study

if TYPE_CHECKING:
    from mist_dagster.launch import Launcher

Settings = Mapping[str, Any]
"""Settings given as flags, by their dotted path in config.json."""


def analyze(arguments: Sequence[str] | None = None) -> int:
    """Measure a dataset; write its config.json, folds and foreground boxes."""
    return _main("mist_analyze", AnalyzeOptions, ["analyze"], arguments, _analyze, analyze.__doc__)


def preprocess(arguments: Sequence[str] | None = None) -> int:
    """Turn the images of an analyzed dataset into arrays."""
    return _main("mist_preprocess", PreprocessOptions, ["preprocess"], arguments, _preprocess, preprocess.__doc__)


def train(arguments: Sequence[str] | None = None) -> int:
    """Train the folds, predict what each held out, and score the predictions."""
    return _main("mist_train", TrainOptions, ["train"], arguments, _train, train.__doc__)


def run_all(arguments: Sequence[str] | None = None) -> int:
    """Analyze, preprocess, train, predict and evaluate: from dataset.json to results.csv."""
    stages = ["analyze", "preprocess", "train"]
    return _main("mist_run_all", RunAllOptions, stages, arguments, _run_all, run_all.__doc__)


def predict(arguments: Sequence[str] | None = None) -> int:
    """Predict masks of new patients with all models of a folder together."""
    return _main("mist_predict", PredictOptions, [], arguments, _predict, predict.__doc__)


def evaluate(arguments: Sequence[str] | None = None) -> int:
    """Score predicted masks against true ones."""
    return _main("mist_evaluate", EvaluateOptions, [], arguments, _evaluate, evaluate.__doc__)


def convert_msd(arguments: Sequence[str] | None = None) -> int:
    """Convert a dataset of the Medical Segmentation Decathlon."""
    return _main("mist_convert_msd", ConvertMsdOptions, [], arguments, _convert_msd, convert_msd.__doc__)


def average_weights(arguments: Sequence[str] | None = None) -> int:
    """Average the weights of several networks of one kind, element by element."""
    purpose = average_weights.__doc__
    return _main("mist_average_weights", AverageWeightsOptions, [], arguments, _average_weights, purpose)


def ui(arguments: Sequence[str] | None = None) -> int:
    """Serve the web UI and the daemon on this machine, and nowhere else, until Ctrl-C."""
    options, _ = parse("mist_ui", ui.__doc__, UiOptions, [], arguments)
    from mist_dagster.home import serve

    return serve(options.port)


def _main(
    command: str,
    options: type[Chosen],
    stages: Sequence[str],
    arguments: Sequence[str] | None,
    work: Callable[["Launcher", Chosen, Settings], None],
    purpose: str | None,
) -> int:
    """Run a command; return 0, 1 for an error that a sentence on the terminal explains, or 130 for an interruption."""
    chosen, settings = parse(command, purpose, options, stages, arguments)
    from mist_dagster.launch import RunCanceledError, RunFailedError, launcher
    from mist_dagster.progress import TerminalProgress

    with TerminalProgress() as progress:
        try:
            with launcher(progress) as opened:
                work(opened, chosen, settings)
        except (KeyboardInterrupt, RunCanceledError):
            progress.problem("Interrupted. What was finished is kept.")
            return 130
        except MistError as error:
            if chosen.debug:
                progress.problem(error.details if isinstance(error, RunFailedError) else repr(error.__cause__ or error))
            progress.problem(f"Error: {error}")
            return 1
    return 0


def _analyze(launcher: "Launcher", options: AnalyzeOptions, settings: Settings) -> None:
    study = _study(options, data=options.data)
    if study.config.exists() and not options.overwrite:
        raise ConfigError(
            f"{study.config} exists already. Give --overwrite to analyze anew, or another folder with --results."
        )
    _plan(launcher, study, options, settings)


def _plan(launcher: "Launcher", study: Study, options: AnalyzeOptions, settings: Settings) -> None:
    from mist_dagster.assets.analysis import launchpad
    from mist_dagster.launch import ask_for_reload
    from mist_ops.analysis.analyze import read_fingerprint

    launcher.run_stage(study, "observe")
    how = {"workers": options.num_workers_analyze, "verify": options.verify, "fresh": True}
    launcher.run_stage(study, "analyze", {**how, **launchpad(settings)})
    ask_for_reload()
    fingerprint = read_fingerprint(study)
    for case_id, reasons in fingerprint.excluded.items():
        launcher.progress.problem(f"Left out: case '{case_id}': {'; '.join(reasons)}")
    for warning in fingerprint.warnings:
        launcher.progress.note(f"Warning: {warning}")
    launcher.progress.note(f"Analysis complete: {study.config}")


def _preprocess(launcher: "Launcher", options: PreprocessOptions, settings: Settings) -> None:
    from mist_ops.dataset import read_train_paths
    from mist_ops.preprocessing.case import is_current

    study = _study(options, numpy=options.numpy)
    config = _configure(launcher, study, settings)
    cases = read_train_paths(study.train_paths).cases
    current = {case.id for case in cases if is_current(study, case, config)}
    outdated = [case.id for case in cases if case.id not in current and study.image(case.id).exists()]
    if outdated and not options.overwrite:
        raise ConfigError(
            f"{study.numpy} holds arrays of {len(outdated)} patients that were made from other files or settings, or "
            f"by another program ({_some(outdated)}). Give --overwrite to replace them, or another folder with --numpy."
        )
    todo = [case.id for case in cases if options.overwrite or case.id not in current]
    if todo and study.data:
        launcher.run_stage(study, "observe")
    if todo:
        launcher.run_stage(study, "preprocess", {"workers": options.num_workers_preprocess}, todo)
    launcher.progress.note(f"Preprocessing complete: {study.numpy} ({len(todo)} of {len(cases)} patients were to do)")


def _train(launcher: "Launcher", options: TrainOptions, settings: Settings) -> None:
    from mist_dagster.gpu import ALL_GPUS
    from mist_dagster.partitions import fold_key
    from mist_ops.dataset import read_train_paths

    if options.resume and options.overwrite:
        raise ConfigError("--resume goes on with what is there, --overwrite replaces it. Give one of them.")
    study = _study(options, numpy=options.numpy)
    settings = {**settings, **_weighting(options)}
    config = override(read_config(study.config), settings)
    folds, pretrained = _folds_to_train(study, config, options), _pretrained(options, config)
    _configure(launcher, study, settings)
    assignment, device = read_train_paths(study.train_paths), _given("device", options.device)
    # One fold after another, so each may have all GPUs.
    how = {"resume": options.resume, "gpus": config.training.hardware.num_gpus or ALL_GPUS, **device, **pretrained}
    for fold in folds:
        launcher.run_stage(study, "train", how, [fold_key(fold)])
        launcher.run_stage(study, "predict", device, assignment.held_out(fold))
    launcher.run_stage(study, "evaluate", {"workers": options.num_workers_evaluate})
    _predict_test_set(launcher, study, config, device)
    _say_results(launcher, study, config)


def _predict_test_set(launcher: "Launcher", study: Study, config: StudyConfig, device: Mapping[str, str]) -> None:
    from mist_ops.dataset import read_paths

    untrained = [fold for fold in config.training.folds if not study.model(fold).exists()]
    if not study.test_paths.exists():
        return
    if untrained:
        launcher.progress.note(f"The test set waits for the models of folds {_some(untrained)}.")
        return
    cases = read_paths(study.test_paths, config.dataset_info.images)
    if study.data:
        launcher.run_stage(study, "observe_tests")
    launcher.run_stage(study, "test", device, [case.id for case in cases])


def _say_results(launcher: "Launcher", study: Study, config: StudyConfig) -> None:
    from mist_ops.evaluation.table import read_summary

    launcher.progress.note(f"Scores: {study.results_csv}")
    for column, mean in read_summary(study.results_csv).items():
        launcher.progress.note(f"  mean {column}: {mean:.4f}")


def _run_all(launcher: "Launcher", options: RunAllOptions, settings: Settings) -> None:
    study = _study(options, data=options.data, numpy=options.numpy)
    if study.config.exists() and not options.overwrite and not options.resume:
        raise ConfigError(
            f"{study.config} exists already. Give --resume to go on with it, --overwrite to begin anew, "
            "or another folder with --results."
        )
    if not study.config.exists() or options.overwrite:
        _plan(launcher, study, options, settings)
    _preprocess(launcher, options, settings)
    _train(launcher, options, settings)


def _predict(launcher: "Launcher", options: PredictOptions, settings: Settings) -> None:
    device = _given("device", options.device)
    paths = {"models_dir": options.models_dir, "config_file": options.config, "paths_csv": options.paths_csv}
    launcher.run_tool("prediction", options.output, {**_absolute(paths), **device})
    launcher.progress.note(f"Predictions: {options.output}")


def _evaluate(launcher: "Launcher", options: EvaluateOptions, settings: Settings) -> None:
    paths = _absolute({"config_file": options.config, "paths_csv": options.paths_csv})
    run = {"workers": options.num_workers_evaluate, "validate_masks": options.validate_masks}
    launcher.run_tool("evaluation", options.output_csv, {**paths, **run})
    launcher.progress.note(f"Scores: {options.output_csv}")


def _convert_msd(launcher: "Launcher", options: ConvertMsdOptions, settings: Settings) -> None:
    run = {**_absolute({"source": options.source}), "workers": options.num_workers_conversion}
    launcher.run_tool("converted_dataset", options.output, run)
    launcher.progress.note(f"Converted: {options.output / 'dataset.json'}")


def _average_weights(launcher: "Launcher", options: AverageWeightsOptions, settings: Settings) -> None:
    files = [str(path.expanduser().resolve()) for path in options.weights]
    launcher.run_tool("averaged_weights", options.output, {"weights": files, "overwrite": options.overwrite})
    launcher.progress.note(f"Weights: {options.output}")


def _study(options: StudyOptions, *, data: Path | None = None, numpy: Path | None = None) -> Study:
    from mist_dagster.studies import register

    if data is not None:
        from mist_ops.dataset import read_description

        read_description(data.expanduser())  # a study with a broken description is not worth registering
    elif not (options.results.expanduser() / "config.json").exists():
        raise ConfigError(
            f"There is no config.json in {options.results}. Run mist_analyze first, or name its --results."
        )
    return register(options.results, data=data, numpy=numpy, name=options.study)


def _configure(launcher: "Launcher", study: Study, settings: Settings) -> StudyConfig:
    """Put flags into config.json once they are known to be usable, and report edits of the file to the graph."""
    from mist_dagster.provenance import adopt_config

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


def _folds_to_train(study: Study, config: StudyConfig, options: TrainOptions) -> list[int]:
    folds = config.training.folds if options.folds is None else sorted(set(options.folds))
    unknown = sorted(set(folds) - set(range(config.training.nfolds)))
    if unknown:
        raise ConfigError(
            f"There are no folds {_some(unknown)}. This study has folds 0 to {config.training.nfolds - 1}."
        )
    begun = [fold for fold in folds if study.model(fold).exists() or study.checkpoint(fold).exists()]
    if begun and not options.resume and not options.overwrite:
        raise ConfigError(
            f"Folds {_some(begun)} have models or checkpoints in {study.results}. Give --resume to go on with them, "
            "--overwrite to train them anew, or --folds for others."
        )
    return folds


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
    paths = _absolute({"weights": weights, "config_file": of_weights})
    return {"pretrained": {**paths, "input_channels": options.input_channel_strategy}}


def _given(name: str, value: str | None) -> dict[str, str]:
    return {} if value is None else {name: value}


def _absolute(paths: Mapping[str, Path]) -> dict[str, str]:
    return {name: str(path.expanduser().resolve()) for name, path in paths.items()}


def _some(items: Sequence[object], most: int = 5) -> str:
    shown = ", ".join(str(item) for item in items[:most])
    return shown if len(items) <= most else f"{shown} and {len(items) - most} more"
