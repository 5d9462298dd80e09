"""A dataset of nnU-Net v2, converted to one with dataset.json."""

import dagster as dg

from mist_dagster.runtime.progress import Progress
from mist_dagster.tools.conversion import ConvertFolder, convert_folder
from mist_dagster.tools.record import tool_asset
from mist_ops.conversion.nnunet import convert_nnunet


@tool_asset("file")
def converted_nnunet(
    context: dg.AssetExecutionContext, config: ConvertFolder, progress: dg.ResourceParam[Progress]
) -> dg.MaterializeResult:
    """A folder with dataset.json and a folder for each patient."""
    return convert_folder(context, config, progress, convert_nnunet)
