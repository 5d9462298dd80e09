"""A dataset described by tables of paths, converted to one with dataset.json."""

from pathlib import Path
from typing import Optional

import dagster as dg
from pydantic import Field

from mist_dagster.provenance import collect, hashed, interruptible
from mist_dagster.runtime.progress import Progress
from mist_dagster.tools.record import finish, recorded, tool_asset
from mist_ops.conversion.csv import convert_csv


class ConvertCsvTool(dg.Config):
    """What to convert."""

    train_csv: str = Field(description="Table of the training patients: id, mask, and a column per image.")
    test_csv: Optional[str] = Field(None, description="Table of the test patients.")  # noqa: UP045
    workers: int = Field(1, description="Patients converted at once.")
    overwrite: bool = Field(False, description="Replace a dataset in the output folder.")


@tool_asset("file")
def converted_csv(
    context: dg.AssetExecutionContext, config: ConvertCsvTool, progress: dg.ResourceParam[Progress]
) -> dg.MaterializeResult:
    """A folder with dataset.json and a folder for each patient."""
    train, test = Path(config.train_csv), Path(config.test_csv) if config.test_csv else None
    output = Path(context.partition_key)
    inputs = hashed(tables=[train, *([test] if test else [])])
    with interruptible(context):
        converted = convert_csv(train, test, output, config.workers, config.overwrite)
        finish(collect(progress.track(converted, "Converting"), progress))
    return recorded(context, output / "dataset.json", inputs)
