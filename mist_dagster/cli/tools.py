"""Commands on files outside a study: each turns its flags into run config and runs the tool.

Imports Dagster, so it is imported after the flags are parsed.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mist_dagster.cli.options import (
    AverageWeightsOptions,
    CompareOptions,
    ConvertCsvOptions,
    ConvertMsdOptions,
    ConvertNnunetOptions,
    EnsembleOptions,
    EvaluateOptions,
    PostprocessOptions,
    PredictOptions,
    RankOptions,
)
from mist_dagster.cli.run_config import Settings, absolute, given
from mist_dagster.launch import Launcher, others_first
from mist_ops.errors import ConfigError
from mist_ops.files import read_object


def predict(launcher: Launcher, options: PredictOptions, settings: Settings) -> None:
    """Predict the masks of new patients."""
    paths = {
        "models_dir": options.models_dir,
        "config_file": options.config,
        "paths_csv": options.paths_csv,
        "strategy": options.postprocess_strategy,
    }
    if options.calibrated and options.postprocess_strategy:
        raise ConfigError(
            "--calibrated and --postprocess-strategy contradict each other: the intervals are those of masks without "
            "postprocessing. Give one of them.",
            code="flags-contradict",
            found=["--calibrated", "--postprocess-strategy"],
        )
    asked = {"probabilities": options.output_probs, "calibrated": options.calibrated}
    run = {**absolute(paths), **given("device", options.device), **asked}
    run |= {"strict": True} if options.strict else {}
    launcher.run_tool("prediction", options.output, run)
    launcher.progress.note(f"Predictions: {options.output}")
    if options.calibrated:
        launcher.progress.note(f"Volumes: {options.output / 'volumes.csv'}")


def evaluate(launcher: Launcher, options: EvaluateOptions, settings: Settings) -> None:
    """Score predicted masks."""
    paths = absolute({"config_file": options.config, "paths_csv": options.paths_csv})
    run = {
        "workers": options.num_workers_evaluate,
        "validate_masks": options.validate_masks,
        "absent": options.absent,
        "figures": not options.no_figures,
    }
    launcher.run_tool("evaluation", options.output_csv, {**paths, **run})
    launcher.progress.note(f"Scores: {options.output_csv}")


def rank(launcher: Launcher, options: RankOptions, settings: Settings) -> None:
    """Rank tables of scores."""
    further = {
        "directions": options.metric_direction_overrides,
        "detailed_csv": options.output_detailed_csv,
        "significance_csv": options.significance_csv,
    }
    how = {"id_column": options.id_column, "missing": options.missing, "figures": not options.no_figures}
    run: dict[str, Any] = {**absolute(further), **how}
    names = {"names": options.names} if options.names else {}
    launcher.run_tool("ranking", options.output_csv, {**run, **names, "results": _absolute(options.results)})
    launcher.progress.note(f"Ranking: {options.output_csv}")


def compare(launcher: Launcher, options: CompareOptions, settings: Settings) -> None:
    """Compare methods by the scores of their runs, and report the verdicts."""
    from mist_ops.comparison.report import read_lines  # imports SciPy
    from mist_ops.comparison.sides import absolute_side

    if len(options.sides) < 2:
        raise ConfigError(
            f"mist_compare needs two or more methods; got {len(options.sides)}. Give the results folders of two "
            "studies, or tables of scores.",
            code="too-few-inputs",
            found=options.sides,
        )
    run: dict[str, Any] = {"sides": [absolute_side(side) for side in options.sides]}
    run |= {"noise": absolute_side(options.noise)} if options.noise else {}
    run |= {"names": options.names} if options.names else {}
    launcher.run_tool("comparison", options.output_csv, run)
    for line in read_lines(options.output_csv):
        launcher.progress.note(line)
    launcher.progress.note(f"Comparison: {options.output_csv}")


def postprocess(launcher: Launcher, options: PostprocessOptions, settings: Settings) -> None:
    """Postprocess a folder of predictions, and score the result if masks and metrics are given."""
    from mist_ops.evaluation.score import read_evaluation  # imports SciPy
    from mist_ops.evaluation.table import Pair, read_masks, write_pairs
    from mist_ops.postprocessing.case import failures_of, masks_of

    if (options.paths_csv is None) != (options.eval_config is None):
        flag, missing = ("--paths-csv", "--eval-config") if options.paths_csv else ("--eval-config", "--paths-csv")
        raise ConfigError(
            f"{flag} requires {missing}: scoring needs both the masks and the metrics.",
            code="flags-incomplete",
            field=missing,
        )
    output = options.output.expanduser().resolve()
    # Checked before anything is written.
    masks = read_masks(options.paths_csv.expanduser()) if options.paths_csv else {}
    if options.eval_config:
        read_evaluation(options.eval_config.expanduser())
    paths = absolute({"predictions": options.base_predictions, "strategy": options.postprocess_strategy})
    with others_first() as waiting:
        with waiting():
            launcher.run_tool("postprocessed", output, {**paths, "workers": options.num_workers_postprocess})
            launcher.progress.note(f"Postprocessed: {masks_of(output)}")
        if options.eval_config is None:
            return
        # A failed patient keeps its earlier mask, which is not scored with those of this run.
        failed = read_object(failures_of(output)) if failures_of(output).exists() else {}
        scored_masks = {case_id: mask for case_id, mask in masks.items() if case_id not in failed}
        pairs = [Pair(case_id, mask, masks_of(output) / f"{case_id}.nii.gz") for case_id, mask in scored_masks.items()]
        if not pairs:
            return
        write_pairs(output / "postprocess_paths.csv", pairs)
        scored = absolute({"config_file": options.eval_config, "paths_csv": output / "postprocess_paths.csv"})
        results = output / "postprocess_results.csv"
        launcher.run_tool("evaluation", results, {**scored, "workers": options.num_workers_evaluate})
        launcher.progress.note(f"Scores: {results}")


def ensemble(launcher: Launcher, options: EnsembleOptions, settings: Settings) -> None:
    """Combine folders of predictions."""
    labels = options.input_type == "labels"
    if not labels and options.config is None:
        raise ConfigError(
            "--input-type probabilities requires --config: the config.json with the labels of the classes.",
            code="flags-incomplete",
            field="--config",
        )
    run = {
        "predictions": _absolute(options.predictions),
        "backend": options.ensemble_backend if labels else options.probability_ensemble_backend,
        "workers": options.num_workers_ensemble,
        **({} if labels else absolute({"config_file": options.config})),
    }
    launcher.run_tool("ensemble", options.output, run)
    launcher.progress.note(f"Masks: {options.output}")


def convert_msd(launcher: Launcher, options: ConvertMsdOptions, settings: Settings) -> None:
    """Convert a dataset of the Medical Segmentation Decathlon."""
    run = {"workers": options.num_workers_conversion, "overwrite": options.overwrite}
    launcher.run_tool("converted_msd", options.output, {**run, **absolute({"source": options.source})})
    launcher.progress.note(f"Converted: {options.output / 'dataset.json'}")


def convert_nnunet(launcher: Launcher, options: ConvertNnunetOptions, settings: Settings) -> None:
    """Convert a dataset of nnU-Net v2."""
    run = {"workers": options.num_workers_conversion, "overwrite": options.overwrite}
    launcher.run_tool("converted_nnunet", options.output, {**run, **absolute({"source": options.source})})
    launcher.progress.note(f"Converted: {options.output / 'dataset.json'}")


def convert_csv(launcher: Launcher, options: ConvertCsvOptions, settings: Settings) -> None:
    """Convert a dataset described by tables of paths."""
    run = {"workers": options.num_workers_conversion, "overwrite": options.overwrite}
    tables = absolute({"train_csv": options.train_csv, "test_csv": options.test_csv})
    launcher.run_tool("converted_csv", options.output, {**run, **tables})
    launcher.progress.note(f"Converted: {options.output / 'dataset.json'}")
    launcher.progress.note("Set 'task' and 'modality' (ct, mr or other) in dataset.json before running mist_analyze.")


def average_weights(launcher: Launcher, options: AverageWeightsOptions, settings: Settings) -> None:
    """Average the weights of several models."""
    run = {"weights": _absolute(options.weights), "overwrite": options.overwrite}
    launcher.run_tool("averaged_weights", options.output, run)
    launcher.progress.note(f"Weights: {options.output}")


def _absolute(paths: Sequence[Path]) -> list[str]:
    return [str(path.expanduser().resolve()) for path in paths]
