"""Label fusion: predictions of several models or raters combined for each patient."""

from functools import partial
from pathlib import Path
from typing import Optional

import dagster as dg
from pydantic import Field

from mist_dagster.provenance import collect, hashed, interruptible
from mist_dagster.runtime.progress import Progress
from mist_dagster.tools.record import finish, recorded, tool_asset
from mist_ops.config import read_config
from mist_ops.ensembling.case import (
    check_backend,
    check_output,
    combine_labels,
    combine_probabilities,
    find_predictions,
)
from mist_ops.files import remove_leftovers
from mist_ops.workers import outcomes


class EnsembleTool(dg.Config):
    """What to combine, and how."""

    predictions: list[str] = Field(description="Two or more folders with the same patients.")
    backend: str = Field("staple", description="How to combine them.")
    config_file: Optional[str] = Field(  # noqa: UP045
        None, description="config.json of the models, if the folders hold probabilities instead of labels."
    )
    workers: int = Field(1, description="Processes that combine cases.")


@tool_asset("nifti")
def ensemble(
    context: dg.AssetExecutionContext, config: EnsembleTool, progress: dg.ResourceParam[Progress]
) -> dg.MaterializeResult:
    """A folder of combined masks."""
    check_backend(config.config_file is None, config.backend)
    output, folders = Path(context.partition_key), [Path(folder) for folder in config.predictions]
    cases = find_predictions(folders)
    check_output(output, folders)
    settings = [Path(config.config_file)] if config.config_file else []
    inputs = hashed(config=settings, predictions=[path for case in cases for path in case.files])
    if config.config_file:
        labels = read_config(Path(config.config_file)).dataset_info.labels
        combine = partial(combine_probabilities, backend=config.backend, output=output, labels=labels)
    else:
        combine = partial(combine_labels, backend=config.backend, output=output)
    remove_leftovers(output)
    with interruptible(context):
        combined = outcomes(combine, cases, config.workers)
        finish(collect(progress.track(combined, "Combining", len(cases)), progress))
    return recorded(context, output, inputs)
