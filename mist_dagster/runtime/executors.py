"""Executors of queued runs: in the process of the run, or Celery workers on other machines.

Commands always work in their own process. The process of a run has a heartbeat while it executes steps, whatever
executes them.
"""

import os
import signal
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, cast

import dagster as dg

from mist_dagster.instance import heartbeats, home
from mist_dagster.slurm.tags import SLURM
from mist_ops.errors import ConfigError

if TYPE_CHECKING:
    from mist_dagster.dagster_private import ExecutionPlan, PlanOrchestrationContext, RetryMode, StepDependencyConfig

GPU_QUEUE = {"dagster-celery/queue": "gpu"}
"""Tags of a step that needs a GPU; steps without them go to the queue ``dagster``."""

BROKER, BACKEND = "MIST_CELERY_BROKER", "MIST_CELERY_BACKEND"
"""Environment variables: URLs of Celery's message broker and of its result backend."""


class _Alive(dg.Executor):
    """An executor with a heartbeat; it is interrupted if its run was marked as failed or canceled elsewhere."""

    def __init__(self, inner: dg.Executor) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        """Return what Celery's executor has besides, such as its broker."""
        return getattr(self._inner, name)

    @property
    def retries(self) -> "RetryMode":
        """Whether steps are retried."""
        return self._inner.retries

    @property
    def step_dependency_config(self) -> "StepDependencyConfig":
        """What a step waits for."""
        return self._inner.step_dependency_config

    def execute(
        self, plan_context: "PlanOrchestrationContext", execution_plan: "ExecutionPlan"
    ) -> Iterator[dg.DagsterEvent]:
        """Execute the steps of a run."""
        instance, run_id = plan_context.instance, plan_context.run_id

        def over() -> bool:
            run = instance.get_run_by_id(run_id)
            if run is None or run.is_finished:
                return True
            # No signal reaches the process of a run on Slurm, which may be on another machine than mist_ui.
            return SLURM in run.tags and run.status == dg.DagsterRunStatus.CANCELING

        def end() -> None:
            os.kill(os.getpid(), signal.SIGTERM)  # Dagster handles it as Ctrl-C, which a shell script may ignore

        with heartbeats.kept(home.heartbeats(), run_id, over, end):
            yield from self._inner.execute(plan_context, execution_plan)


def _alive(definition: dg.ExecutorDefinition) -> dg.ExecutorDefinition:
    def create(context: dg.InitExecutorContext) -> dg.Executor:
        assert definition.executor_creation_fn
        return _Alive(definition.executor_creation_fn(context))

    schema = cast(Any, definition.config_schema)
    return dg.ExecutorDefinition(definition.name, schema, definition.get_requirements, create)


in_process = _alive(dg.in_process_executor)
"""Executes the steps of a run one after another in its process."""


def executor() -> dg.ExecutorDefinition:
    """Return the executor that ``MIST_EXECUTOR`` names: ``in_process`` (the default) or ``celery``.

    Raises:
        ConfigError: The executor is unknown, not installed or not configured.
    """
    name = os.environ.get("MIST_EXECUTOR", "in_process")
    if name == "in_process":
        return in_process
    if name != "celery":
        raise ConfigError(
            f"MIST_EXECUTOR is '{name}'. It must be in_process or celery.",
            code="unknown-executor",
            field="MIST_EXECUTOR",
            found=name,
            expected="in_process or celery",
        )
    missing = [variable for variable in (BROKER, BACKEND) if variable not in os.environ]
    if missing:
        raise ConfigError(
            f"MIST_EXECUTOR is celery, which also needs {' and '.join(missing)}. Source the cluster's environment.sh.",
            code="executor-not-configured",
            field=missing[0],
        )
    try:
        from dagster_celery import celery_executor
    except ImportError as error:
        raise ConfigError(
            "MIST_EXECUTOR is celery, but dagster-celery is not installed. Run: pip install -c constraints.txt "
            "'.[celery]'.",
            code="executor-not-installed",
            field="MIST_EXECUTOR",
            found=name,
        ) from error
    configured: dg.ExecutorDefinition = celery_executor.configured(
        {"broker": {"env": BROKER}, "backend": {"env": BACKEND}}, name="celery"
    )
    return _alive(configured)
