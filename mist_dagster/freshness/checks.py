"""What is stale, in the UI: a check on each tracked asset that says what and why.

Dagster by itself marks what depends directly on something changed, up to a hundred partitions. These checks report what
``mist_status`` reports, from the files.
"""

from collections.abc import Iterator, Mapping

import dagster as dg

from mist_dagster import metadata
from mist_dagster.freshness.status import status
from mist_dagster.stages import check_keys, tracked
from mist_ops.errors import counted
from mist_ops.study import Study


def status_checks(study: Study) -> dg.AssetChecksDefinition:
    """The ``in_sync`` checks of a study, all from one inspection of its files."""
    stages = {stage.target: stage for stage in tracked()}

    @dg.multi_asset_check(
        name=f"{study.key}__in_sync",
        specs=[
            dg.AssetCheckSpec(
                check.name, asset=check.asset_key, description="Made from the files and settings as they are now."
            )
            for check in check_keys(study)
        ],
        can_subset=True,  # so that the page of one check can execute it
    )
    def in_sync(context: dg.AssetCheckExecutionContext) -> Iterator[dg.AssetCheckResult]:
        found = status(study)
        for check in sorted(context.op_execution_context.selected_asset_check_keys):
            stage = stages[check.asset_key.path[-1]].name
            yield _result(check, found.of(stage), found.hours if stage == "train" else None)

    return in_sync


def _result(check: dg.AssetCheckKey, reasons: Mapping[str, str], hours: float | None) -> dg.AssetCheckResult:
    rows = [{"stale": key, "because": reason} for key, reason in reasons.items()]
    estimate = {} if hours is None else {"estimated hours": hours}
    return dg.AssetCheckResult(
        asset_key=check.asset_key,
        check_name=check.name,
        passed=not reasons,
        severity=dg.AssetCheckSeverity.WARN,
        description=counted(len(reasons), "stale artifact") if reasons else "current",
        metadata={"stale": metadata.table(rows), "number": len(reasons), **estimate} if reasons else {},
    )
