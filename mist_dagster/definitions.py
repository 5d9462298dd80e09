"""What Dagster loads: the assets, jobs and resources of every registered study, and of the tools."""

import logging
import os
from collections.abc import Sequence

import dagster as dg

from mist_dagster.instance.home import dagster_home
from mist_dagster.instance.studies import registered_studies
from mist_dagster.runtime.executors import executor, in_process
from mist_dagster.runtime.progress import LogProgress, Progress
from mist_dagster.stages import TOOLS
from mist_dagster.tools import tool_definitions
from mist_ops.study import Study

_logger = logging.getLogger("mist")


def build_definitions(
    studies: Sequence[Study],
    progress: Progress | None = None,
    tools: Sequence[str] = (),
    executor: dg.ExecutorDefinition = in_process,
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
    from mist_dagster.freshness.jobs import keep_job, what_if_job
    from mist_dagster.jobs import study_jobs
    from mist_dagster.partitions import study_partitions
    from mist_dagster.pipeline import plan_job
    from mist_dagster.sensors import study_sensors

    partitions = study_partitions(study)
    return dg.Definitions.merge(
        study_assets(study, partitions),
        dg.Definitions(
            asset_checks=status_checks(study, partitions),
            jobs=[
                *study_jobs(study),
                status_job(study),
                what_if_job(study),
                keep_job(study, build_definitions),
                plan_job(study, build_definitions),
            ],
            sensors=study_sensors(study),
        ),
    )


@dg.definitions
def defs() -> dg.Definitions:
    """The code location of this home."""
    _warn()
    from mist_dagster.failures import failure_sensor  # commands do not need it

    studies = build_definitions(registered_studies(), tools=TOOLS, executor=executor())
    return dg.Definitions.merge(studies, dg.Definitions(sensors=[failure_sensor()]))


def _warn() -> None:
    """Warn of what Dagster's own commands do otherwise than ours."""
    if "DAGSTER_HOME" not in os.environ:
        _logger.warning(
            "DAGSTER_HOME is not set, so Dagster records runs in a temporary folder, where mist_ui and the mist_* "
            "commands do not see them. Run: export DAGSTER_HOME=%s",
            dagster_home(),
        )
    if os.environ.get("DAGSTER_IS_DEV_CLI"):
        _logger.warning(
            "dagster dev carries out requests that other sites send from your browser (cross-site requests). mist_ui "
            "serves the same UI and blocks them."
        )
