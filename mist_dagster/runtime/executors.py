"""Where the steps of queued runs are executed: in the process of the run, or by Celery workers on other machines.

Commands do their work in their own process whatever this says.
"""

import os

import dagster as dg

from mist_ops.errors import ConfigError

GPU_QUEUE = {"dagster-celery/queue": "gpu"}
"""Tags of a step that needs a GPU; steps without them go to the queue ``dagster``."""

BROKER, BACKEND = "MIST_CELERY_BROKER", "MIST_CELERY_BACKEND"
"""Environment variables: the URLs by which steps go to the workers, and by which their results come back."""


def executor() -> dg.ExecutorDefinition:
    """The executor that ``MIST_EXECUTOR`` names: ``in_process``, which it is by default, or ``celery``.

    Raises:
        ConfigError: There is no such executor, or what it needs is not installed or not set.
    """
    name = os.environ.get("MIST_EXECUTOR", "in_process")
    if name == "in_process":
        return dg.in_process_executor
    if name != "celery":
        raise ConfigError(f"MIST_EXECUTOR is {name!r}. It must be in_process or celery.")
    missing = [variable for variable in (BROKER, BACKEND) if variable not in os.environ]
    if missing:
        raise ConfigError(
            f"MIST_EXECUTOR is celery, but {' and '.join(missing)} are not set. Source the cluster's environment.sh."
        )
    try:
        from dagster_celery import celery_executor
    except ImportError as error:
        raise ConfigError(
            "MIST_EXECUTOR is celery. Install what it needs: pip install -c constraints.txt '.[celery]'."
        ) from error
    configured: dg.ExecutorDefinition = celery_executor.configured(
        {"broker": {"env": BROKER}, "backend": {"env": BACKEND}}, name="celery"
    )
    return configured
