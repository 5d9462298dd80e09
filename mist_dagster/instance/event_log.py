"""Dagster's SQLite event log with pooled connections, named in ``dagster.yaml``.

Dagster opens and closes seven connections for each event of a patient, and compiles the same statements for each. With
open connections an event takes a third of the time: 5 instead of 17 ms (``bench/patients.py``). Files and tables are
those of Dagster, so a home can switch between the two.
"""

import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Engine, create_engine
from sqlalchemy.event import listens_for

from mist_dagster.dagster_private import (
    SQLITE_BUSY_TIMEOUT_SECONDS,
    ConfigurableClassData,
    SerializableErrorInfo,
    SqliteEventLogStorage,
)
from mist_dagster.instance.home import dagster_home

if TYPE_CHECKING:
    from dagster import EventLogEntry

_POOL_SIZE = 8
"""The index and the latest runs; each run has a file of its own, and a web server reads thousands."""


@dataclass
class _Batch:
    """The open transactions of a thread that stores several events."""

    thread: int
    stack: ExitStack
    connections: dict[str, Connection] = field(default_factory=dict)


class PooledSqliteEventLog(SqliteEventLogStorage):
    """The event log in ``history/runs`` of this home."""

    def __init__(self, base_dir: str, inst_data: ConfigurableClassData | None = None) -> None:
        self._engines: OrderedDict[str, Engine] = OrderedDict()
        self._tables: set[str] = set()
        self._columns: set[str] = set()
        self._batch: _Batch | None = None
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
        with self._db_lock, self._transaction(shard) as connection:
            yield connection

    @contextmanager
    def _transaction(self, shard: str) -> Iterator[Connection]:
        engine = self._engine(shard)
        if shard not in self._initialized_dbs:
            self._initdb(engine)
            self._initialized_dbs.add(shard)
        with engine.connect() as connection, connection.begin():
            yield connection

    def store_event_batch(self, events: "Sequence[EventLogEntry]") -> None:
        """Store events, each file in one transaction: all or none, so that Dagster may then store them one by one."""
        with self._db_lock, ExitStack() as stack:
            self._batch = _Batch(threading.get_ident(), stack)
            try:
                super().store_event_batch(events)
            finally:
                self._batch = None

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
        super().store_event(_without_stack_of_interrupt(event))

    def dispose(self) -> None:
        """Close all connections."""
        with self._db_lock:
            while self._engines:
                _, engine = self._engines.popitem()
                engine.dispose()
        super().dispose()


def _without_fsync(connection: Any, _: object) -> None:
    """Skip the fsync of each commit: a killed process loses nothing, a power failure the latest events at most."""
    connection.execute("PRAGMA synchronous=NORMAL")


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
