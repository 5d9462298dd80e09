"""What is out of date, in the UI: a check on each asset that says what and why, and the job that makes it again.

Dagster by itself marks what stands directly on something changed, and nothing beyond a hundred partitions. These
checks say what ``mist_status`` says, told from the files.
"""

from collections.abc import Iterator, Mapping
from typing import Optional

import dagster as dg
from pydantic import Field

from mist_dagster import metadata
from mist_dagster.freshness.status import Status, sentences, status
from mist_dagster.jobs import in_sync_checks
from mist_dagster.partitions import fold_key
from mist_dagster.runtime.progress import Progress
from mist_ops.study import Study


def _outdated(found: Status) -> dict[str, Mapping[str, str]]:
    """What is out of date of each asset, with the reason."""
    return {
        "study_config": dict.fromkeys(found.unseen, "is new in the dataset, and not analyzed"),
        "preprocessed_case": found.patients,
        "fold_model": {fold_key(fold): "; ".join(reasons) for fold, reasons in found.folds.items()},
        "cv_prediction": found.predictions,
        "test_prediction": found.tests,
        "evaluation": {"results.csv": found.scores} if found.scores else {},
    }


class PlanRun(dg.Config):
    """How to make a study current."""

    device: Optional[str] = Field(None, description="cpu, cuda or a number; a GPU if there is one.")  # noqa: UP045
    preprocess_workers: int = Field(1, description="Processes that preprocess patients.")
    evaluate_workers: int = Field(1, description="Processes that score patients.")


def status_checks(study: Study) -> dg.AssetChecksDefinition:
    """The checks of a study, all made from one look at its files."""

    @dg.multi_asset_check(
        name=f"{study.key}__in_sync",
        specs=[
            dg.AssetCheckSpec(check.name, asset=check.asset_key, description="Made from everything as it is now.")
            for check in in_sync_checks(study)
        ],
        can_subset=True,  # a single check's page can then execute it
    )
    def in_sync(context: dg.AssetCheckExecutionContext) -> Iterator[dg.AssetCheckResult]:
        found = status(study)
        outdated = _outdated(found)
        for check in sorted(context.op_execution_context.selected_asset_check_keys):
            yield _result(check, outdated[check.asset_key.path[-1]], found)

    return in_sync


def _result(check: dg.AssetCheckKey, outdated: Mapping[str, str], found: Status) -> dg.AssetCheckResult:
    rows = [{"out of date": part, "because": reason} for part, reason in outdated.items()]
    hours = {"estimated hours": found.hours} if found.hours is not None and "fold_model" in check.asset_key.path else {}
    return dg.AssetCheckResult(
        asset_key=check.asset_key,
        check_name=check.name,
        passed=not outdated,
        severity=dg.AssetCheckSeverity.WARN,
        description=f"{len(outdated)} out of date" if outdated else "current",
        metadata={"out of date": metadata.table(rows), "number": len(outdated), **hours} if outdated else {},
    )


def plan_job(study: Study) -> dg.JobDefinition:
    """The job that does what ``mist_plan --apply`` does."""

    @dg.op(name=f"{study.key}__plan_op", description="Find out what is out of date, and make just that again.")
    def plan(context: dg.OpExecutionContext, config: PlanRun, progress: dg.ResourceParam[Progress]) -> None:
        from mist_dagster.freshness.outputs import outdated_outputs
        from mist_dagster.launch import Launcher  # it builds the definitions, of which this is one
        from mist_dagster.pipeline import make_current

        found = status(study)
        outputs = outdated_outputs(context.instance, study, found)
        for sentence in sentences(found, {output.path: reason for output, reason in outputs.items()}):
            progress.note(sentence)
        if outputs or not found.current:
            make_current(Launcher(context.instance, progress), study, found, config)

    @dg.job(
        name=f"{study.key}__make_current",
        tags={"mist/study": study.key, "mist/stage": "make_current"},
        description="Make what is out of date again, and nothing else; each stage is a run of its own.",
    )
    def make_current_job() -> None:
        plan()

    return make_current_job
