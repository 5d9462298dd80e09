"""The state of a study: what is current, stale, running or failed. It is found at most every few seconds."""

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

import dagster as dg

from mist_dagster.freshness.status import Status, duration, status
from mist_dagster.instance import addresses
from mist_dagster.instance.home import instance
from mist_dagster.jobs import run_tags
from mist_dagster.stages import STAGES, Stage, job_name, tracked
from mist_dagster.stages.stale import by_reason
from mist_ops.errors import MistError, counted, few
from mist_ops.study import Study

_SHARE = 0.1
"""Of the time of a processor that finding the state of a study may take while its page is open."""

_LEAST_SECONDS = 2.0
_RUNS = 8


@dataclass(frozen=True)
class Run:
    """A run of a study: its status as Dagster names it, and when it was created."""

    id: str
    job: str
    status: str
    created: str

    @property
    def address(self) -> str:
        """Its page in Dagster."""
        return addresses.run(self.id)


@dataclass(frozen=True)
class Row:
    """The state of a stage.

    Attributes:
        action: What the stage does, such as "Train".
        what: The asset that it makes.
        state: ``current``, ``stale``, ``waiting`` or ``running``.
        lines: What is stale and why, or what a run makes.
        hours: Estimated time of what is stale; empty if it is not known.
        job: The launchpad of its job.
        asset: The asset, in Dagster.
    """

    action: str
    what: str
    state: str
    lines: Sequence[str]
    hours: str
    job: str
    asset: str


@dataclass(frozen=True)
class State:
    """The state of a study.

    Attributes:
        at: When it was found.
        problem: Why it could not be found; empty if it was.
        rows: The stages in their order.
        keys: Stale, running and waiting partitions by stage, with the reason of each.
        hours: Estimated time of everything that is stale; empty if it is not known.
        unfinished: Folds with an unfinished training.
        kept: What was declared current, one line each.
        runs: The latest runs.
    """

    at: str
    problem: str = ""
    rows: Sequence[Row] = ()
    keys: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    hours: str = ""
    unfinished: Sequence[int] = ()
    kept: Sequence[str] = ()
    runs: Sequence[Run] = ()

    @property
    def word(self) -> str:
        """The state in a word: unknown, failed, running, stale or current."""
        if self.problem:
            return "unknown"
        states = {row.state for row in self.rows}
        if "running" in states:
            return "running"
        if self.runs and self.runs[0].status == "FAILURE":
            return "failed"
        return "stale" if states & {"stale", "waiting"} else "current"

    @property
    def stale(self) -> Sequence[Row]:
        """The stages that need a run."""
        return [row for row in self.rows if row.state in ("stale", "waiting")]


_locks: dict[str, threading.Lock] = {}
_known: dict[str, tuple[float, float, State]] = {}


def state_of(study: Study) -> State:
    """The state of a study, found again if the last one is old in relation to the time that it took."""
    with _locks.setdefault(study.key, threading.Lock()):
        found = _known.get(study.key)
        if found and time.monotonic() - found[0] < max(_LEAST_SECONDS, found[1] / _SHARE):
            return found[2]
        started = time.monotonic()
        state = _found(study)
        now = time.monotonic()
        _known[study.key] = (now, now - started, state)
        return state


def _found(study: Study) -> State:
    at = f"{datetime.now():%H:%M:%S}"
    with instance() as records:
        runs = _runs(study, records)
        try:
            found = status(study, records)
        except MistError as error:
            return State(at, problem=error.message, runs=runs)
    return State(
        at,
        rows=[_row(study, stage, found) for stage in tracked() if not _unused(stage, found)],
        keys={
            stage.name: {
                **found.of(stage.name),
                **found.waiting.get(stage.name, {}),
                **{key: str(activity) for key, activity in found.under_way.get(stage.name, {}).items()},
            }
            for stage in tracked()
        },
        hours=duration(sum(found.hours.values())) if found.hours else "",
        unfinished=found.unfinished,
        kept=[
            f"{few(keys)} ({STAGES[name].doing.lower()}): {text}"
            for name, texts in found.kept.items()
            for text, keys in by_reason(texts).items()
        ],
        runs=runs,
    )


def _unused(stage: Stage, found: Status) -> bool:
    """Whether a study does without a stage."""
    return stage.optional and not found.of(stage.name) and stage.name not in found.under_way


def _row(study: Study, stage: Stage, found: Status) -> Row:
    made, stale, waiting = found.under_way.get(stage.name, {}), found.of(stage.name), found.waiting.get(stage.name, {})
    state = "running" if made else "stale" if stale else "waiting" if waiting else "current"
    texts = [
        *by_reason({key: str(activity) for key, activity in made.items()}).items(),
        *by_reason(stale).items(),
        *by_reason(waiting).items(),
    ]
    return Row(
        action=stage.action,
        what=stage.target.replace("_", " "),
        state=state,
        lines=[f"{_keys(stage, keys)}{text}" for text, keys in texts],
        hours=duration(found.hours[stage.name]) if stage.name in found.hours else "",
        job=addresses.job(job_name(study, stage.name)),
        asset=addresses.asset(study, stage.target),
    )


def _keys(stage: Stage, keys: Sequence[str]) -> str:
    if stage.partitions == "folds":
        return f"{few([key.replace('_', ' ') for key in keys])}: "
    if stage.partitions or stage.name == "analyze":
        return f"{counted(len(keys), stage.noun or 'patient')} ({few(keys)}): "
    return ""


def _runs(study: Study, records: dg.DagsterInstance) -> list[Run]:
    tag = {"mist/study": run_tags(study, "train")["mist/study"]}
    return [
        Run(
            record.dagster_run.run_id,
            record.dagster_run.job_name.removeprefix(f"{study.key}__").replace("_", " "),
            record.dagster_run.status.value,
            f"{record.create_timestamp.astimezone():%Y-%m-%d %H:%M}",
        )
        for record in records.get_run_records(dg.RunsFilter(tags=tag), limit=_RUNS)
    ]
