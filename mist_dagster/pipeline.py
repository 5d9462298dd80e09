"""The one order of the stages: a work list, filled by a command or a plan, and run.

Only this module knows what follows what. What is stale is decided in ``freshness``; how a run starts, in ``launch``.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Optional

import dagster as dg
from pydantic import Field

from mist_dagster.dagster_private import (
    ASSET_PARTITION_RANGE_END_TAG,
    ASSET_PARTITION_RANGE_START_TAG,
    PARTITION_NAME_TAG,
    link_run,
)
from mist_dagster.freshness.outputs import rebuild_outputs, stale_outputs
from mist_dagster.freshness.status import Status, report, report_unused, status, unused
from mist_dagster.jobs import run_tags
from mist_dagster.launch import Build, Launcher, others_first
from mist_dagster.partitions import fold_key
from mist_dagster.queued import QueueLauncher
from mist_dagster.runtime.gpu import ALL_GPUS
from mist_dagster.runtime.progress import Progress, shown
from mist_dagster.slurm.tags import SLURM
from mist_dagster.stages import STAGES, Inspection, job_name
from mist_dagster.stages.settings import adopt_config
from mist_ops.analysis.analyze import kept_settings, read_fingerprint
from mist_ops.config import read_config
from mist_ops.dataset import read_train_paths
from mist_ops.study import Study


@dataclass(frozen=True)
class Resources:
    """What the runs of a command may use of the machine.

    Attributes:
        device: As the user gave it; None for GPUs if there are any.
        workers: Processes by stage; one where a stage is not named.
        figures: Whether stages that draw figures do so.
    """

    device: str | None = None
    workers: Mapping[str, int] = field(default_factory=dict)
    figures: bool = True

    def config(self, study: Study, stage: str) -> dict[str, Any]:
        """The part of a stage's run config that depends on the machine."""
        options = STAGES[stage].options
        chosen: dict[str, Any] = {"workers": self.workers.get(stage, 1)} if "workers" in options else {}
        if "device" in options and self.device is not None:
            chosen["device"] = self.device
        if "figures" in options:
            chosen["figures"] = self.figures
        if stage == "train":  # one fold after another, so each may have all GPUs
            chosen["gpus"] = read_config(study.config).training.hardware.num_gpus or ALL_GPUS
        return chosen


@dataclass(frozen=True)
class Work:
    """A run of a stage.

    Attributes:
        stage: The stage.
        partitions: Its patients or folds; None for a stage without partitions.
        config: Run config besides that of ``Resources``.
    """

    stage: str
    partitions: Sequence[str] | None = None
    config: Mapping[str, Any] = field(default_factory=dict)


def in_order(
    needed: Mapping[str, Sequence[str] | None],
    fold_of: Mapping[str, int],
    config: Mapping[str, Mapping[str, Any]] | None = None,
    *,
    together: bool = False,
) -> Iterator[Work]:
    """Order what needs a run: each stage after those that it reads, and a fold's predictions right after its training.

    Args:
        needed: Partitions by stage; None for a stage without partitions.
        fold_of: The fold that holds out each training patient.
        config: Run config of stages besides that of ``Resources``.
        together: Whether all folds train side by side; all predictions follow them.
    """
    given = config or {}
    left = list(needed.get("predict") or ())
    for name, stage in STAGES.items():
        if name not in needed:
            continue
        if name == "train" and not together:
            for fold in needed[name] or ():
                yield Work(name, [fold], given.get(name, {}))
                held_out = [case_id for case_id in left if fold_key(fold_of[case_id]) == fold]
                if held_out:
                    yield Work("predict", held_out, given.get("predict", {}))
                    left = [case_id for case_id in left if case_id not in set(held_out)]
        elif name == "predict":
            if left:
                yield Work(name, left, given.get(name, {}))
        elif stage.partitions is None or needed[name]:
            yield Work(name, needed[name], given.get(name, {}))


def run(launcher: Launcher, study: Study, work: Iterator[Work], resources: Resources) -> None:
    """Run a work list.

    Patients that fail hold up their own stages after training, not those of the others.

    Raises:
        PatientsFailedError: Some patients failed; what does not need them is done.
        RunFailedError: A run failed; the following ones were not started.
        RunCanceledError: A run was interrupted.
    """
    with others_first() as holding_back:
        for item in work:
            stage = STAGES[item.stage]
            with holding_back() if stage.continues else contextlib.nullcontext():
                if stage.observes and study.data:
                    launcher.run_stage(study, stage.observes)
                config = {**resources.config(study, item.stage), **item.config}
                launcher.run_stage(study, item.stage, config, item.partitions)


def analyze(launcher: Launcher, study: Study, how: Mapping[str, Any]) -> None:
    """Analyze a study, and report excluded patients and warnings."""
    launcher.run_stage(study, "observe")
    launcher.run_stage(study, "analyze", how)
    fingerprint = read_fingerprint(study)
    for case_id, reasons in fingerprint.excluded.items():
        launcher.progress.problem(f"Excluded: case '{case_id}': {'; '.join(reason.rstrip('.') for reason in reasons)}.")
    others = kept_settings(study)
    for line in others:
        launcher.progress.note(f"{line}.")
    if others:
        launcher.progress.note("mist_analyze --update --replan takes these values; what depends on them is then stale.")
    for line in report_unused(unused(study, Inspection(study))):
        launcher.progress.note(line)
    launcher.progress.note(f"Analysis complete: {shown(study.config)}")


def make_current(
    launcher: Launcher, study: Study, found: Status, resources: Resources, *, warm_start: bool = False
) -> None:
    """Run what a status found stale, and nothing else.

    Args:
        launcher: Starts the runs.
        study: The study.
        found: What of it is stale.
        resources: What the runs may use of the machine.
        warm_start: Whether folds are trained from their present models.

    Raises:
        RunFailedError: A run failed; the following ones were not started.
        RunCanceledError: A run was interrupted.
    """
    if found.of("analyze"):
        analyze(launcher, study, {"workers": resources.workers.get("analyze", 1)})
        found = status(study, launcher.instance)
    adopt_config(launcher.instance, study, read_config(study.config), "config.json was edited")
    if found.of("preprocess"):
        run(launcher, study, in_order({"preprocess": list(found.of("preprocess"))}, {}), resources)
        found = status(study, launcher.instance)  # arrays that came out as they were leave their models current
    fold_of = read_train_paths(study.train_paths).fold_of
    needed = {name: list(keys) if STAGES[name].partitions else None for name, keys in found.stale.items()}
    first = {name: needed[name] for name in needed if not STAGES[name].reads}
    how = {"train": {"warm_start": warm_start}}
    run(launcher, study, in_order(first, fold_of, how, together=launcher.together), resources)
    for name in (name for name in STAGES if name in needed and STAGES[name].reads):
        if status(study, launcher.instance).of(name):  # not if what it reads came out as it was
            run(launcher, study, in_order({name: None}, {}), resources)
    rebuild_outputs(launcher, study, status(study, launcher.instance))
    show_status(launcher, study)


def show_status(launcher: Launcher, study: Study) -> None:
    """Mark in the UI what became stale or current."""
    launcher.run_stage(study, "status")


class PlanRun(dg.Config):
    """How to make a study current."""

    device: Optional[str] = Field(None, description="cpu, cuda or a GPU number; a GPU if there is one.")  # noqa: UP045
    warm_start: bool = Field(False, description="Train stale folds from their present models.")
    preprocess_workers: int = Field(1, description="Processes that preprocess patients.")
    evaluate_workers: int = Field(1, description="Processes that score patients.")


def _link(context: dg.OpExecutionContext, run: dg.DagsterRun) -> None:
    """Log a link to a run of a stage as it starts."""
    tags = run.tags
    ends = [tags[tag] for tag in (ASSET_PARTITION_RANGE_START_TAG, ASSET_PARTITION_RANGE_END_TAG) if tag in tags]
    words = ("Started", tags.get("mist/stage", run.job_name), tags.get(PARTITION_NAME_TAG) or " to ".join(ends))
    link_run(context.run, f"{' '.join(filter(None, words))}.", context.instance, run)


def plan_job(study: Study, build: Build) -> dg.JobDefinition:
    """The job that does what ``mist_plan --apply`` does."""

    @dg.op(name=f"{study.key}__rebuild_stale", description="Find what is stale, and rebuild just that.")
    def plan(context: dg.OpExecutionContext, config: PlanRun, progress: dg.ResourceParam[Progress]) -> None:
        launcher = Launcher(context.instance, progress, build, partial(_link, context))
        if SLURM in context.run.tags:
            queued = QueueLauncher(
                context.instance, progress, build, launcher.started, together=True, run_id=context.run_id
            )
            queued.wait_for_earlier()
            launcher = queued
        found = status(study, context.instance, context.run_id)
        outputs = stale_outputs(context.instance, study, found)
        for line in report(found, {output.path: reason for output, reason in outputs.items()}):
            progress.note(line)
        if outputs or not found.current:
            workers = {
                "analyze": config.preprocess_workers,
                "preprocess": config.preprocess_workers,
                "evaluate": config.evaluate_workers,
            }
            resources = Resources(config.device, workers)
            make_current(launcher, study, found, resources, warm_start=config.warm_start)

    @dg.job(
        name=job_name(study, "make_current"),
        tags=run_tags(study, "make_current"),
        description="Rebuild what is stale, and nothing else; each stage is a run of its own.",
    )
    def make_current_job() -> None:
        plan()

    return make_current_job
