"""Private names of Dagster, imported here alone.

Dagster keeps its promises for ``dagster`` only: what follows may move with any release.
``tests/dagster/test_dagster_private.py`` tests each name, so that an upgrade fails there first.

What is imported at the top, ``import dagster`` loads anyway. The names of ``_LAZY`` are imported at their first use, as
they load SQLAlchemy.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from dagster._core.definitions.data_version import (
    CODE_VERSION_TAG,
    DATA_VERSION_IS_USER_PROVIDED_TAG,
    DATA_VERSION_TAG,
    extract_data_version_from_entry,
    get_input_data_version_tag,
    get_input_event_pointer_tag,
)
from dagster._core.definitions.job_base import InMemoryJob
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition
from dagster._core.execution.api import execute_run
from dagster._core.remote_origin import RegisteredCodeLocationOrigin, RemoteJobOrigin, RemoteRepositoryOrigin
from dagster._core.storage.tags import (
    ASSET_PARTITION_RANGE_END_TAG,
    ASSET_PARTITION_RANGE_START_TAG,
    PARTITION_NAME_TAG,
)
from dagster._serdes import ConfigurableClassData
from dagster_shared.error import SerializableErrorInfo

if TYPE_CHECKING:
    from dagster._core.storage.event_log.sqlite.sqlite_event_log import SqliteEventLogStorage
    from dagster._core.storage.noop_compute_log_manager import NoOpComputeLogManager
    from dagster._core.storage.runs import SqliteRunStorage
    from dagster._core.storage.sqlite import SQLITE_BUSY_TIMEOUT_SECONDS

__all__ = [
    "ASSET_PARTITION_RANGE_END_TAG",
    "ASSET_PARTITION_RANGE_START_TAG",
    "CODE_VERSION_TAG",
    "DATA_VERSION_IS_USER_PROVIDED_TAG",
    "DATA_VERSION_TAG",
    "PARTITION_NAME_TAG",
    "SQLITE_BUSY_TIMEOUT_SECONDS",
    "ConfigurableClassData",
    "InMemoryJob",
    "NoOpComputeLogManager",
    "RegisteredCodeLocationOrigin",
    "RemoteJobOrigin",
    "RemoteRepositoryOrigin",
    "SerializableErrorInfo",
    "SqliteEventLogStorage",
    "SqliteRunStorage",
    "UnresolvedAssetJobDefinition",
    "execute_run",
    "extract_data_version_from_entry",
    "get_input_data_version_tag",
    "get_input_event_pointer_tag",
    "run_of_step",
]

_LAZY = {
    "SQLITE_BUSY_TIMEOUT_SECONDS": "dagster._core.storage.sqlite",
    "SqliteEventLogStorage": "dagster._core.storage.event_log.sqlite.sqlite_event_log",
    "SqliteRunStorage": "dagster._core.storage.runs",
    "NoOpComputeLogManager": "dagster._core.storage.noop_compute_log_manager",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)


def run_of_step(packed: Any) -> str:
    """Return the id of the run of a step, from the arguments that Celery hands to a worker."""
    from dagster._grpc.types import ExecuteStepArgs
    from dagster_shared.serdes import unpack_value

    return unpack_value(packed, as_type=ExecuteStepArgs).run_id
