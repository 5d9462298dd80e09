"""The run storage of several machines, named in ``deploy/celery/dagster.yaml``: Dagster's PostgreSQL with tags on runs.

It comes with mist-dagster[celery].
"""

from collections.abc import Mapping
from typing import Any

from dagster import DagsterRun, StringSource
from dagster_postgres import PostgresRunStorage

from mist_dagster.dagster_private import ConfigurableClassData
from mist_dagster.run_storage import tagged


class TaggedPostgresRunStorage(PostgresRunStorage):  # type: ignore[misc]
    """The runs of a home in PostgreSQL."""

    @classmethod
    def config_type(cls) -> dict[str, Any]:
        """Return the one setting."""
        return {"postgres_url": StringSource}

    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]
    ) -> "TaggedPostgresRunStorage":
        """Open the runs in a database."""
        return cls(config_value["postgres_url"], inst_data=inst_data)

    def add_run(self, dagster_run: DagsterRun) -> DagsterRun:
        """Store a new run, with the tags that it lacks."""
        stored: DagsterRun = super().add_run(tagged(dagster_run))
        return stored
