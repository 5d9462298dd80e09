"""Whether a database of Dagster has been created, by the revision with which Alembic stamps it.

Dagster loads 88 migrations to compare the revision with the latest one, and then uses only whether there is one.
"""

from alembic.runtime.migration import MigrationContext
from sqlalchemy import Engine


def is_stamped(engine: Engine) -> bool:
    """Whether a database has a revision."""
    with engine.connect() as connection:
        return MigrationContext.configure(connection).get_current_revision() is not None
