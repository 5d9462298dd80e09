"""The one order of the stages: a work list, filled by a command or a plan, and run.

Only this module knows what follows what. What is stale is decided in ``freshness``; how a run starts, in ``launch``.
"""

import contextlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Optional

import dagster as dg
from pydantic import Field

from mist_dagster.assets.training import PretrainedWeights
from mist_dagster.dagster_private import (
    ASSET_PARTITION_RANGE_END_TAG,
    ASSET_PARTITION_RANGE_START_TAG,
    PARTITION_NAME_TAG,
    link_run,
)
from mist_dagster.freshness.outputs import rebuild_outputs, stale_outputs
from mist_dagster.freshness.status import Status, report, report_unused, status, unused
from mist_dagster.freshness.underway import partitions_of
from mist_dagster.instance.studies import register
from mist_dagster.jobs import run_tags
from mist_dagster.launch import Build, Launcher, others_first
from mist_dagster.partitions import fold_index, fold_key
from mist_dagster.queued import QueueLauncher, submitted_by
from mist_dagster.runtime.gpu import ALL_GPUS
from mist_dagster.runtime.progress import Progress, shown
from mist_dagster.runtime.slurm import remove_files
from mist_dagster.slurm.tags import SLURM
from mist_dagster.stages import STAGES, Inspection, job_name, keys_of
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


@dataclass(frozen=True)
class Scope:
    """What of a study a run makes current: by default everything.

    Attributes:
        stages: Only these stages.
        folds: Train only these folds.
        patients: Predict only these training patients.
        again: Partitions to rebuild although they are current, by stage.
    """

    stages: Collection[str] | None = None
    folds: Collection[int] | None = None
    patients: Collection[str] | None = None
    again: Mapping[str, Collection[str]] = field(default_factory=dict)

    @property
    def whole(self) -> bool:
        """Whether everything is in scope."""
        return self.stages is None and self.folds is None and self.patients is None

    def limit(self, found: Status) -> Status:
        """What of a status is in scope."""
        if self.whole and not self.again:
            return found
        stale = {name: {**dict.fromkeys(self.again.get(name, ()), "to rebuild"), **found.of(name)} for name in STAGES}
        kept = {name: {key: why for key, why in keys.items() if self._has(name, key)} for name, keys in stale.items()}
        return replace(found, stale={name: keys for name, keys in kept.items() if keys}, hours={})

    def _has(self, stage: str, key: str) -> bool:
        if self.stages is not None and stage not in self.stages:
            return False
        if stage == "train" and self.folds is not None:
            return fold_index(key) in self.folds
        return stage != "predict" or self.patients is None or key in self.patients


EVERYTHING = Scope()


def make_current(
    launcher: Launcher,
    study: Study,
    found: Status,
    resources: Resources,
    training: Mapping[str, Any] | None = None,
    scope: Scope = EVERYTHING,
) -> None:
    """Run what a status found stale, and nothing else.

    Args:
        launcher: Starts the runs.
        study: The study.
        found: What of it is stale.
        resources: What the runs may use of the machine.
        training: Run config of the trainings besides ``resources``.
        scope: What of it to make current.

    Raises:
        RunFailedError: A run failed; the following ones were not started.
        RunCanceledError: A run was interrupted.
    """
    found, how = scope.limit(prepare(launcher, study, found, resources, scope)), {"train": training or {}}
    if scope.again:  # what follows current models is stale once they are trained again
        folds = {"train": list(found.of("train"))}
        run(launcher, study, in_order(folds, {}, how, together=launcher.together), resources)
        scope = replace(scope, again={})
        found = scope.limit(status(study, launcher.instance))
    needed = {
        name: list(keys) if STAGES[name].partitions else None
        for name, keys in found.stale.items()
        if name not in ("analyze", "preprocess")
    }
    fold_of = read_train_paths(study.train_paths).fold_of
    first = {name: needed[name] for name in needed if not STAGES[name].reads}
    run(launcher, study, in_order(first, fold_of, how, together=launcher.together), resources)
    for name in (name for name in STAGES if name in needed and STAGES[name].reads):
        if status(study, launcher.instance).of(name):  # not if what it reads came out as it was
            run(launcher, study, in_order({name: None}, {}), resources)
    if scope.whole:
        rebuild_outputs(launcher, study, status(study, launcher.instance))
    show_status(launcher, study)


def prepare(launcher: Launcher, study: Study, found: Status, resources: Resources, scope: Scope = EVERYTHING) -> Status:
    """Run the analysis and the preprocessing where they are stale; return what is stale after that."""
    if scope.limit(found).of("analyze"):
        analyze(launcher, study, {"workers": resources.workers.get("analyze", 1)})
        found = status(study, launcher.instance)
    adopt_config(launcher.instance, study, read_config(study.config), "config.json was edited")
    if scope.limit(found).of("preprocess"):
        run(launcher, study, in_order({"preprocess": list(scope.limit(found).of("preprocess"))}, {}), resources)
        found = status(study, launcher.instance)  # arrays that came out as they were leave their models current
    return found


def stale_replicas(
    study: Study, instance: dg.DagsterInstance, seeds: Collection[int] = (), scope: Scope = EVERYTHING
) -> dict[Study, Status]:
    """The stale replicas of a study with what is stale, optionally only those with certain seeds."""
    replicas = [replica for replica in study.replicas if not seeds or replica.seed in seeds]
    found = {replica: scope.limit(status(replica, instance)) for replica in replicas}
    return {register(replica.results): stale for replica, stale in found.items() if not stale.current}


def show_status(launcher: Launcher, study: Study) -> None:
    """Mark in the UI what became stale or current."""
    launcher.run_stage(study, "status")


class PlanRun(dg.Config):
    """How to make a study and its replicas current; by default everything of them."""

    device: Optional[str] = Field(None, description="cpu, cuda or a GPU number; a GPU if there is one.")  # noqa: UP045
    warm_start: bool = Field(False, description="Train stale folds from their present models.")
    preprocess_workers: int = Field(1, description="Processes that preprocess patients.")
    evaluate_workers: int = Field(1, description="Processes that score patients.")
    figures: bool = Field(True, description="Draw figures.")
    stages: list[str] = Field([], description="Only these stages, such as predict and evaluate; all if empty.")
    folds: list[int] = Field([], description="Train only these folds; all if empty.")
    patients: list[str] = Field([], description="Predict only these training patients; all if empty.")
    seeds: list[int] = Field([], description="Only the study or replicas with these seeds; all if empty.")
    overwrite: bool = Field(False, description="Preprocess and train what is current, too.")
    pretrained: Optional[PretrainedWeights] = Field(  # noqa: UP045
        None, description="Start trainings from other weights."
    )
    training_tags: dict[str, str] = Field({}, description="Further tags of the submitted trainings.")

    def resources(self) -> Resources:
        """What runs may use of the machine."""
        workers = {"analyze": self.preprocess_workers, "preprocess": self.preprocess_workers}
        return Resources(self.device, {**workers, "evaluate": self.evaluate_workers}, figures=self.figures)

    def training(self) -> dict[str, Any]:
        """Run config of the trainings besides the resources."""
        pretrained = {"pretrained": self.pretrained.model_dump()} if self.pretrained else {}
        return {"warm_start": self.warm_start, **pretrained, **({"resume": False} if self.overwrite else {})}

    def scope(self, study: Study, instance: dg.DagsterInstance, run_id: str) -> Scope:
        """What of a study is concerned; what this run rebuilt before its process was replaced is not rebuilt again."""
        scope = Scope(self.stages or None, self.folds or None, self.patients or None)
        if not self.overwrite:
            return scope
        seen, again = Inspection(study, as_analyzed=True), {}
        finished = [run for run in submitted_by(instance, run_id) if run.status == dg.DagsterRunStatus.SUCCESS]
        for name in ("train",) if study.original else ("preprocess", "train"):
            keys = keys_of(STAGES[name], seen)
            done = [partitions_of(run.tags, keys) for run in finished if run.tags["mist/stage"] == name]
            again[name] = [key for key in keys if not any(part is None or key in part for part in done)]
        return replace(scope, again=again)


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
                context.instance,
                progress,
                build,
                launcher.started,
                together=True,
                run_id=context.run_id,
                tags={"train": config.training_tags},
            )
            queued.wait_for_earlier()
            launcher = queued
        scope = config.scope(study, context.instance, context.run_id)
        found = status(study, context.instance, context.run_id)
        outputs = stale_outputs(context.instance, study, found) if scope.whole else {}
        for line in report(scope.limit(found), {output.path: reason for output, reason in outputs.items()}):
            progress.note(line)
        _make_all_current(launcher, study, found, config, scope)
        if SLURM in context.run.tags:
            remove_files(context.instance, study, context.run_id)

    @dg.job(
        name=job_name(study, "make_current"),
        tags=run_tags(study, "make_current"),
        description="Rebuild what is stale, and nothing else; each stage is a run of its own.",
    )
    def make_current_job() -> None:
        plan()

    return make_current_job


def _make_all_current(launcher: Launcher, study: Study, found: Status, config: PlanRun, scope: Scope) -> None:
    """Make a study current, and its replicas: side by side in the queue, one after another in this process."""
    instance, resources = launcher.instance, config.resources()
    found = prepare(launcher, study, found, resources, scope)
    scope = replace(scope, again={name: keys for name, keys in scope.again.items() if name != "preprocess"})
    found = scope.limit(found)
    replicas = stale_replicas(study, instance, config.seeds, scope)
    submitted: list[str] = []
    if isinstance(launcher, QueueLauncher):
        for replica in replicas:
            how = {**config.model_dump(exclude_none=True), "seeds": [], "warm_start": False}
            submitted += launcher.start(replica, "make_current", how)
    own = not config.seeds or read_config(study.config).training.seed in config.seeds
    if own and (not found.current or (scope.whole and stale_outputs(instance, study, found))):
        make_current(launcher, study, found, resources, config.training(), scope)
    if isinstance(launcher, QueueLauncher):
        launcher.wait(submitted)
    else:
        for replica, stale in replicas.items():
            make_current(launcher, replica, stale, resources, scope=scope)
