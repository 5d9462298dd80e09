"""What Dagster loads: the assets, jobs and resources of every registered study, and of the tools."""

from collections.abc import Iterable

import dagster as dg

from mist_dagster.assets.analysis import analysis_assets
from mist_dagster.assets.dataset import dataset_assets
from mist_dagster.assets.evaluation import evaluation_assets
from mist_dagster.assets.prediction import prediction_assets
from mist_dagster.assets.preprocessing import preprocessing_assets
from mist_dagster.assets.tools import tool_assets, tool_jobs
from mist_dagster.assets.training import training_assets
from mist_dagster.jobs import study_jobs
from mist_dagster.partitions import study_partitions
from mist_dagster.progress import LogProgress, Progress
from mist_dagster.studies import registered_studies
from mist_ops.study import Study


def study_definitions(study: Study) -> dg.Definitions:
    """The assets and jobs of one study."""
    partitions = study_partitions(study)
    assets = [
        *dataset_assets(study, partitions),
        *analysis_assets(study),
        *preprocessing_assets(study, partitions),
        *training_assets(study, partitions),
        *prediction_assets(study, partitions),
        *evaluation_assets(study),
    ]
    return dg.Definitions(assets=assets, jobs=study_jobs(study))


def build_definitions(studies: Iterable[Study], progress: Progress | None = None) -> dg.Definitions:
    """Everything, with one process a run: the heavy work is in pools and libraries of its own."""
    return dg.Definitions.merge(
        *(study_definitions(study) for study in studies),
        dg.Definitions(
            assets=tool_assets(),
            jobs=tool_jobs(),
            executor=dg.in_process_executor,
            resources={"progress": dg.ResourceDefinition.hardcoded_resource(progress or LogProgress())},
        ),
    )


@dg.definitions
def defs() -> dg.Definitions:
    """The code location ``mist``."""
    return build_definitions(registered_studies())
