"""What runs of a study are making, or will make once the queue starts them.

Dagster knows the runs of this home, whatever executes them. The locks of a study also know those of other homes.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

import dagster as dg

from mist_dagster.dagster_private import (
    ASSET_PARTITION_RANGE_END_TAG,
    ASSET_PARTITION_RANGE_START_TAG,
    PARTITION_NAME_TAG,
)
from mist_dagster.instance.slurm_runs import state_of
from mist_dagster.provenance import asset_key
from mist_dagster.runtime.locks import study_locks
from mist_dagster.slurm.tags import SLURM
from mist_dagster.stages import STAGES, WHOLE, Inspection, Stage, job_name, keys_of, tracked
from mist_ops.study import Study

_QUEUED = (dg.DagsterRunStatus.QUEUED, dg.DagsterRunStatus.STARTING)
_RUNNING = (dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING)


@dataclass(frozen=True)
class Activity:
    """What a run does with a stage.

    Attributes:
        stage: Name of the stage.
        partitions: Its patients or folds; None for all, or for a stage without partitions.
        state: ``running`` or ``queued``.
        run_id: The run.
        since: When it started or was queued.
        current: Whether what it replaces is current until then.
        note: What its job on a cluster does.
    """

    stage: str
    partitions: frozenset[str] | None
    state: str
    run_id: str
    since: datetime
    current: bool = False
    note: str = ""

    def __str__(self) -> str:
        if self.note:
            return f"{self.note} (run {self.run_id[:8]})"
        return f"{self.state} since {self.since:%Y-%m-%d %H:%M} (run {self.run_id[:8]})"


def activities(seen: Inspection, instance: dg.DagsterInstance, but: str | None = None) -> list[Activity]:
    """What unfinished runs do with the tracked stages of a study.

    Args:
        seen: The study.
        instance: Where its runs are recorded.
        but: Id of a run to exclude: the one that asks.
    """
    found = [activity for activity in _of_runs(seen, instance) if activity.run_id != but]
    known = {activity.run_id[:8] for activity in found} | {(but or "")[:8]}
    return [*found, *(lock for lock in _of_locks(seen.study) if lock.run_id not in known)]


def runs_under_way(instance: dg.DagsterInstance) -> Sequence[dg.RunRecord]:
    """The queued and running runs of a home."""
    return instance.get_run_records(dg.RunsFilter(statuses=[*_QUEUED, *_RUNNING]))


def _of_runs(seen: Inspection, instance: dg.DagsterInstance) -> Iterator[Activity]:
    for record in runs_under_way(instance):
        run, created = record.dagster_run, record.create_timestamp.timestamp()
        state, since = ("queued", created) if run.status in _QUEUED else ("running", record.start_time or created)
        for stage in _stages(seen.study, run):
            partitions = partitions_of(run.tags, keys_of(stage, seen))
            note = state_of(run) if SLURM in run.tags else ""
            yield Activity(stage.name, partitions, state, run.run_id, datetime.fromtimestamp(since), note=note)


def _stages(study: Study, run: dg.DagsterRun) -> Iterator[Stage]:
    """The tracked stages of a run: of a job, or of assets that were selected in the UI."""
    for stage in tracked():
        chosen = run.asset_selection and asset_key(study, stage.target) in run.asset_selection
        if chosen or run.job_name == job_name(study, stage.name):
            yield stage


def partitions_of(tags: Mapping[str, str], keys: Sequence[str]) -> frozenset[str] | None:
    """The partitions in the tags of a run, of all those in their order; None if it has no such tags."""
    if PARTITION_NAME_TAG in tags:
        return frozenset([tags[PARTITION_NAME_TAG]])
    ends = [tags.get(tag) for tag in (ASSET_PARTITION_RANGE_START_TAG, ASSET_PARTITION_RANGE_END_TAG)]
    if ends[0] in keys and ends[1] in keys:
        return frozenset(keys[keys.index(ends[0]) : keys.index(ends[1]) + 1])
    return None


def _of_locks(study: Study) -> Iterator[Activity]:
    for lock in study_locks(study):
        stage, partitions = str(lock.get("stage", "")), lock.get("partitions")
        if stage in STAGES:
            since = datetime.fromisoformat(str(lock["since"])).astimezone().replace(tzinfo=None)
            chosen = None if partitions is None else frozenset(map(str, partitions))
            yield Activity(stage, chosen, "running", str(lock["run"]), since)


@dataclass(frozen=True)
class Division:
    """What is stale of a study, by what becomes of it.

    Attributes:
        stale: What needs a run, by stage and partition, with the reason.
        under_way: What a run is making, or will make.
        waiting: What needs a run after those, with what it waits for.
    """

    stale: Mapping[str, Mapping[str, str]]
    under_way: Mapping[str, Mapping[str, Activity]]
    waiting: Mapping[str, Mapping[str, str]]


def divide(seen: Inspection, found: list[Activity]) -> Division:
    """Divide the stale partitions of an inspected study."""
    stale: dict[str, dict[str, str]] = {}
    under_way: dict[str, dict[str, Activity]] = {}
    waiting: dict[str, dict[str, str]] = {}
    for stage in tracked():
        reasons = seen.stale[stage.name]
        made = {
            key: replace(activity, current=not reasons if stage.partitions is None else key not in reasons)
            for activity in found
            for key in _made(stage, activity, seen)
        }
        if made:
            under_way[stage.name] = made
        for key, reason in reasons.items():
            if key in made or (made and stage.partitions is None):
                continue
            pending = {name: {*under_way.get(name, ()), *waiting.get(name, ())} for name in stage.follows}
            ahead = [name for name, keys in pending.items() if _concerns(seen, stage, key, STAGES[name], keys)]
            if ahead:
                doing = " and ".join(STAGES[name].doing.lower() for name in ahead)
                waiting.setdefault(stage.name, {})[key] = f"waits for {doing}"
            else:
                stale.setdefault(stage.name, {})[key] = reason
    return Division(stale, under_way, waiting)


def _made(stage: Stage, activity: Activity, seen: Inspection) -> list[str]:
    """The partitions of a stage that a run makes; the file's name if it has none."""
    if activity.stage != stage.name:
        return []
    if stage.partitions is None:
        return [stage.locate(seen.study, WHOLE).name] if stage.locate else []
    return [key for key in keys_of(stage, seen) if activity.partitions is None or key in activity.partitions]


def _concerns(seen: Inspection, stage: Stage, key: str, earlier: Stage, keys: set[str]) -> bool:
    """Whether an artifact is made from any of some artifacts of an earlier stage."""
    if stage.partitions == earlier.partitions and stage.partitions is not None:
        return key in keys
    if (stage.partitions, earlier.partitions) == ("patients", "folds"):
        return f"fold_{seen.assignment.fold_of[key]}" in keys
    return bool(keys)
