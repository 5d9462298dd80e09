"""Averaged weights of several networks of the same architecture."""

from pathlib import Path

import dagster as dg
from pydantic import Field

from mist_dagster.provenance import hashed
from mist_dagster.tools.record import recorded, tool_asset
from mist_ops.records.source import check_averaging


class AveragingTool(dg.Config):
    """What to average."""

    weights: list[str] = Field(description="Two or more weights files of the same architecture.")
    overwrite: bool = Field(False, description="Replace an existing file.")


@tool_asset("pytorch")
def averaged_weights(context: dg.AssetExecutionContext, config: AveragingTool) -> dg.MaterializeResult:
    """A weights file: the element-wise mean of several."""
    from mist_ops.models.averaging import average_weights  # torch takes seconds to load

    sources, output = [Path(path) for path in config.weights], Path(context.partition_key)
    check_averaging(sources)
    inputs = hashed(weights=sources)
    average_weights(sources, output, overwrite=config.overwrite)
    return recorded(context, output, inputs)
