"""Dagster's SQLite storage of sensors and schedules in this home, named in ``dagster.yaml``.

Dagster keeps it in a temporary folder when ``DAGSTER_HOME`` is not set and ``dagster.yaml`` is in the current folder.
"""

from pathlib import Path
from typing import Any

from mist_dagster.dagster_private import ConfigurableClassData, SqliteScheduleStorage
from mist_dagster.instance.home import dagster_home


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
        return cls.from_local(str(Path(dagster_home()) / "schedules"), inst_data)
