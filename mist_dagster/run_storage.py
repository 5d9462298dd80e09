"""The run storage, named in ``dagster.yaml``: Dagster's SQLite with tags on every run and a longer lock timeout.

Jobs and commands tag their runs; one of selected assets, from the UI, a backfill or ``dagster asset materialize``, has
no tags of its own. Every run of a home passes here when it is created, before it is queued.

Dagster's own storage fails after the five seconds of Python's ``sqlite3``, so commands would fail while others write.
The end of a run is stored here as well; then old records are deleted (``instance/retention.py``).
"""

import contextlib
import getpass
from collections.abc import Collection
from datetime import datetime
from typing import Any

from dagster import AssetCheckKey, AssetKey, DagsterEvent, DagsterEventType, DagsterRun, Field, Int
from sqlalchemy import NullPool, create_engine

from mist_dagster.dagster_private import (
    SQLITE_BUSY_TIMEOUT_SECONDS,
    ConfigurableClassData,
    SqliteRunStorage,
    create_db_conn_string,
)
from mist_dagster.instance.home import dagster_home
from mist_dagster.instance.retention import KEPT_EVENTS, KEPT_RUNS, Retention
from mist_dagster.instance.slurm_runs import study_on_slurm
from mist_dagster.instance.stamps import is_stamped
from mist_ops.errors import MistError

MACHINE = "mist/machine"
"""Run tag: ``here`` or ``slurm``, by which ``dagster.yaml`` limits how many runs of the queue work here."""

_ENDS = (DagsterEventType.RUN_SUCCESS, DagsterEventType.RUN_FAILURE, DagsterEventType.RUN_CANCELED)


class WaitingSqliteRunStorage(SqliteRunStorage):
    """The runs in ``history/runs.db`` of this home."""

    def __init__(self, conn_string: str, inst_data: ConfigurableClassData | None = None) -> None:
        super().__init__(f"{conn_string}?timeout={SQLITE_BUSY_TIMEOUT_SECONDS}", inst_data)

    retention: Retention | None = None

    @classmethod
    def config_type(cls) -> dict[str, Any]:
        """Return the settings of the retention."""
        events = "Latest events of the partitions of each asset and check that are kept; -1 for all."
        runs = "Latest runs that are kept; -1 for all."
        return {
            "kept_events": Field(Int, is_required=False, default_value=KEPT_EVENTS, description=events),
            "kept_runs": Field(Int, is_required=False, default_value=KEPT_RUNS, description=runs),
        }

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData | None, config_value: Any) -> "WaitingSqliteRunStorage":
        """Open the runs in Dagster's default location."""
        folder = dagster_home() / "history"
        folder.mkdir(parents=True, exist_ok=True)
        database = create_db_conn_string(str(folder), "runs")
        known = is_stamped(create_engine(database, poolclass=NullPool))
        opened = cls(database, inst_data) if known else cls.from_local(str(folder), inst_data)
        opened.retention = Retention(dagster_home(), config_value["kept_events"], config_value["kept_runs"])
        return opened

    def handle_run_event(self, run_id: str, event: DagsterEvent, update_timestamp: datetime | None = None) -> None:
        """Store the status of a run; delete old records once it has ended."""
        super().handle_run_event(run_id, event, update_timestamp)
        if self.retention and event.event_type in _ENDS:
            self.retention.apply_soon()

    def add_run(self, dagster_run: DagsterRun) -> DagsterRun:
        """Store a new run, with the tags that it lacks."""
        return super().add_run(tagged(dagster_run))


def tagged(run: DagsterRun) -> DagsterRun:
    """Return a run with the tags that it lacks: its user, study and stage, its place in the queue, and its machine."""
    known = run.with_tags({**_tags(run), **run.tags})
    return known.with_tags({**known.tags, MACHINE: "slurm" if _on_slurm(known) else "here"})


def _on_slurm(run: DagsterRun) -> bool:
    with contextlib.suppress(MistError):  # the launcher of the run reports invalid settings
        return study_on_slurm(run) is not None
    return False


def _tags(run: DagsterRun) -> dict[str, str]:
    """The user, and what the run materializes or checks."""
    tags = _selection_tags(run.asset_selection or ())
    return {"user": getpass.getuser(), **(tags or _check_tags(run.asset_check_selection or ()))}


def _check_tags(keys: Collection[AssetCheckKey]) -> dict[str, str]:
    prefixes = {key.asset_key.path[0] for key in keys}
    return {"mist/stage": "check", "mist/study": prefixes.pop()} if len(prefixes) == 1 else {}


def _selection_tags(keys: Collection[AssetKey]) -> dict[str, str]:
    from mist_dagster.stages import STAGES, TOOLS, asset_names  # commands open the records without this

    prefixes, names = {key.path[0] for key in keys}, {key.path[-1] for key in keys}
    stages = [stage for stage in STAGES.values() if names.intersection(asset_names(stage))]
    chosen = [stage.name for stage in stages] or [tool for tool in TOOLS if tool in names]
    tags = {"mist/stage": "+".join(chosen)} if chosen else {}
    if stages and len(prefixes) == 1:
        tags |= {"mist/study": prefixes.pop(), "dagster/priority": str(min(stage.priority for stage in stages))}
    return tags
