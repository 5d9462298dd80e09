"""Runs of a job that rebuilds what is stale, in the queue instead of its own process: for studies on Slurm."""

import contextlib
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import dagster as dg

from mist_dagster.dagster_private import StepFailureData
from mist_dagster.launch import Launcher, RunCanceledError, raise_failure, submit, terminate
from mist_dagster.runtime.slurm import interrupted_for_good
from mist_dagster.slurm.settings import STAGES
from mist_dagster.stages import job_name, owner
from mist_ops.errors import ConfigError
from mist_ops.study import Study

PARENT = "mist/parent"
"""Run tag: the run that waits for a run."""

_SECONDS_BETWEEN_LOOKS = 5.0


def submitted_by(instance: dg.DagsterInstance, run_id: str) -> Sequence[dg.DagsterRun]:
    """The runs that a run submitted."""
    return instance.get_runs(dg.RunsFilter(tags={PARENT: run_id}))


@dataclass(frozen=True)
class QueueLauncher(Launcher):
    """Submits the stages that Slurm works on to the queue, and waits for them; others run in this process.

    Attributes:
        run_id: The run that waits.
        tags: Further tags of the runs of a stage.
    """

    run_id: str = ""
    tags: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def run_stage(
        self, study: Study, stage: str, config: Mapping[str, Any] | None = None, partitions: Sequence[str] | None = None
    ) -> None:
        """Run a stage, all of its folds side by side; errors as in ``Launcher``."""
        if stage in STAGES:
            self.wait(self.start(study, stage, config or {}, partitions))
        else:
            super().run_stage(study, stage, config, partitions)

    def start(
        self, study: Study, stage: str, config: Mapping[str, Any], partitions: Sequence[str] | None = None
    ) -> list[str]:
        """Submit the runs of a stage, or of ``make_current``; return their ids."""
        study = owner(study, stage)
        job = self.definitions(study).resolve_job_def(job_name(study, stage))
        known = job.partitions_def.get_partition_keys() if job.partitions_def and stage != "train" else None
        tags = {**self.tags.get(stage, {}), PARENT: self.run_id}
        with self._canceling():
            addresses = self._submitted(study, stage, config, partitions, tags, known)
            ids = [address.rpartition("/")[2] for address in addresses]
            for run in filter(None, map(self.instance.get_run_by_id, ids)):
                self.started(run)
        return ids

    def wait_for_earlier(self) -> None:
        """Wait for the runs that an earlier process of this run submitted, whatever becomes of them."""
        with self._canceling():
            while any(not run.is_finished for run in submitted_by(self.instance, self.run_id)):
                time.sleep(_SECONDS_BETWEEN_LOOKS)

    def _submitted(self, study: Study, stage: str, *how: Any) -> list[str]:
        """Submit runs, as soon as a ``mist_ui`` runs: this process may outlive one."""
        while True:
            try:
                config, partitions, tags, known = how
                return list(submit(study, stage, config, partitions, tags, known=known))
            except ConfigError as error:
                if error.code != "ui-not-running":
                    raise
            time.sleep(_SECONDS_BETWEEN_LOOKS)

    def wait(self, ids: Iterable[str]) -> None:
        """Wait for submitted runs; errors as in ``Launcher``."""
        with self._canceling():
            failed = self._wait(set(ids))
        if failed:
            # An error of a run counts more than that of single patients.
            raise_failure(sorted(failed, key=lambda failure: failure.user_failure_data is not None))

    def _wait(self, left: set[str]) -> list[StepFailureData]:
        failed: list[StepFailureData] = []
        while left:
            for run_id in sorted(left):
                run = self.instance.get_run_by_id(run_id)
                if run is None or run.status == dg.DagsterRunStatus.CANCELED:
                    raise RunCanceledError
                if run.is_finished:
                    left.remove(run_id)
                    failed += self._failures(run_id) if run.status == dg.DagsterRunStatus.FAILURE else ()
            if left:
                time.sleep(_SECONDS_BETWEEN_LOOKS)
        return failed

    def _failures(self, run_id: str) -> Iterator[StepFailureData]:
        events = self.instance.all_logs(run_id, of_type=dg.DagsterEventType.STEP_FAILURE)
        yield from (entry.dagster_event.step_failure_data for entry in events if entry.dagster_event)

    @contextlib.contextmanager
    def _canceling(self) -> Iterator[None]:
        """Terminate the submitted runs if this one is terminated."""
        try:
            yield
        except (dg.DagsterExecutionInterruptedError, KeyboardInterrupt):
            interrupted_for_good(self.instance, self.run_id)
            for run in submitted_by(self.instance, self.run_id):
                if not run.is_finished:
                    terminate(run.run_id)
            raise
