"""Masks of new patients, by all models of a folder together."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Optional

import dagster as dg
from pydantic import Field

from mist_dagster.provenance import collect, hashed, interruptible
from mist_dagster.runtime.gpu import leased_devices
from mist_dagster.runtime.memory import reserve
from mist_dagster.runtime.progress import Progress
from mist_dagster.tools.record import finish, recorded, tool_asset
from mist_ops.config import read_config
from mist_ops.dataset import Case, read_paths
from mist_ops.errors import ConfigError, DatasetError
from mist_ops.files import remove_leftovers
from mist_ops.postprocessing.strategy import read_strategy
from mist_ops.records.calibration import calibration_beside, calibration_of
from mist_ops.records.source import check_table
from mist_ops.study import guard_beside


class PredictionTool(dg.Config):
    """What to predict, with which models."""

    models_dir: str = Field(description="Folder with fold_0.pt, fold_1.pt, ...")
    config_file: str = Field(description="config.json that the models were trained with.")
    paths_csv: str = Field(description="Table with the column id and one column per channel.")
    strategy: Optional[str] = Field(None, description="JSON with the postprocessing steps.")  # noqa: UP045
    probabilities: bool = Field(
        False, description="Also write probabilities; masks and probabilities then get a folder each."
    )
    strict: bool = Field(False, description="Refuse scans that are unlike those of the training patients.")
    calibrated: bool = Field(False, description="Calibrate the probabilities; write them, and volumes with intervals.")
    device: Optional[str] = Field(None, description="cpu, cuda or a GPU number; a GPU if there is one.")  # noqa: UP045


@tool_asset("pytorch", pool="gpu")
def prediction(
    context: dg.AssetExecutionContext, config: PredictionTool, progress: dg.ResourceParam[Progress]
) -> dg.MaterializeResult:
    """A folder of masks of new patients."""
    from mist_ops.devices import resolve_device  # torch takes seconds to load
    from mist_ops.inference.calibration import calibrating, write_volumes
    from mist_ops.inference.case import Predictor
    from mist_ops.inference.compiling import compile_networks
    from mist_ops.inference.guarding import checking, guarding_of
    from mist_ops.inference.models import load_models
    from mist_ops.inference.pipeline import Job, predict_cases

    settings = read_config(Path(config.config_file))
    output = Path(context.partition_key)
    if output.exists() and not output.is_dir():
        raise ConfigError(
            f"{output} is a file, not a folder. Choose another --output.",
            code="file-not-folder",
            file=output,
        )
    cases = read_paths(Path(config.paths_csv), settings.dataset_info.images)
    check_table(Path(config.paths_csv))
    if not cases:
        raise DatasetError(
            f"{config.paths_csv} has no rows. Add a row for each patient to predict.",
            code="table-empty",
            file=config.paths_csv,
        )
    models_dir, with_probabilities = Path(config.models_dir), config.probabilities or config.calibrated
    guarding = guarding_of(models_dir, settings, strict=config.strict)
    calibration = calibration_of(models_dir, settings) if config.calibrated else None
    inputs = hashed(
        models=sorted(models_dir.glob("fold_*.pt")),
        **({"guard": [guard_beside(models_dir)]} if guarding else {}),
        **({"calibration": [calibration_beside(models_dir)]} if calibration else {}),
        config=[Path(config.config_file)],
        strategy=[Path(config.strategy)] if config.strategy else [],
        images=[path for case in cases for path in case.files],
    )
    strategy = read_strategy(Path(config.strategy)) if config.strategy else ()
    masks = output / "discrete" if with_probabilities else output
    models = load_models(models_dir, settings)
    rows: dict[str, Sequence[Mapping[str, object]]] = {}

    def job(case: Case) -> Job:
        target = output / "probabilities" / f"{case.id}.nii.gz" if with_probabilities else None
        visit = calibrating(calibration, case.id, rows) if calibration else None
        mask = masks / f"{case.id}.nii.gz"
        check = checking(guarding, case, mask)
        return Job(case, mask, strategy=strategy, probabilities=target, visit=visit, check=check)

    remove_leftovers(masks, output / "probabilities")
    with interruptible(context), leased_devices(config.device, 1, context) as [device]:
        place = resolve_device(device)
        predictor = Predictor(compile_networks(models, settings, place), settings, place, reserve)
        predicted = predict_cases(predictor, map(job, cases))
        done, failures = collect(progress.track(predicted, "Predicting", len(cases)), progress)
    if calibration:
        write_volumes(output / "volumes.csv", rows, done)
    finish((done, failures))
    return recorded(context, output, inputs)
