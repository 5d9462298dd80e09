"""What conversions of a folder have in common: their run config, and how they run."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
from pydantic import Field

from mist_dagster.provenance import collect, hashed, interruptible
from mist_dagster.runtime.progress import Progress
from mist_dagster.tools.record import finish, recorded
from mist_ops.conversion.patients import Conversion


class ConvertFolder(dg.Config):
    """What to convert."""

    source: str = Field(description="Folder of the original dataset.")
    workers: int = Field(1, description="Patients converted at once.")
    overwrite: bool = Field(False, description="Replace a dataset in the output folder.")


def convert_folder(
    context: dg.AssetExecutionContext,
    config: ConvertFolder,
    progress: Progress,
    convert: Callable[[Path, Path, int, bool], Conversion[Any]],
) -> dg.MaterializeResult:
    """Convert a folder with a dataset.json.

    Args:
        context: Of the asset; its partition is the output folder.
        config: What to convert.
        progress: Gets the progress and the patients that fail.
        convert: Called with the source, the output, the number of processes, and whether to overwrite.
    """
    output, source = Path(context.partition_key), Path(config.source)
    inputs = hashed(description=[source / "dataset.json"])
    with interruptible(context):
        converted = convert(source, output, config.workers, config.overwrite)
        finish(collect(progress.track(converted, "Converting"), progress))
    return recorded(context, output / "dataset.json", inputs)
