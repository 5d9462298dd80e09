"""Predictions changed by a strategy."""

from pathlib import Path

import dagster as dg
from pydantic import Field

from mist_dagster import metadata
from mist_dagster.provenance import collect, hashed, interruptible
from mist_dagster.runtime.progress import Progress
from mist_dagster.tools.record import finish, recorded, tool_asset
from mist_ops.files import atomic_folder
from mist_ops.postprocessing.case import (
    check_output,
    find_predictions,
    keep_earlier,
    masks_of,
    postprocess_cases,
    record,
)
from mist_ops.postprocessing.strategy import read_strategy


class PostprocessTool(dg.Config):
    """What to postprocess, and how."""

    predictions: str = Field(description="Folder of the predicted masks.")
    strategy: str = Field(description="JSON with the steps.")
    workers: int = Field(1, description="Processes that postprocess cases.")


@tool_asset("nifti")
def postprocessed(
    context: dg.AssetExecutionContext, config: PostprocessTool, progress: dg.ResourceParam[Progress]
) -> dg.MaterializeResult:
    """A folder with the masks in predictions/ and the strategy beside it."""
    strategy, files = read_strategy(Path(config.strategy)), find_predictions(Path(config.predictions))
    inputs = hashed(strategy=[Path(config.strategy)], predictions=[file.path for file in files])
    output = Path(context.partition_key)
    check_output(masks_of(output), files)
    with interruptible(context), atomic_folder(masks_of(output)) as made:
        changed = postprocess_cases(files, strategy, made, config.workers)
        collected = collect(progress.track(changed, "Postprocessing", len(files)), progress)
        keep_earlier(output, made, collected[1])
    record(output, strategy, *collected)
    finish(collected)
    rows = [{"id": case_id, **counts.row()} for case_id, counts in collected[0].items()]
    return recorded(context, output, inputs, {"voxels": metadata.table(rows)})
