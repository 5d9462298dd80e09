"""The run launcher, named in ``dagster.yaml``: Dagster's, with a health check, and with Slurm.

Without a health check, a run whose machine vanished stays *started*. With one, run monitoring marks it as failed, and
a training that the queue started is queued again and resumes from its checkpoint.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import dagster as dg

from mist_dagster.dagster_private import MAX_RETRIES_TAG, MAX_RUNTIME_SECONDS_TAG, CheckRunHealthResult, WorkerStatus
from mist_dagster.instance import slurm_runs
from mist_dagster.instance.heartbeats import Watch, forget
from mist_dagster.instance.home import heartbeats
from mist_dagster.slurm.tags import NOT_SUBMITTED, SLURM

if TYPE_CHECKING:
    from mist_dagster.dagster_private import ConfigurableClassData, LaunchRunContext

RETRIES = 2
"""How often a training of the queue restarts after its process was lost."""


class WatchedRunLauncher(dg.DefaultRunLauncher):
    """Dagster's launcher, with a health check that reads heartbeats, also those of commands."""

    def __init__(self, inst_data: "ConfigurableClassData | None" = None) -> None:
        super().__init__(inst_data)
        self._watch = Watch(heartbeats())
        self._starts = slurm_runs.Starts()

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
        study = slurm_runs.study_on_slurm(run)
        if study is None:
            super().launch_run(context)
            return
        self._instance.add_run_tags(run.run_id, {SLURM: NOT_SUBMITTED})
        slurm_runs.start_following(self._instance, run, study, resume=False)

    def terminate(self, run_id: str) -> bool:
        """Terminate a run; one on Slurm by canceling its job, which the process that follows it notices."""
        run = self._instance.get_run_by_id(run_id)
        if run is None or run.is_finished or SLURM not in run.tags:
            return bool(super().terminate(run_id))  # type: ignore[no-untyped-call]
        self._instance.report_run_canceling(run)
        slurm_runs.cancel_jobs(run)
        return True

    @property
    def supports_check_run_worker_health(self) -> bool:
        """Whether run monitoring uses the health check."""
        return True

    def check_run_worker_health(self, run: dg.DagsterRun) -> CheckRunHealthResult:
        """Return whether the processes of a run exist; a run without heartbeats, of an earlier version, passes."""
        lost = self._watch.lost(run.run_id)
        if SLURM in run.tags:
            lost = self._followed(run, lost)
        return CheckRunHealthResult(WorkerStatus.FAILED if lost else WorkerStatus.RUNNING, lost)

    def _followed(self, run: dg.DagsterRun, lost: str | None) -> str | None:
        """Let another process follow a run on Slurm if its own is gone; return why that is not possible."""
        if not lost and self._watch.exists(run.run_id):
            self._starts.seen(run.run_id)
            return None
        if not lost and not self._starts.due(run.run_id):
            return None
        if self._starts.count(run.run_id) > slurm_runs.MOST_STARTS:
            return f"the process that follows the Slurm job does not start: {slurm_runs.MOST_STARTS} attempts failed"
        study = slurm_runs.study_on_slurm(run)
        if study is None:
            return "the run is on Slurm, but mist_slurm.yaml no longer says so"
        self._instance.report_engine_event(f"The Slurm job is followed again: {lost or 'no process did'}.", run)
        forget(heartbeats(), run.run_id)
        slurm_runs.start_following(self._instance, run, study, resume=True)
        return None
