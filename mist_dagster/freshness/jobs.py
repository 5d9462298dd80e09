"""Jobs that answer a question about a study, or note an answer, and make nothing."""

from typing import Optional

import dagster as dg
from pydantic import Field

from mist_dagster.freshness.keep import Choice, keep, report_kept, undo
from mist_dagster.freshness.outputs import stale_outputs
from mist_dagster.freshness.status import report, status
from mist_dagster.jobs import run_tags
from mist_dagster.launch import Build, Launcher
from mist_dagster.runtime.progress import Progress
from mist_dagster.stages import job_name
from mist_ops.study import Study


class WhatIfRun(dg.Config):
    """Changes to imagine."""

    changes: list[str] = Field(
        description="Settings such as training.epochs=200, or remove=PATIENT. Nothing is changed.",
        examples=[["training.epochs=200"]],
    )


def what_if_job(study: Study) -> dg.JobDefinition:
    """The job that answers as ``mist_plan --what-if`` does: in its log, and in the metadata of its output."""

    @dg.op(name=f"{study.key}__what_if_op", description="Find what would be stale after some changes.")
    def what_if_op(context: dg.OpExecutionContext, config: WhatIfRun, progress: dg.ResourceParam[Progress]) -> None:
        found = status(study, context.instance, context.run_id, config.changes)
        outputs = {output.path: why for output, why in stale_outputs(context.instance, study, found).items()}
        lines = list(report(found, outputs))
        for line in lines:
            progress.note(line)
        answer = "\n".join(f"- {line}" for line in lines)
        context.add_output_metadata({"answer": dg.MetadataValue.md(answer), "changes": ", ".join(config.changes)})

    @dg.job(
        name=job_name(study, "what_if"),
        tags=run_tags(study, "what_if"),
        description="Find what would be stale after some changes, and how long it would take. Nothing is changed.",
        executor_def=dg.in_process_executor,
    )
    def what_if_job() -> None:
        what_if_op()

    return what_if_job


class KeepRun(dg.Config):
    """What to keep and why, as the flags of ``mist_keep``."""

    reason: str = Field("", description="Why what changed does not matter; required unless undo is true.")
    change: Optional[str] = Field(  # noqa: UP045
        None, description="Only this change: a part of what the status says of it, such as target_spacing."
    )
    stage: Optional[str] = Field(None, description="Only what this stage made, such as train.")  # noqa: UP045
    only: Optional[list[str]] = Field(  # noqa: UP045
        None, description="Only these patients, folds (fold_0) or files (results.csv)."
    )
    undo: bool = Field(False, description="Make stale again what was kept.")


def keep_job(study: Study, build: Build) -> dg.JobDefinition:
    """The job that does what ``mist_keep`` does."""

    @dg.op(name=f"{study.key}__keep_op", description="Keep stale artifacts as they are, or undo that.")
    def keep_op(context: dg.OpExecutionContext, config: KeepRun, progress: dg.ResourceParam[Progress]) -> None:
        launcher = Launcher(context.instance, progress, build)
        choice = Choice(config.stage, config.only, config.change)
        if config.undo:
            progress.note(report_kept(undo(launcher, study, choice), "No longer kept:"))
        else:
            progress.note(report_kept(keep(launcher, study, choice, config.reason), "Kept"))
        launcher.run_stage(study, "status")

    @dg.job(
        name=job_name(study, "keep"),
        tags=run_tags(study, "keep"),
        description="Declare stale artifacts current, with a reason, or undo that.",
        executor_def=dg.in_process_executor,
    )
    def keep_job() -> None:
        keep_op()

    return keep_job
