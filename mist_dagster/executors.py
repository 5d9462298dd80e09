"""Where the steps of queued runs are executed: in the process of the run, or by Celery workers on other machines.

Commands do their work in their own process whatever this says.
"""

import os

import dagster as dg

from mist_ops.errors import ConfigError

GPU_QUEUE = {"dagster-celery/queue": "gpu"}
"""Tags of a step that needs a GPU; steps without them go to the queue ``dagster``."""

_BROKER = "MIST_CELERY_BROKER"
_BACKEND = "MIST_CELERY_BACKEND"


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
    missing = [variable for variable in (_BROKER, _BACKEND) if variable not in os.environ]
    if missing:
        raise ConfigError(f"MIST_EXECUTOR is celery, but {' and '.join(missing)} are not set: the URLs of the broker.")
    try:
        from dagster_celery import celery_executor
    except ImportError as error:
        raise ConfigError(
            "MIST_EXECUTOR is celery. Install what it needs: pip install 'mist-dagster[celery]'."
        ) from error
    configured: dg.ExecutorDefinition = celery_executor.configured(
        {"broker": {"env": _BROKER}, "backend": {"env": _BACKEND}}, name="celery"
    )
    return configured
