"""Stand-alone commands on paths of the user's choice, outside every study; an output's path is its partition."""

from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Optional

import dagster as dg
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition
from pydantic import Field

from mist_dagster import metadata
from mist_dagster.gpu import leased_devices
from mist_dagster.progress import Progress
from mist_dagster.provenance import CODE_VERSION, collect, interruptible
from mist_ops.config import read_config
from mist_ops.conversion.msd import convert_msd
from mist_ops.dataset import Case, read_paths
from mist_ops.evaluation.score import columns, read_classes
from mist_ops.evaluation.table import evaluate, read_pairs, write_results
from mist_ops.files import file_hash, json_hash
from mist_ops.workers import Outcome, outcomes

OUTPUTS = dg.DynamicPartitionsDefinition(name="tool_outputs")
TOOLS = ("prediction", "evaluation", "converted_dataset", "averaged_weights")


class PredictionTool(dg.Config):
    """What to predict, with which models."""

    models_dir: str = Field(description="Folder with fold_0.pt, fold_1.pt, ...")
    config_file: str = Field(description="config.json that the models were trained with.")
    paths_csv: str = Field(description="Table with the column id and one column per channel.")
    device: Optional[str] = Field(None, description="cpu, cuda or a number; a GPU if there is one.")  # noqa: UP045


class EvaluationTool(dg.Config):
    """What to score, and how."""

    config_file: str = Field(description="config.json, or a table of classes and metrics alone.")
    paths_csv: str = Field(description="Table with the columns id, mask and prediction.")
    workers: int = Field(1, description="Processes that score cases.")
    validate_masks: bool = Field(False, description="Refuse masks with labels that no class names.")


class ConversionTool(dg.Config):
    """What to convert."""

    source: str = Field(description="Folder of the dataset as it came.")
    workers: int = Field(1, description="Files that are copied at once.")


class AveragingTool(dg.Config):
    """Which weights to average."""

    weights: list[str] = Field(description="Two or more files of weights of one kind of network.")
    overwrite: bool = Field(False, description="Replace a file that is there.")


def tool_assets() -> list[dg.AssetsDefinition]:
    """The outputs of the stand-alone commands."""
    described: dict[str, Any] = {
        "key_prefix": ["tools"],
        "group_name": "tools",
        "partitions_def": OUTPUTS,
        "code_version": CODE_VERSION,
    }

    @dg.asset(**described, kinds={"pytorch"}, pool="gpu")
    def prediction(
        context: dg.AssetExecutionContext, config: PredictionTool, progress: dg.ResourceParam[Progress]
    ) -> dg.MaterializeResult:
        """Masks of new patients, by all models of a folder together."""
        from mist_ops.devices import resolve_device  # torch loads for seconds: only where it works
        from mist_ops.inference.case import load_models, predict_case

        settings = read_config(Path(config.config_file))
        output = Path(context.partition_key)
        cases = read_paths(Path(config.paths_csv), settings.dataset_info.images)
        models = load_models(Path(config.models_dir), settings)

        def predict(case: Case, device: str) -> None:
            predict_case(models, case, settings, resolve_device(device), output / f"{case.id}.nii.gz")

        with interruptible(context), leased_devices(config.device, 1) as [device]:
            predicted: Iterator[Outcome[Case, object]] = outcomes(partial(predict, device=device), cases)
            _finish(collect(progress.track(predicted, "Predicting", len(cases)), progress))
        models_used = sorted(Path(config.models_dir).glob("fold_*.pt"))
        return _made(output, [*models_used, Path(config.config_file), *(path for case in cases for path in case.files)])

    @dg.asset(**described, kinds={"csv"})
    def evaluation(
        context: dg.AssetExecutionContext, config: EvaluationTool, progress: dg.ResourceParam[Progress]
    ) -> dg.MaterializeResult:
        """Scores of any pairs of masks."""
        classes, pairs = read_classes(Path(config.config_file)), read_pairs(Path(config.paths_csv))
        known = (
            sorted({label for scored in classes.values() for label in scored.labels}) if config.validate_masks else None
        )
        output = Path(context.partition_key)
        with interruptible(context):
            scored = evaluate(pairs, classes, config.workers, known)
            collected = collect(progress.track(scored, "Evaluating", len(pairs)), progress)
        write_results(output, collected[0], columns(classes))
        _finish(collected)
        return _made(
            output, [Path(config.config_file), *(path for pair in pairs for path in (pair.mask, pair.prediction))]
        )

    @dg.asset(**described, kinds={"file"})
    def converted_dataset(
        context: dg.AssetExecutionContext, config: ConversionTool, progress: dg.ResourceParam[Progress]
    ) -> dg.MaterializeResult:
        """A dataset of another layout, in ours."""
        output = Path(context.partition_key)
        with interruptible(context):
            converted = convert_msd(Path(config.source), output, config.workers)
            collected = collect(progress.track(converted, "Converting"), progress)
        _finish(collected)
        return _made(output / "dataset.json", [Path(config.source) / "dataset.json"])

    @dg.asset(**described, kinds={"pytorch"})
    def averaged_weights(context: dg.AssetExecutionContext, config: AveragingTool) -> dg.MaterializeResult:
        """The mean of several files of weights."""
        from mist_ops.models.averaging import average_weights

        sources, output = [Path(path) for path in config.weights], Path(context.partition_key)
        inputs = {str(path): file_hash(path) for path in sources if path.is_file()}
        average_weights(sources, output, overwrite=config.overwrite)
        return _recorded(output, inputs)

    return [prediction, evaluation, converted_dataset, averaged_weights]


def _finish(collected: tuple[Mapping[str, object], Mapping[str, str]]) -> None:
    results, failures = collected
    if failures:
        raise dg.Failure(f"{len(failures)} of {len(failures) + len(results)} failed: {', '.join(failures)}.")


def _made(output: Path, inputs: Iterable[Path]) -> dg.MaterializeResult:
    """Record an output with the content of what it was made from."""
    return _recorded(output, {str(path): file_hash(path) for path in inputs})


def _recorded(output: Path, hashes: Mapping[str, str]) -> dg.MaterializeResult:
    return dg.MaterializeResult(
        data_version=dg.DataVersion(json_hash(hashes)),
        metadata={"output": metadata.path(output), "inputs": dg.MetadataValue.json(dict(hashes))},
    )


def tool_jobs() -> list[UnresolvedAssetJobDefinition]:
    """A job per tool."""
    return [
        dg.define_asset_job(tool, selection=dg.AssetSelection.assets(dg.AssetKey(["tools", tool]))) for tool in TOOLS
    ]
