"""Hands the work of a command to the queue of a running mist_ui, and prints the addresses of the runs."""

from collections.abc import Mapping, Sequence
from typing import Any

from mist_dagster.cli.options import FinalizeOptions, PlanOptions, RunAllOptions, TrainOptions
from mist_dagster.launch import Launcher, submit
from mist_dagster.partitions import fold_key
from mist_dagster.pipeline import Resources
from mist_ops.config import read_config
from mist_ops.errors import counted
from mist_ops.study import Study

_RETRIES = 2
"""How often a submitted run restarts after its worker was lost."""


def submit_folds(
    launcher: Launcher, study: Study, options: TrainOptions, how: Mapping[str, Any], folds: Sequence[int]
) -> None:
    """Submit folds to the queue, each with one GPU unless config.json says otherwise: several train at once there."""
    if not folds:
        launcher.progress.note("Nothing to submit: the models of all folds are current.")
        return
    gpus = read_config(study.config).training.hardware.num_gpus or 1
    run_config = {**how, "gpus": gpus, "figures": not options.no_figures, **_device(options)}
    submitted = submit(study, "train", run_config, list(map(fold_key, folds)), queue_tags(options))
    for fold, address in zip(folds, submitted, strict=True):
        launcher.progress.note(f"Fold {fold}: {address}")
    launcher.progress.note("When they are trained: mist_finalize predicts and scores.")


def submit_patients(
    launcher: Launcher, study: Study, stage: str, resources: Resources, needed: Sequence[str], known: Sequence[str]
) -> None:
    """Submit patients to the queue, a run for each unbroken range."""
    if not needed:
        launcher.progress.note(f"Nothing to submit: {counted(len(known), 'patient is', 'patients are')} current.")
        return
    for address in submit(study, stage, resources.config(study, stage), needed, {}, known=known):
        launcher.progress.note(f"Submitted: {address}")


def queue_tags(options: TrainOptions) -> dict[str, str]:
    """Tags of submitted trainings."""
    limit = {} if options.max_hours is None else {"dagster/max_runtime": str(round(3600 * options.max_hours))}
    # Dagster would restart a run that reached its limit, as it does when a worker is lost.
    retries = 0 if limit else _RETRIES
    return {"dagster/max_retries": str(retries), "dagster/priority": str(options.priority), **limit}


def submit_plan(
    launcher: Launcher, study: Study, options: PlanOptions | FinalizeOptions | RunAllOptions, **how: Any
) -> None:
    """Submit the run that rebuilds everything stale, or a part of it."""
    workers = {f"{stage}_workers": getattr(options, f"num_workers_{stage}", 1) for stage in ("preprocess", "evaluate")}
    config = {**workers, **_device(options), "figures": not options.no_figures, **how}
    for address in submit(study, "make_current", config, None, {}):
        launcher.progress.note(f"Submitted: {address}")


def _device(options: PlanOptions | FinalizeOptions | TrainOptions) -> dict[str, str]:
    return {"device": options.device} if options.device else {}
