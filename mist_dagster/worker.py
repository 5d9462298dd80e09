"""Celery app of the workers: ``celery --app mist_dagster.worker worker``; see ``runtime.executors``.

It adds to Celery that no step outlives its run or its worker.
"""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Mapping
from typing import Any

import dagster as dg

# It comes with mist-dagster[celery] and has no types.
from celery.signals import task_prerun, worker_process_init, worker_shutting_down
from celery.worker.state import active_requests
from dagster_celery.app import app

import mist_dagster.assets  # noqa: F401 - imported once, not by the process of each step
from mist_dagster.dagster_private import run_of_step
from mist_dagster.runtime.executors import BACKEND, BROKER

_SECONDS_BETWEEN_LOOKS = 5.0

app.conf.update(
    broker_url=os.environ[BROKER],
    result_backend=os.environ[BACKEND],
    # A worker takes a message when it is free, and acknowledges it when the step starts: a fold trains for days, and
    # no message may wait behind it while another worker is idle, or be delivered twice.
    worker_disable_prefetch=True,
    # Each step gets a new process, which reads the current studies and starts with free GPU memory.
    worker_max_tasks_per_child=1,
)


def _leave_process_group(**_: object) -> None:
    """Ignore signals to the worker's process group: Ctrl-C would cancel a run that another worker can resume."""
    os.setpgrp()


def _watch(kwargs: Mapping[str, Any], **_: object) -> None:
    """Kill a step whose run is over or whose worker is gone."""
    run_id = run_of_step(kwargs["execute_step_args_packed"])
    threading.Thread(target=_end_with, args=[run_id, os.getppid()], daemon=True).start()


def _end_with(run_id: str, worker: int) -> None:
    with dg.DagsterInstance.get() as instance:
        while os.getppid() == worker and not _is_over(instance, run_id):
            time.sleep(_SECONDS_BETWEEN_LOOKS)
    # An exception would wait for native code, and Dagster would report it as an error of the run.
    os.kill(os.getpid(), signal.SIGKILL)


def _is_over(instance: dg.DagsterInstance, run_id: str) -> bool:
    """Whether a run is finished, canceled or deleted; False while the records are unreachable."""
    with contextlib.suppress(Exception):
        run = instance.get_run_by_id(run_id)
        return run is None or run.is_finished or run.status == dg.DagsterRunStatus.CANCELING
    return False


def _kill_steps(**_: object) -> None:
    """Kill the steps of a worker that shuts down: it would wait for them, and other workers resume from checkpoints."""
    for request in list(active_requests):
        with contextlib.suppress(ProcessLookupError):
            os.kill(request.worker_pid, signal.SIGKILL)


worker_process_init.connect(_leave_process_group)
task_prerun.connect(_watch)
worker_shutting_down.connect(_kill_steps)
