"""Celery app of the workers: ``celery --app mist_dagster.worker worker``; see ``runtime.executors``.

It adds to Celery that no step outlives its run or its worker, and that a run fails if the process of a step is lost.
"""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import dagster as dg

# It comes with mist-dagster[celery] and has no types.
from celery.signals import task_postrun, task_prerun, worker_process_init, worker_shutting_down
from celery.worker.state import active_requests
from dagster_celery.app import app

import mist_dagster.assets  # noqa: F401 - imported once, not by the process of each step
from mist_dagster.dagster_private import run_of_step
from mist_dagster.instance.heartbeats import heartbeat
from mist_dagster.instance.home import heartbeats
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


_heartbeat = contextlib.ExitStack()
"""Of the one step of this process."""


def _watch(kwargs: Mapping[str, Any], **_: object) -> None:
    """Keep a heartbeat of a step, and kill the step if its run is over or its worker is gone."""
    run_id = run_of_step(kwargs["execute_step_args_packed"])
    renew = _heartbeat.enter_context(heartbeat(heartbeats(), run_id))
    threading.Thread(target=_end_with, args=[run_id, os.getppid(), renew], daemon=True).start()


def _forget(**_: object) -> None:
    """Remove the heartbeat of a step that ended, well or not; that of a killed one stays, so that its run fails."""
    _heartbeat.close()


def _end_with(run_id: str, worker: int, renew: Callable[[], None]) -> None:
    with dg.DagsterInstance.get() as instance:
        while os.getppid() == worker:
            if _is_over(instance, run_id):
                _forget()
                break
            renew()
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
task_postrun.connect(_forget)
worker_shutting_down.connect(_kill_steps)
