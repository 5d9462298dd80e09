"""Dagster's SQLite storage of runs that waits for a lock as long as its event log does, named in ``dagster.yaml``.

By itself it gives up after five seconds, as Python's ``sqlite3`` does, and a command ends for others that write.
"""

from pathlib import Path
from typing import Any

from mist_dagster.dagster_private import SQLITE_BUSY_TIMEOUT_SECONDS, ConfigurableClassData, SqliteRunStorage
from mist_dagster.instance.home import dagster_home


class PatientSqliteRunStorage(SqliteRunStorage):
    """The runs in ``history/runs.db`` of this home."""

    def __init__(self, conn_string: str, inst_data: ConfigurableClassData | None = None) -> None:
        super().__init__(f"{conn_string}?timeout={SQLITE_BUSY_TIMEOUT_SECONDS}", inst_data)

    @classmethod
    def config_type(cls) -> dict[str, Any]:
        """It has no settings."""
        return {}

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData | None, config_value: Any) -> "PatientSqliteRunStorage":
        """The runs where Dagster would have them by itself."""
        return cls.from_local(str(Path(dagster_home()) / "history"), inst_data)
