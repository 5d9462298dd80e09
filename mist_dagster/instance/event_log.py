"""Dagster's SQLite event log with pooled connections, named in ``dagster.yaml``.

Dagster opens and closes seven connections for each event of a patient, compiles the same statements for each, and
commits four times. Here connections stay open, and the events of many patients are stored in one transaction
(``bench/patients.py``). Files and tables are those of Dagster, so a home can switch between the two.
"""

import queue
import sqlite3
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from alembic.runtime.migration import MigrationContext
from dagster import AssetKey, DagsterEventType
from sqlalchemy import Connection, Engine, create_engine, inspect, text
from sqlalchemy.event import listens_for
from sqlalchemy.exc import DatabaseError

from mist_dagster.dagster_private import (
    SQLITE_BUSY_TIMEOUT_SECONDS,
    ConfigurableClassData,
    SerializableErrorInfo,
    SqlEventLogStorageMetadata,
    SqlEventLogStorageTable,
    SqliteEventLogStorage,
    migrations,
)
from mist_dagster.instance.home import dagster_home
from mist_dagster.instance.stamps import is_stamped

if TYPE_CHECKING:
    from dagster import DagsterInstance, EventLogEntry

_OF_ASSETS = (
    DagsterEventType.ASSET_MATERIALIZATION,
    DagsterEventType.ASSET_MATERIALIZATION_PLANNED,
    DagsterEventType.ASSET_OBSERVATION,
)
_GATHERED = (
    DagsterEventType.ASSET_MATERIALIZATION,
    DagsterEventType.ASSET_OBSERVATION,
    DagsterEventType.ASSET_CHECK_EVALUATION,
)

_POOL_SIZE = 8
"""The index and the latest runs; each run has a file of its own, and a web server reads thousands."""

_MOST_BYTES_OF_LOG = 4 << 20

SECONDS_GATHERED = 0.5
"""How long an event may wait for others: what a killed process may lose, and a UI shows late."""


@dataclass
class _Batch:
    """The open transactions of a thread that stores several events."""

    thread: int
    stack: ExitStack
    connections: dict[str, Connection] = field(default_factory=dict)


class _Gathered:
    """Stores events in a thread, together with those that follow within a short time.

    Neither Ctrl-C nor SIGTERM interrupts another thread than the main one.
    """

    def __init__(self, store: "Callable[[Sequence[EventLogEntry]], None]") -> None:
        self._store = store
        self._arrived: queue.SimpleQueue[EventLogEntry | Future[None]] = queue.SimpleQueue()
        self._error: Exception | None = None
        self._lock = threading.Lock()
        self._last: Future[None] | None = None
        self._thread = threading.Thread(target=self._work, name="events", daemon=True)
        self._thread.start()

    def add(self, event: "EventLogEntry") -> None:
        """Store an event soon; raise the error of an earlier one."""
        if self._error:
            raise self._error
        self._arrived.put(event)

    def flush(self) -> None:
        """Return when all events are stored."""
        with self._lock:
            if self._last is None:
                self._ask(Future())

    def close(self) -> None:
        """Store all events and end the thread."""
        with self._lock:
            self._last = Future()
            self._ask(self._last)

    def _ask(self, stored: Future[None]) -> None:
        self._arrived.put(stored)
        stored.result()

    def _work(self) -> None:
        waiting: list[EventLogEntry] = []
        while True:
            asked = self._collect(waiting)
            try:
                if waiting:
                    self._store(waiting)
            except Exception as error:  # waiting events are stored with the next ones
                self._error = error
            else:
                waiting.clear()
                self._error = None
            if asked and self._error:
                asked.set_exception(self._error)
            elif asked:
                asked.set_result(None)
            if asked and asked is self._last:
                return

    def _collect(self, waiting: "list[EventLogEntry]") -> Future[None] | None:
        """Add events as they come, for a short time or until someone asks for all."""
        found, until = self._arrived.get(), time.monotonic() + SECONDS_GATHERED
        while not isinstance(found, Future):
            waiting.append(found)
            try:
                found = self._arrived.get(timeout=max(0.0, until - time.monotonic()))
            except queue.Empty:
                return None
        return found


class PooledSqliteEventLog(SqliteEventLogStorage):
    """The event log in ``history/runs`` of this home."""

    def __init__(self, base_dir: str, inst_data: ConfigurableClassData | None = None) -> None:
        self._engines: OrderedDict[str, Engine] = OrderedDict()
        self._tables: set[str] = set()
        self._columns: set[str] = set()
        self._batch: _Batch | None = None
        self._gathered: _Gathered | None = None
        super().__init__(base_dir, inst_data)

    @classmethod
    def config_type(cls) -> dict[str, Any]:
        """Return no settings."""
        return {}

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData | None, config_value: Any) -> "PooledSqliteEventLog":
        """Open the log in Dagster's default location."""
        return cls(str(Path(dagster_home()) / "history" / "runs"), inst_data)

    @contextmanager
    def _connect(self, shard: str) -> Iterator[Connection]:
        batch = self._batch
        if batch and batch.thread == threading.get_ident():
            if shard not in batch.connections:
                batch.connections[shard] = batch.stack.enter_context(self._transaction(shard))
            yield batch.connections[shard]
            return
        if self._gathered:
            self._gathered.flush()
        with self._db_lock, self._transaction(shard) as connection:
            yield connection

    @contextmanager
    def _transaction(self, shard: str) -> Iterator[Connection]:
        engine = self._engine(shard)
        if shard not in self._initialized_dbs:
            if not (is_stamped(engine) or _created(engine)):
                self._initdb(engine)
            self._initialized_dbs.add(shard)
        with engine.connect() as connection, connection.begin():
            yield connection

    @contextmanager
    def gathering(self) -> Iterator[None]:
        """Store events of assets and checks of a block in few transactions, before anything else is written or read.

        A killed process may lose those of the last half second; the files that they record remain.
        """
        self._gathered = _Gathered(self.store_event_batch)
        try:
            yield
        finally:
            gathered, self._gathered = self._gathered, None
            gathered.close()

    def store_event_batch(self, events: "Sequence[EventLogEntry]") -> None:
        """Store events, each file in one transaction: all or none, so that Dagster may then store them one by one."""
        with self._db_lock, ExitStack() as stack:
            self._batch = _Batch(threading.get_ident(), stack)
            try:
                for kind, alike in groupby(map(_without_step_tags, events), _kind):
                    if kind:
                        self._store_alike(list(alike), kind.asset)
                    else:
                        super().store_event_batch(list(alike))
            finally:
                self._batch = None

    def _store_alike(self, events: "Sequence[EventLogEntry]", asset: AssetKey | None) -> None:
        """Store events of one run, type and asset, or checks of one run, as ``store_event`` would.

        The last one describes the asset.
        """
        table = SqlEventLogStorageTable
        rows = [self._event_to_row(event) for event in events]
        with self.run_connection(events[0].run_id) as connection:
            connection.execute(table.insert(), rows)
        with self.index_connection() as connection:
            stored = connection.execute(table.insert().returning(table.c.id, sort_by_parameter_order=True), rows)
            ids = list(stored.scalars())
            if asset:
                self._store_asset_event_tags(connection, events, ids)
                self._store_asset_event(connection, events[-1], ids[-1])
            else:
                for event, storage_id in zip(events, ids, strict=True):
                    self.store_asset_check_event(event, storage_id)

    def _engine(self, shard: str) -> Engine:
        if shard not in self._engines:
            # _db_lock serializes the threads, so a connection may be used by a thread that did not open it.
            arguments = {"timeout": SQLITE_BUSY_TIMEOUT_SECONDS, "check_same_thread": False}
            engine = create_engine(self.conn_string_for_shard(shard), connect_args=arguments)
            listens_for(engine, "connect")(_without_fsync)
            self._engines[shard] = engine
        self._engines.move_to_end(shard)
        while len(self._engines) > _POOL_SIZE:
            _, oldest = self._engines.popitem(last=False)
            oldest.dispose()
        return self._engines[shard]

    def has_table(self, table_name: str) -> bool:
        """Whether the index has a table; Dagster asks with each event of an asset, and tables are never dropped."""
        if table_name not in self._tables and super().has_table(table_name):
            self._tables.add(table_name)
        return table_name in self._tables

    def _has_asset_key_col_on_connection(self, conn: Connection, column_name: str) -> bool:
        """Whether the table of assets has a column; asked with each event, and columns are never dropped."""
        if column_name not in self._columns and super()._has_asset_key_col_on_connection(conn, column_name):
            self._columns.add(column_name)
        return column_name in self._columns

    def store_event(self, event: "EventLogEntry") -> None:
        """Store an event."""
        happened = event.dagster_event
        if self._gathered and happened and happened.event_type in _GATHERED:
            self._gathered.add(event)
        else:
            super().store_event(_without_step_tags(_without_stack_of_interrupt(event)))

    def dispose(self) -> None:
        """Close all connections."""
        with self._db_lock:
            while self._engines:
                _, engine = self._engines.popitem()
                engine.dispose()
        super().dispose()


def _created(engine: Engine) -> bool:
    """Create the tables of a run as Dagster does, which loads its migrations three times for each run."""
    try:
        with engine.connect() as connection:
            if inspect(connection).get_table_names():
                return False
            # A run has thirty tables and indices, most of them empty: 30 kB with pages of this size, 131 with SQLite's.
            connection.execute(text("PRAGMA page_size=1024"))
            SqlEventLogStorageMetadata.create_all(connection)
            connection.commit()
            connection.execute(text("PRAGMA journal_mode=WAL;"))
            MigrationContext.configure(connection).stamp(migrations(), "head")
            connection.commit()
    except (DatabaseError, sqlite3.DatabaseError):  # another process creates them, and Dagster waits for it
        return False
    return True


def gathering(instance: "DagsterInstance") -> AbstractContextManager[None]:
    """Gather the materializations of a block, where the event log does."""
    log = instance.event_log_storage
    return log.gathering() if isinstance(log, PooledSqliteEventLog) else nullcontext()


class _Kind(NamedTuple):
    """Run, type and asset of events that are stored together; those of checks have no asset."""

    run_id: str
    event_type: str
    asset: AssetKey | None


def _kind(event: "EventLogEntry") -> _Kind | None:
    """The kind of an event of an asset or a check; None of another one."""
    happened = event.dagster_event
    if happened and happened.asset_key and happened.event_type in _OF_ASSETS:
        return _Kind(event.run_id, happened.event_type_value, happened.asset_key)
    if happened and happened.event_type == DagsterEventType.ASSET_CHECK_EVALUATION:
        return _Kind(event.run_id, happened.event_type_value, None)
    return None


def _without_fsync(connection: Any, _: object) -> None:
    """Skip the fsync of each commit: a killed process loses nothing, a power failure the latest events at most.

    What a large transaction left of the write-ahead log is returned to the file system.
    """
    connection.execute("PRAGMA synchronous=NORMAL")
    connection.execute(f"PRAGMA journal_size_limit={_MOST_BYTES_OF_LOG}")


def _without_step_tags(event: "EventLogEntry") -> "EventLogEntry":
    """Remove the tags of the step from an event: a tenth of its size, which nothing reads."""
    happened = event.dagster_event
    return event._replace(dagster_event=happened._replace(logging_tags={})) if happened else event


_INTERRUPTS = ("DagsterExecutionInterruptedError", "KeyboardInterrupt")
_MEANING = "Interrupted by Ctrl-C, by Terminate or by a signal. Finished work and the latest checkpoint are kept."


def _without_stack_of_interrupt(event: "EventLogEntry") -> "EventLogEntry":
    """Replace the stack of an interrupt, which shows where the signal arrived, by what happened."""
    happened = event.dagster_event
    data = happened.event_specific_data if happened else None
    error = getattr(data, "error", None)
    if happened is None or not isinstance(error, SerializableErrorInfo) or error.cls_name not in _INTERRUPTS:
        return event
    plain: Any = data
    plain = plain._replace(error=SerializableErrorInfo(f"{_MEANING}\n", [], error.cls_name))
    message = f"Step {happened.step_key} was interrupted." if happened.is_step_failure else happened.message
    return event._replace(
        user_message=message or event.user_message,
        dagster_event=happened._replace(event_specific_data=plain, message=message),
    )
