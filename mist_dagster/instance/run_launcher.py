"""The run launcher, named in ``dagster.yaml``: Dagster's, with a health check.

Without a health check, a run whose machine vanished stays *started*. With one, run monitoring marks it as failed, and
a training that the queue started is queued again and resumes from its checkpoint.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import dagster as dg

from mist_dagster.dagster_private import MAX_RETRIES_TAG, MAX_RUNTIME_SECONDS_TAG, CheckRunHealthResult, WorkerStatus
from mist_dagster.instance.heartbeats import Watch
from mist_dagster.instance.home import heartbeats

if TYPE_CHECKING:
    from mist_dagster.dagster_private import ConfigurableClassData, LaunchRunContext

RETRIES = 2
"""How often a training of the queue restarts after its process was lost."""


class WatchedRunLauncher(dg.DefaultRunLauncher):
    """Dagster's launcher, with a health check that reads heartbeats, also those of commands."""

    def __init__(self, inst_data: "ConfigurableClassData | None" = None) -> None:
        super().__init__(inst_data)
        self._watch = Watch(heartbeats())

    @classmethod
    def config_type(cls) -> Mapping[str, Any]:
        """Return no settings."""
        return {}

    def launch_run(self, context: "LaunchRunContext") -> None:
        """Start a run; a training gets retries, unless it has a time limit."""
        run = context.dagster_run
        trains = "train" in run.tags.get("mist/stage", "").split("+")
        if trains and MAX_RETRIES_TAG not in run.tags and MAX_RUNTIME_SECONDS_TAG not in run.tags:
            self._instance.add_run_tags(run.run_id, {MAX_RETRIES_TAG: str(RETRIES)})
        super().launch_run(context)

    @property
    def supports_check_run_worker_health(self) -> bool:
        """Whether run monitoring uses the health check."""
        return True

    def check_run_worker_health(self, run: dg.DagsterRun) -> CheckRunHealthResult:
        """Return whether the processes of a run exist; a run without heartbeats, of an earlier version, passes."""
        lost = self._watch.lost(run.run_id)
        return CheckRunHealthResult(WorkerStatus.FAILED if lost else WorkerStatus.RUNNING, lost)
