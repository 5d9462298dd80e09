"""What Dagster loads: the assets, jobs and resources of every registered study, and of the tools."""

from collections.abc import Sequence

import dagster as dg

from mist_dagster.instance.studies import registered_studies
from mist_dagster.runtime.executors import executor
from mist_dagster.runtime.progress import LogProgress, Progress
from mist_dagster.tools import TOOLS, tool_definitions
from mist_ops.study import Study


def build_definitions(
    studies: Sequence[Study],
    progress: Progress | None = None,
    tools: Sequence[str] = TOOLS,
    executor: dg.ExecutorDefinition = dg.in_process_executor,
) -> dg.Definitions:
    """Everything, by default with one process a run: the heavy work is in pools and libraries of its own."""
    return dg.Definitions.merge(
        *_of_studies(studies),
        tool_definitions(tools),
        dg.Definitions(
            executor=executor,
            resources={"progress": dg.ResourceDefinition.hardcoded_resource(progress or LogProgress())},
        ),
    )


def _of_studies(studies: Sequence[Study]) -> list[dg.Definitions]:
    if not studies:
        return []
    from mist_dagster.assets import study_definitions  # half a second, which a command on a tool need not wait for

    return [study_definitions(study) for study in studies]


@dg.definitions
def defs() -> dg.Definitions:
    """The code location ``mist``."""
    return build_definitions(registered_studies(), executor=executor())
