"""What Dagster loads: the assets, jobs and resources of every registered study, and of the tools."""

from collections.abc import Sequence

import dagster as dg

from mist_dagster.instance.studies import registered_studies
from mist_dagster.runtime.executors import executor
from mist_dagster.runtime.progress import LogProgress, Progress
from mist_dagster.stages import TOOLS
from mist_dagster.tools import tool_definitions
from mist_ops.study import Study


def build_definitions(
    studies: Sequence[Study],
    progress: Progress | None = None,
    tools: Sequence[str] = (),
    executor: dg.ExecutorDefinition = dg.in_process_executor,
) -> dg.Definitions:
    """The definitions of some studies and tools, by default with one process a run: workers are below the assets."""
    return dg.Definitions.merge(
        *(_of_study(study) for study in studies),
        tool_definitions(tools),
        dg.Definitions(
            executor=executor,
            resources={"progress": dg.ResourceDefinition.hardcoded_resource(progress or LogProgress())},
        ),
    )


def _of_study(study: Study) -> dg.Definitions:
    # These take half a second to import, which a command on a tool does not need.
    from mist_dagster.assets import study_assets
    from mist_dagster.freshness.checks import status_checks, status_job
    from mist_dagster.jobs import study_jobs
    from mist_dagster.pipeline import plan_job
    from mist_dagster.sensors import study_sensors

    return dg.Definitions.merge(
        study_assets(study),
        dg.Definitions(
            asset_checks=status_checks(study),
            jobs=[*study_jobs(study), status_job(study), plan_job(study, build_definitions)],
            sensors=study_sensors(study),
        ),
    )


@dg.definitions
def defs() -> dg.Definitions:
    """The code location ``mist``."""
    return build_definitions(registered_studies(), tools=TOOLS, executor=executor())
