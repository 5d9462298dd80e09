"""Dagster's SQLite run storage with the lock timeout of its event log, named in ``dagster.yaml``.

Dagster's own fails after the five seconds of Python's ``sqlite3``, so commands would fail while others write.
"""

from pathlib import Path
from typing import Any

from mist_dagster.dagster_private import SQLITE_BUSY_TIMEOUT_SECONDS, ConfigurableClassData, SqliteRunStorage
from mist_dagster.instance.home import dagster_home


class WaitingSqliteRunStorage(SqliteRunStorage):
    """The runs in ``history/runs.db`` of this home."""

    def __init__(self, conn_string: str, inst_data: ConfigurableClassData | None = None) -> None:
        super().__init__(f"{conn_string}?timeout={SQLITE_BUSY_TIMEOUT_SECONDS}", inst_data)

    @classmethod
    def config_type(cls) -> dict[str, Any]:
        """Return no settings."""
        return {}

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData | None, config_value: Any) -> "WaitingSqliteRunStorage":
        """Open the runs in Dagster's default location."""
        return cls.from_local(str(Path(dagster_home()) / "history"), inst_data)
