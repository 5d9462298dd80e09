"""Statistics of the dataset: spacings, intensities, labels and their shapes."""

import dagster as dg
from pydantic import Field

from mist_dagster import metadata
from mist_dagster.partitions import StudyPartitions
from mist_dagster.provenance import CODE_VERSION, asset_key, interruptible
from mist_dagster.runtime.progress import Progress
from mist_ops.files import file_hash
from mist_ops.study import Study


class DataDumpRun(dg.Config):
    """How to run the data dump."""

    workers: int = Field(1, description="Processes that measure cases.")


def build(study: Study, partitions: StudyPartitions) -> list[dg.AssetsDefinition]:
    """data_dump.json and data_dump.md."""

    @dg.asset(
        key=asset_key(study, "data_dump"),
        group_name=study.key,
        deps=[asset_key(study, name) for name in ("raw_case", "study_config")],
        code_version=CODE_VERSION,
        kinds={"markdown"},
    )
    def data_dump(
        context: dg.AssetExecutionContext, config: DataDumpRun, progress: dg.ResourceParam[Progress]
    ) -> dg.MaterializeResult:
        """Statistics of the dataset as JSON, and as a report to read or share."""
        from mist_ops.analysis.report import data_dump

        with interruptible(context):
            measured = data_dump(study, config.workers)
            for outcome in progress.track(measured, "Describing"):
                if outcome.error:
                    progress.problem(str(outcome.error))
        return dg.MaterializeResult(
            data_version=dg.DataVersion(file_hash(study.data_dump)),
            metadata={
                "file": metadata.path(study.data_dump),
                "text": dg.MetadataValue.md(study.data_dump_md.read_text(encoding="utf-8")),
            },
        )

    return [data_dump]
