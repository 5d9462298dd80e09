"""The mean of several networks of one kind."""

from pathlib import Path

import dagster as dg
from pydantic import Field

from mist_dagster.provenance import hashed
from mist_dagster.tools.record import recorded, tool_asset


class AveragingTool(dg.Config):
    """Which weights to average."""

    weights: list[str] = Field(description="Two or more files of weights of one kind of network.")
    overwrite: bool = Field(False, description="Replace a file that is there.")


@tool_asset("pytorch")
def averaged_weights(context: dg.AssetExecutionContext, config: AveragingTool) -> dg.MaterializeResult:
    """A file of weights: the mean of several, element by element."""
    from mist_ops.models.averaging import average_weights  # torch loads for seconds: only where it works

    sources, output = [Path(path) for path in config.weights], Path(context.partition_key)
    inputs = hashed(weights=sources)
    average_weights(sources, output, overwrite=config.overwrite)
    return recorded(context, output, inputs)
