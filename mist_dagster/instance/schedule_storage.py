"""Dagster's SQLite storage of sensors and schedules in this home, named in ``dagster.yaml``.

Dagster keeps it in a temporary folder when ``DAGSTER_HOME`` is not set and ``dagster.yaml`` is in the current folder.
"""

from typing import Any

from sqlalchemy import NullPool, create_engine

from mist_dagster.dagster_private import ConfigurableClassData, SqliteScheduleStorage, create_db_conn_string
from mist_dagster.instance.home import dagster_home
from mist_dagster.instance.stamps import is_stamped


class HomeSqliteScheduleStorage(SqliteScheduleStorage):
    """The sensors and schedules in ``schedules`` of this home."""

    @classmethod
    def config_type(cls) -> dict[str, Any]:
        """Return no settings."""
        return {}

    @classmethod
    def from_config_value(  # type: ignore[override]  # from_local makes one of the base class
        cls, inst_data: ConfigurableClassData | None, config_value: Any
    ) -> SqliteScheduleStorage:
        """Open the storage in Dagster's default location."""
        folder = dagster_home() / "schedules"
        folder.mkdir(parents=True, exist_ok=True)
        database = create_db_conn_string(str(folder), "schedules")
        known = is_stamped(create_engine(database, poolclass=NullPool))
        return cls(database, inst_data) if known else cls.from_local(str(folder), inst_data)
