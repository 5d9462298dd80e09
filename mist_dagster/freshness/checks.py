"""What is stale, in the UI: a check on each tracked asset, for its partitions and for the asset as a whole.

Dagster by itself marks what depends directly on something changed, up to a hundred partitions. These checks report what
``mist_status`` reports, from the files.

A study may have thousands of patients, and an event takes milliseconds. So the job of the status reports only what
changed since the last report: a patient gets an event when it becomes stale, and when it is current again.
"""

import json
import warnings
from collections.abc import Collection, Iterator, Mapping
from functools import cache

import dagster as dg

from mist_dagster import metadata
from mist_dagster.dagster_private import (
    AssetCheckEvaluationTargetMaterializationData,
    AssetCheckExecutionRecordStatus,
    AssetCheckPartitionInfo,
)
from mist_dagster.freshness.status import Status, duration, status
from mist_dagster.freshness.underway import partitions_of
from mist_dagster.jobs import run_tags
from mist_dagster.partitions import StudyPartitions, study_partitions
from mist_dagster.provenance import asset_key
from mist_dagster.stages import IN_SYNC, WHOLE, Stage, check_keys, job_name, tracked_of
from mist_ops.errors import counted
from mist_ops.files import json_hash
from mist_ops.study import Study

# Checks with partitions work as documented in 1.13; users need not see the warning.
warnings.filterwarnings("ignore", category=dg.PreviewWarning)


def status_checks(study: Study, partitions: StudyPartitions) -> list[dg.AssetChecksDefinition]:
    """The ``in_sync`` checks of a study."""
    return [_check(study, stage, partitions) for stage in tracked_of(study)]


def _check(study: Study, stage: Stage, partitions: StudyPartitions) -> dg.AssetChecksDefinition:
    defined = getattr(partitions, stage.partitions) if stage.partitions else None
    spec = dg.AssetCheckSpec(
        IN_SYNC,
        asset=asset_key(study, stage.target),
        description="Made from the files and settings as they are now. A patient has a mark only after it was stale.",
        partitions_def=defined,
    )

    @dg.multi_asset_check(name=f"{study.key}__{stage.target}_{IN_SYNC}", specs=[spec])
    def in_sync(context: dg.AssetCheckExecutionContext) -> Iterator[dg.Output[None]]:
        step, run = context.op_execution_context, context.run
        report = Report(step.instance, study, status(study, step.instance, but=run.run_id))
        chosen = partitions_of(run.tags, defined.get_partition_keys()) if defined else None
        # An AssetCheckResult has no partition in a run of several.
        for evaluation in (*report.partitions(stage, chosen or ()), report.of_whole(stage)):
            step.log_event(evaluation)  # type: ignore[arg-type]  # Dagster accepts it
        report.remember()
        yield dg.Output(None, step.op_def.output_defs[0].name)

    return in_sync


def status_job(study: Study) -> dg.JobDefinition:
    """The job that reports which checks changed. Dagster accepts a second evaluation of a partition only of a run."""

    @dg.op(name=f"{study.key}__status_op", description="Find what is stale, and mark what changed.")
    def report(context: dg.OpExecutionContext) -> None:
        from mist_dagster.instance.event_log import gathering  # loads SQLAlchemy

        found = Report(context.instance, study, status(study, context.instance))
        changes = list(found.changes())  # first, as to read the records stores what is gathered
        with gathering(context.instance):
            for evaluation in changes:
                context.log_event(evaluation)  # type: ignore[arg-type]  # Dagster accepts it
        found.remember()

    # Not on a worker: a queue without one would fill up with runs of the sensor.
    @dg.job(
        name=job_name(study, "status"),
        tags=run_tags(study, "status"),
        description="Mark what is stale.",
        executor_def=dg.in_process_executor,
    )
    def status_job() -> None:
        report()

    return status_job


class Report:
    """A status beside what was reported before: by Dagster's records, and texts that only the events have."""

    def __init__(self, instance: dg.DagsterInstance, study: Study, found: Status) -> None:
        self._instance, self._study, self._found = instance, study, found
        infos = instance.event_log_storage.get_asset_check_partition_info(check_keys(study))
        self._reported = {(info.check_key.asset_key.path[-1], info.partition_key): info for info in infos}
        self._name = f"mist/{IN_SYNC}/{study.key}"
        known = instance.run_storage.get_cursor_values({self._name}).get(self._name, "{}")
        self._materialized = cache(lambda target: instance.get_materialized_partitions(asset_key(study, target)))
        self._texts: dict[str, dict[str, str]] = json.loads(known)

    def changes(self) -> Iterator[dg.AssetCheckEvaluation]:
        """Evaluations of all checks that changed."""
        for stage in tracked_of(self._study):
            # The one of the whole comes last: the UI takes the severity of all from the latest.
            yield from self.partitions(stage)
            yield from self.whole(stage)

    def partitions(self, stage: Stage, chosen: Collection[str] = ()) -> Iterator[dg.AssetCheckEvaluation]:
        """Evaluations of chosen partitions, and of those whose state changed.

        Patients who are current and were never reported are excluded, those that Dagster shows as missing, and those
        that a run is making or will make: its end is the change.
        """
        if not stage.partitions:
            return
        reasons = self._reasons(stage)
        reported = {key: info for (target, key), info in self._reported.items() if target == stage.target and key}
        shown = self._materialized(stage.target) if reasons else set()
        folds = study_partitions(self._study).held_out if stage.partitions == "folds" else ()
        changing = set() if folds else reasons.keys() - self._found.of(stage.name).keys()
        for key in dict.fromkeys([*chosen, *folds, *reported, *(key for key in reasons if key in shown)]):
            if key in chosen or (
                key not in changing and self._changed(stage, key, reported.get(key), reasons.get(key))
            ):
                yield self.of_partition(stage, key)

    def whole(self, stage: Stage) -> Iterator[dg.AssetCheckEvaluation]:
        """The evaluation of the asset as a whole, if it changed."""
        before, info = self._texts.get(stage.target, {}).get(""), self._reported.get((stage.target, None))
        made = self.of_whole(stage)
        if info is None or self._is_skipped(info) or self._texts[stage.target][""] != before:
            yield made

    def of_partition(self, stage: Stage, key: str) -> dg.AssetCheckEvaluation:
        """The evaluation of a partition."""
        reason = self._reasons(stage).get(key)
        texts = self._texts.setdefault(stage.target, {})
        texts.pop(key, None)
        if reason:
            texts[key] = reason
        text = reason or self._found.kept.get(stage.name, {}).get(key, "current")
        return self._evaluation(stage, key, not reason, text, {}, lost=self._is_lost(stage, key))

    def of_whole(self, stage: Stage) -> dg.AssetCheckEvaluation:
        """The evaluation of an asset as a whole: how many of its artifacts are stale, and which."""
        stale, waiting = self._found.of(stage.name), self._found.waiting.get(stage.name, {})
        kept = self._found.kept.get(stage.name, {})
        states = [activity.state for activity in self._found.under_way.get(stage.name, {}).values()]
        parts = [counted(len(stale), "stale artifact")] if stale else []
        parts += [f"{states.count(state)} {state}" for state in ("running", "queued") if state in states]
        parts += [f"{len(waiting)} waiting"] if waiting else []
        parts += [f"{len(kept)} kept as current"] if kept else []
        rows = [{"artifact": key, "because": reason} for key, reason in self._reasons(stage).items()]
        shown: metadata.Metadata = {"artifacts": metadata.table(rows), "stale": len(stale)} if rows else {}
        if kept:
            shown["kept"] = metadata.table([{"artifact": key, "because": text} for key, text in kept.items()])
        if stage.name in self._found.hours:
            shown["estimated time"] = duration(self._found.hours[stage.name])
        made = self._evaluation(
            stage,
            None,
            not rows,
            ", ".join(parts) or "current",
            shown,
            lost=any(self._is_lost(stage, key) for key in stale),
        )
        target = made.target_materialization_data
        self._texts.setdefault(stage.target, {})[""] = json_hash([made.description, rows, target and target.storage_id])
        return made

    def remember(self) -> None:
        """Keep the texts of what was reported."""
        self._instance.run_storage.set_cursor_values({self._name: json.dumps(self._texts)})

    def _reasons(self, stage: Stage) -> Mapping[str, str]:
        """Why artifacts of a stage are not in sync, by partition."""
        under_way = self._found.under_way.get(stage.name, {})
        return {
            **self._found.of(stage.name),
            **{key: str(activity) for key, activity in under_way.items() if not activity.current},
            **self._found.waiting.get(stage.name, {}),
        }

    def _is_lost(self, stage: Stage, key: str) -> bool:
        """Whether an artifact is missing that Dagster shows as materialized."""
        if stage.locate is None or key not in self._found.of(stage.name):
            return False
        if stage.partitions is None:
            return not stage.locate(self._study, WHOLE).exists() and self._target(stage, None) is not None
        return key in self._materialized(stage.target) and not stage.locate(self._study, key).exists()

    def _changed(self, stage: Stage, key: str, info: AssetCheckPartitionInfo | None, reason: str | None) -> bool:
        if info is None or self._is_skipped(info):
            return True
        if info.latest_execution_status == AssetCheckExecutionRecordStatus.PLANNED:
            return False  # its run evaluates it
        if reason:
            said = self._texts.get(stage.target, {}).get(key)
            failed = info.latest_execution_status == AssetCheckExecutionRecordStatus.FAILED
            return not failed or said != reason or not info.is_current
        passed = info.latest_execution_status == AssetCheckExecutionRecordStatus.SUCCEEDED
        return not passed or (stage.partitions == "folds" and not info.is_current)

    def _is_skipped(self, info: AssetCheckPartitionInfo) -> bool:
        """Whether a run was to evaluate a check and ended without."""
        if info.latest_execution_status != AssetCheckExecutionRecordStatus.PLANNED:
            return False
        run = self._instance.get_run_by_id(info.latest_planned_run_id)
        return run is None or run.is_finished

    def _evaluation(
        self, stage: Stage, key: str | None, passed: bool, text: str, shown: metadata.Metadata, *, lost: bool
    ) -> dg.AssetCheckEvaluation:
        return dg.AssetCheckEvaluation(
            asset_key=self._key(stage),
            check_name=IN_SYNC,
            passed=passed,
            partition=key,
            description=text,
            metadata=shown,
            # An error turns the asset red in the graph.
            severity=dg.AssetCheckSeverity.ERROR if lost else dg.AssetCheckSeverity.WARN,
            target_materialization_data=self._target(stage, key),
        )

    def _target(self, stage: Stage, key: str | None) -> AssetCheckEvaluationTargetMaterializationData | None:
        filters = dg.AssetRecordsFilter(self._key(stage), asset_partitions=[key] if key else None)
        for record in self._instance.fetch_materializations(filters, limit=1).records:
            return AssetCheckEvaluationTargetMaterializationData(
                storage_id=record.storage_id, run_id=record.run_id, timestamp=record.timestamp
            )
        return None

    def _key(self, stage: Stage) -> dg.AssetKey:
        return asset_key(self._study, stage.target)
