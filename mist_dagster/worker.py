"""The Celery app of the workers, for ``celery --app mist_dagster.worker worker``; ``executors`` says what comes here.

What Celery leaves to chance is settled here: no step outlives its run or its worker, and none leaves anything behind.
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

import mist_dagster.assets  # noqa: F401 - once, and not by the process of each step
from mist_dagster.dagster_private import run_of_step
from mist_dagster.runtime.executors import BACKEND, BROKER

_SECONDS_BETWEEN_LOOKS = 5.0

app.conf.update(
    broker_url=os.environ[BROKER],
    result_backend=os.environ[BACKEND],
    # A message is acknowledged when its step begins, and none is taken before: a fold trains for days, and no message
    # is to wait behind it while another worker is idle, or to be handed out twice.
    worker_disable_prefetch=True,
    # The next step sees studies and patients as they are then, and the memory of the GPU is free.
    worker_max_tasks_per_child=1,
)


def _stand_alone(**_: object) -> None:
    """Take no part in signals to the worker's process group: Ctrl-C would cancel the run, which others could do."""
    os.setpgrp()


def _watch(kwargs: Mapping[str, Any], **_: object) -> None:
    """End a step when nobody waits for it any more."""
    run_id = run_of_step(kwargs["execute_step_args_packed"])
    threading.Thread(target=_end_with, args=[run_id, os.getppid()], daemon=True).start()


def _end_with(run_id: str, worker: int) -> None:
    with dg.DagsterInstance.get() as instance:
        while os.getppid() == worker and not _is_over(instance, run_id):
            time.sleep(_SECONDS_BETWEEN_LOOKS)
    # Not by an exception: it would have to wait for native code, and Dagster would take it for the run's own.
    os.kill(os.getpid(), signal.SIGKILL)


def _is_over(instance: dg.DagsterInstance, run_id: str) -> bool:
    """Whether a run is finished, canceled or deleted; not while the records cannot be reached."""
    with contextlib.suppress(Exception):
        run = instance.get_run_by_id(run_id)
        return run is None or run.is_finished or run.status == dg.DagsterRunStatus.CANCELING
    return False


def _give_up(**_: object) -> None:
    """End the steps of a worker that is told to: it would wait for them, and others go on from their checkpoints."""
    for request in list(active_requests):
        with contextlib.suppress(ProcessLookupError):
            os.kill(request.worker_pid, signal.SIGKILL)


worker_process_init.connect(_stand_alone)
task_prerun.connect(_watch)
worker_shutting_down.connect(_give_up)
