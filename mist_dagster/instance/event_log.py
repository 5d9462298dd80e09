"""Dagster's SQLite event log with its connections kept open, named in ``dagster.yaml``. Nothing else of storage.

Dagster opens and closes seven connections for the event of a patient, and compiles the same statements for each. With
connections kept, a patient costs a third: 5 instead of 17 ms (``bench/patients.py``). Files and tables are the same,
so a home may go from one to the other and back.
"""

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine

from mist_dagster.dagster_private import SQLITE_BUSY_TIMEOUT_SECONDS, ConfigurableClassData, SqliteEventLogStorage
from mist_dagster.instance.home import dagster_home

_MOST_KEPT = 8
"""The index and the latest runs: a web server looks at thousands, each with a file of its own."""


class KeptSqliteEventLog(SqliteEventLogStorage):
    """The event log in ``history/runs`` of this home."""

    def __init__(self, base_dir: str, inst_data: ConfigurableClassData | None = None) -> None:
        self._kept: OrderedDict[str, Engine] = OrderedDict()
        super().__init__(base_dir, inst_data)

    @classmethod
    def config_type(cls) -> dict[str, Any]:
        """It has no settings."""
        return {}

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData | None, config_value: Any) -> "KeptSqliteEventLog":
        """The log where Dagster would have it by itself."""
        return cls(str(Path(dagster_home()) / "history" / "runs"), inst_data)

    @contextmanager
    def _connect(self, shard: str) -> Iterator[Connection]:
        with self._db_lock:
            engine = self._engine(shard)
            if shard not in self._initialized_dbs:
                self._initdb(engine)
                self._initialized_dbs.add(shard)
            with engine.connect() as connection, connection.begin():
                yield connection

    def _engine(self, shard: str) -> Engine:
        if shard not in self._kept:
            # The lock lets one thread at a time to a connection, whichever opened it.
            arguments = {"timeout": SQLITE_BUSY_TIMEOUT_SECONDS, "check_same_thread": False}
            self._kept[shard] = create_engine(self.conn_string_for_shard(shard), connect_args=arguments)
        self._kept.move_to_end(shard)
        while len(self._kept) > _MOST_KEPT:
            _, oldest = self._kept.popitem(last=False)
            oldest.dispose()
        return self._kept[shard]

    def dispose(self) -> None:
        """Close all connections."""
        with self._db_lock:
            while self._kept:
                _, engine = self._kept.popitem()
                engine.dispose()
        super().dispose()
