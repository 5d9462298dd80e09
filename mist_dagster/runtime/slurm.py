"""Work of a step in a job of Slurm instead of its own process: what the assets need of ``mist_dagster.slurm``."""

import contextlib
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from statistics import fmean
from typing import Any

import dagster as dg

from mist_dagster.dagster_private import PARTITION_NAME_TAG
from mist_dagster.instance.slurm_runs import queue_file
from mist_dagster.runtime.progress import logger, time_of
from mist_dagster.slurm.job import CanceledError, Job, Report
from mist_dagster.slurm.queue import Queue
from mist_dagster.slurm.settings import NAME, SlurmSettings, find
from mist_dagster.slurm.tags import SLURM, SLURM_STATE
from mist_ops.errors import ConfigError, from_json
from mist_ops.jobs.folder import Message, Stage, Work, study_as_json
from mist_ops.records.passport import Epoch
from mist_ops.study import Study
from mist_ops.training.plan import Plan
from mist_ops.workers import IdentifiedT, Outcome

_SECONDS_KEPT = 30 * 86400.0
"""After which the files of jobs that failed are removed, if no run succeeded at the same before."""


def allocation(context: dg.AssetExecutionContext, study: Study) -> SlurmSettings | None:
    """The settings by which a step works in a job of Slurm; None if it works in its own process.

    The launcher of queued runs decides, and tags the run.

    Raises:
        ConfigError: The settings were removed since.
    """
    run = context.instance.get_run_by_id(context.run.run_id)
    if run is None or SLURM not in run.tags:
        return None
    settings = find(study)
    if settings is None:
        raise ConfigError(
            f"The run was submitted to Slurm, but {NAME} no longer says executor: slurm. Restore it, or launch the run "
            "again.",
            code="slurm-settings-missing",
        )
    return settings


@contextlib.contextmanager
def followed(
    context: dg.AssetExecutionContext,
    study: Study,
    settings: SlurmSettings,
    work: Work,
    at: Callable[[], str] = lambda: "",
) -> Iterator[Iterator[tuple[int, Message]]]:
    """Submit a job, or find that of an earlier process of this run, and yield its messages while the block runs.

    If the run is terminated or fails, the job is canceled. If only this process ends, the job continues, and the next
    process of the run follows it. The files of a job that succeeded are removed; see ``remove_files``.

    Args:
        context: The step.
        study: The study.
        settings: The settings.
        work: What the job does.
        at: Says how far it is, for the tag of the run.
    """
    instance, run_id = context.instance, context.run.run_id
    folder = study.job(run_id) / work.stage

    def tagged(numbers: Sequence[str], state: str) -> None:
        instance.add_run_tags(run_id, {SLURM: ", ".join(numbers), SLURM_STATE: f"{state}{at()}"})

    queue = Queue(queue_file(), poll_seconds(settings))
    job = Job(folder, run_id, settings, queue, Report(logger.info, tagged))
    try:
        job.start(work)
        yield job.follow()
    except CanceledError as canceled:
        run = instance.get_run_by_id(run_id)
        if run and not run.is_finished:
            instance.report_run_canceling(run, "The Slurm job was canceled.")
        raise dg.DagsterExecutionInterruptedError from canceled
    except (dg.DagsterExecutionInterruptedError, KeyboardInterrupt):
        interrupted_for_good(instance, run_id)
        job.cancel()
        raise
    except BaseException:
        with contextlib.suppress(Exception):  # the error counts
            job.cancel()
        raise
    remove_files(instance, study, run_id)


def remove_files(instance: dg.DagsterInstance, study: Study, run_id: str) -> None:
    """Remove the files of the jobs of a run that succeeded, and those of runs that failed at the same or long ago."""
    shutil.rmtree(study.job(run_id), ignore_errors=True)
    succeeded = instance.get_run_by_id(run_id)
    for folder in study.jobs.glob("*"):
        run = instance.get_run_by_id(folder.name)  # None for a run of another home
        if run and not run.is_finished:
            continue
        with contextlib.suppress(OSError):  # another run may remove it, too
            changed = max(path.stat().st_mtime for path in (folder, *folder.rglob("*")))
            if time.time() - changed > _SECONDS_KEPT or (run and succeeded and _purpose(run) == _purpose(succeeded)):
                shutil.rmtree(folder, ignore_errors=True)


def _purpose(run: dg.DagsterRun) -> tuple[str | None, str | None]:
    stage = run.tags.get("mist/stage")
    return stage, run.tags.get(PARTITION_NAME_TAG) if stage == "train" else None


def interrupted_for_good(instance: dg.DagsterInstance, run_id: str) -> None:
    """Return if a run is terminated; if only its process is, end it so that the next ``mist_ui`` resumes the run."""
    run = instance.get_run_by_id(run_id)
    if run is None or run.is_finished or run.status == dg.DagsterRunStatus.CANCELING:
        return
    # Dagster would mark the run as failed.
    os.kill(os.getpid(), signal.SIGKILL)


def poll_seconds(settings: SlurmSettings) -> float:
    """Seconds between two calls of squeue; tests set fewer than a user may."""
    return float(os.environ.get("MIST_SLURM_POLL_SECONDS") or settings.poll_seconds)


def trained(
    context: dg.AssetExecutionContext, settings: SlurmSettings, plan: Plan, device: str | None
) -> contextlib.AbstractContextManager[Iterator[Epoch]]:
    """Train a fold in a job; the epochs come as they are finished."""
    work = Work(
        stage="train",
        study=study_as_json(plan.study),
        plan=plan.as_json(),
        gpus=settings.request("train").gpus or 0,
        device=device,
    )
    seen: list[Epoch] = []

    def at() -> str:
        if not seen:
            return ""
        last = seen[-1]
        seconds = (plan.config.training.epochs - last.index - 1) * fmean(epoch.seconds for epoch in seen[-5:])
        return f", epoch {last.index + 1} of {plan.config.training.epochs}, about {time_of(seconds)} left"

    return _epochs(followed(context, plan.study, settings, work, at), seen)


@contextlib.contextmanager
def _epochs(
    messages: contextlib.AbstractContextManager[Iterator[tuple[int, Message]]], seen: list[Epoch]
) -> Iterator[Iterator[Epoch]]:
    def epochs(found: Iterator[tuple[int, Message]]) -> Iterator[Epoch]:
        for _, message in found:
            if message["kind"] == "epoch":
                seen.append(Epoch(**{key: value for key, value in message.items() if key != "kind"}))
                yield seen[-1]

    with messages as found:
        yield epochs(found)


def patients(
    context: dg.AssetExecutionContext,
    study: Study,
    settings: SlurmSettings,
    stage: Stage,
    items: Mapping[str, IdentifiedT],
    **how: Any,
) -> contextlib.AbstractContextManager[Iterator[Outcome[IdentifiedT, Any]]]:
    """Handle patients in a job array; their outcomes come in no particular order.

    Args:
        context: The step.
        study: The study.
        settings: The settings.
        stage: What to do with them.
        items: What the outcomes are about, by id.
        how: Further fields of ``Work``.
    """
    request = settings.request(stage)
    work = Work(
        stage=stage,
        study=study_as_json(study),
        chunks=tuple(batched(items, request.patients or 1)),
        gpus=request.gpus or 0,
        **{"workers": request.cpus or 1, **how},
    )
    return _outcomes(followed(context, study, settings, work), items)


@contextlib.contextmanager
def _outcomes(
    messages: contextlib.AbstractContextManager[Iterator[tuple[int, Message]]], items: Mapping[str, IdentifiedT]
) -> Iterator[Iterator[Outcome[IdentifiedT, Any]]]:
    with messages as found:
        yield (_outcome(message, items) for _, message in found if message["kind"] == "case")


def _outcome(message: Message, items: Mapping[str, IdentifiedT]) -> Outcome[IdentifiedT, Any]:
    item = items[message["id"]]
    return Outcome(item, error=from_json(message["error"])) if "error" in message else Outcome(item, message["result"])


def batched(ids: Iterable[str], size: int) -> Iterator[tuple[str, ...]]:
    """Chunks of ids; all but the last have a size."""
    left = iter(ids)
    while chunk := tuple(islice(left, size)):
        yield chunk
