"""A dataset of nnU-Net v2, converted to one with dataset.json."""

from pathlib import Path

import dagster as dg
from pydantic import Field

from mist_dagster.provenance import collect, hashed, interruptible
from mist_dagster.runtime.progress import Progress
from mist_dagster.tools.record import finish, recorded, tool_asset
from mist_ops.conversion.nnunet import convert_nnunet


class ConvertNnunetTool(dg.Config):
    """What to convert."""

    source: str = Field(description="Folder of the original dataset.")
    workers: int = Field(1, description="Patients converted at once.")
    overwrite: bool = Field(False, description="Replace a dataset in the output folder.")


@tool_asset("file")
def converted_nnunet(
    context: dg.AssetExecutionContext, config: ConvertNnunetTool, progress: dg.ResourceParam[Progress]
) -> dg.MaterializeResult:
    """A folder with dataset.json and a folder for each patient."""
    output, source = Path(context.partition_key), Path(config.source)
    inputs = hashed(description=[source / "dataset.json"])
    with interruptible(context):
        converted = convert_nnunet(source, output, config.workers, config.overwrite)
        finish(collect(progress.track(converted, "Converting"), progress))
    return recorded(context, output / "dataset.json", inputs)
