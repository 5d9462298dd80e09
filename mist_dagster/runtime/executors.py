"""Executors of queued runs: in the process of the run, or Celery workers on other machines.

Commands always work in their own process.
"""

import os

import dagster as dg

from mist_ops.errors import ConfigError

GPU_QUEUE = {"dagster-celery/queue": "gpu"}
"""Tags of a step that needs a GPU; steps without them go to the queue ``dagster``."""

BROKER, BACKEND = "MIST_CELERY_BROKER", "MIST_CELERY_BACKEND"
"""Environment variables: URLs of Celery's message broker and of its result backend."""


def executor() -> dg.ExecutorDefinition:
    """Return the executor that ``MIST_EXECUTOR`` names: ``in_process`` (the default) or ``celery``.

    Raises:
        ConfigError: The executor is unknown, not installed or not configured.
    """
    name = os.environ.get("MIST_EXECUTOR", "in_process")
    if name == "in_process":
        return dg.in_process_executor
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
    return configured
