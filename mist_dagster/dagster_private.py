"""Private names of Dagster, imported only here.

Dagster promises stability for ``dagster`` only: everything below may move in any release.
``tests/dagster/test_dagster_private.py`` tests each name, so that an upgrade fails there first.

What is imported at the top, ``import dagster`` loads anyway. The names of ``_LAZY`` are imported at their first use, as
they load SQLAlchemy.
"""

import contextlib
import sys
from collections.abc import Callable, Iterator
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
from dagster._core.definitions.asset_checks.asset_check_evaluation import AssetCheckEvaluationTargetMaterializationData
from dagster._core.definitions.data_version import (
    CODE_VERSION_TAG,
    DATA_VERSION_IS_USER_PROVIDED_TAG,
    DATA_VERSION_TAG,
    extract_data_version_from_entry,
    get_input_data_version_tag,
    get_input_event_pointer_tag,
)
from dagster._core.definitions.job_base import InMemoryJob
from dagster._core.definitions.source_asset import SYSTEM_METADATA_KEY_SOURCE_ASSET_OBSERVATION
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition
from dagster._core.execution.api import execute_run
from dagster._core.execution.plan.objects import StepFailureData
from dagster._core.launcher import CheckRunHealthResult, LaunchRunContext, WorkerStatus
from dagster._core.remote_origin import RegisteredCodeLocationOrigin, RemoteJobOrigin, RemoteRepositoryOrigin
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecordStatus, AssetCheckPartitionInfo
from dagster._core.storage.tags import (
    ASSET_PARTITION_RANGE_END_TAG,
    ASSET_PARTITION_RANGE_START_TAG,
    KIND_PREFIX,
    MAX_RETRIES_TAG,
    MAX_RUNTIME_SECONDS_TAG,
    PARTITION_NAME_TAG,
)
from dagster._serdes import ConfigurableClassData
from dagster_shared.error import SerializableErrorInfo

if TYPE_CHECKING:
    from alembic.script import ScriptDirectory
    from dagster import DagsterInstance, DagsterRun
    from dagster._core.execution.context.system import PlanOrchestrationContext
    from dagster._core.execution.plan.plan import ExecutionPlan
    from dagster._core.execution.retries import RetryMode
    from dagster._core.execution.step_dependency_config import StepDependencyConfig
    from dagster._core.storage.event_log.schema import SqlEventLogStorageMetadata, SqlEventLogStorageTable
    from dagster._core.storage.event_log.sqlite.sqlite_event_log import SqliteEventLogStorage
    from dagster._core.storage.noop_compute_log_manager import NoOpComputeLogManager
    from dagster._core.storage.runs import SqliteRunStorage
    from dagster._core.storage.schedules import SqliteScheduleStorage
    from dagster._core.storage.sqlite import SQLITE_BUSY_TIMEOUT_SECONDS, create_db_conn_string
    from starlette.types import ASGIApp

__all__ = [
    "ASSET_PARTITION_RANGE_END_TAG",
    "ASSET_PARTITION_RANGE_START_TAG",
    "CODE_VERSION_TAG",
    "DATA_VERSION_IS_USER_PROVIDED_TAG",
    "DATA_VERSION_TAG",
    "KIND_PREFIX",
    "MAX_RETRIES_TAG",
    "MAX_RUNTIME_SECONDS_TAG",
    "PARTITION_NAME_TAG",
    "SQLITE_BUSY_TIMEOUT_SECONDS",
    "AssetCheckEvaluationTargetMaterializationData",
    "AssetCheckExecutionRecordStatus",
    "AssetCheckPartitionInfo",
    "CheckRunHealthResult",
    "ConfigurableClassData",
    "ExecutionPlan",
    "InMemoryJob",
    "LaunchRunContext",
    "NoOpComputeLogManager",
    "PlanOrchestrationContext",
    "RegisteredCodeLocationOrigin",
    "RemoteJobOrigin",
    "RemoteRepositoryOrigin",
    "RetryMode",
    "SerializableErrorInfo",
    "SqlEventLogStorageMetadata",
    "SqlEventLogStorageTable",
    "SqliteEventLogStorage",
    "SqliteRunStorage",
    "SqliteScheduleStorage",
    "StepDependencyConfig",
    "StepFailureData",
    "UnresolvedAssetJobDefinition",
    "WorkerStatus",
    "create_db_conn_string",
    "daemon_command",
    "execute_run",
    "extract_data_version_from_entry",
    "follow_command",
    "get_input_data_version_tag",
    "get_input_event_pointer_tag",
    "link_run",
    "migrations",
    "passed_on",
    "run_of_step",
    "web_application",
]

_LAZY = {
    "ExecutionPlan": "dagster._core.execution.plan.plan",
    "PlanOrchestrationContext": "dagster._core.execution.context.system",
    "RetryMode": "dagster._core.execution.retries",
    "StepDependencyConfig": "dagster._core.execution.step_dependency_config",
    "SQLITE_BUSY_TIMEOUT_SECONDS": "dagster._core.storage.sqlite",
    "SqlEventLogStorageMetadata": "dagster._core.storage.event_log.schema",
    "SqlEventLogStorageTable": "dagster._core.storage.event_log.schema",
    "SqliteEventLogStorage": "dagster._core.storage.event_log.sqlite.sqlite_event_log",
    "SqliteRunStorage": "dagster._core.storage.runs",
    "SqliteScheduleStorage": "dagster._core.storage.schedules",
    "create_db_conn_string": "dagster._core.storage.sqlite",
    "NoOpComputeLogManager": "dagster._core.storage.noop_compute_log_manager",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)


def passed_on() -> dg.Output[None]:
    """Return the output of a step that logged the events of its asset itself.

    Steps downstream in the same run are skipped without an output, and an ordinary one would be logged as another
    materialization of every partition. Dagster marks the outputs of its own source assets in this way.
    """
    return dg.Output(None, metadata={SYSTEM_METADATA_KEY_SOURCE_ASSET_OBSERVATION: True})


def link_run(run: "DagsterRun", message: str, instance: "DagsterInstance", linked: "DagsterRun") -> None:
    """Log a link to another run."""
    from dagster._core.events import EngineEventData

    data = EngineEventData(metadata={"run": dg.MetadataValue.dagster_run(linked.run_id)})
    instance.report_engine_event(message, run, data)


def run_of_step(packed: Any) -> str:
    """Return the id of the run of a step, from the arguments that Celery hands to a worker."""
    from dagster._grpc.types import ExecuteStepArgs
    from dagster_shared.serdes import unpack_value

    return unpack_value(packed, as_type=ExecuteStepArgs).run_id


def follow_command(instance: "DagsterInstance", run: "DagsterRun", *, resume: bool) -> list[str]:
    """Return the command of a process that executes a run, or that resumes one whose process is gone."""
    from dagster._grpc.types import ExecuteRunArgs, ResumeRunArgs

    assert run.job_code_origin is not None  # as of every run that was queued
    asked = ResumeRunArgs if resume else ExecuteRunArgs
    arguments = asked(job_origin=run.job_code_origin, run_id=run.run_id, instance_ref=instance.get_ref())
    command = list(arguments.get_command_args())
    # The entry point that Dagster gives is "dagster", which need not be in PATH.
    return [sys.executable, "-m", "dagster", *command[command.index("api") :]]


@cache
def migrations() -> "ScriptDirectory":
    """Return the migrations of Dagster's databases; loading them takes 15 ms."""
    from alembic.script import ScriptDirectory
    from dagster._core.storage.event_log.sqlite import sqlite_event_log
    from dagster._core.storage.sql import get_alembic_config

    return ScriptDirectory.from_config(get_alembic_config(sqlite_event_log.__file__))


def daemon_command(workspace: Path) -> list[str]:
    """Return the command of Dagster's daemon; its script ``dagster-daemon`` is not in every environment's PATH."""
    return [sys.executable, "-m", "dagster._daemon", "run", "--workspace", str(workspace)]


@contextlib.contextmanager
def web_application(instance: "DagsterInstance", workspace: Path) -> Iterator[tuple["ASGIApp", Callable[[str], None]]]:
    """Open Dagster's UI and GraphQL API as an ASGI application, with what reloads a code location that it shows.

    Args:
        instance: The instance to show.
        workspace: The workspace file with the code locations.
    """
    from dagster._core.workspace.context import WorkspaceProcessContext
    from dagster._core.workspace.load_target import WorkspaceFileTarget
    from dagster_webserver.app import create_app_from_workspace_process_context
    from dagster_webserver.version import __version__

    # What the command dagster-webserver does: databases with a server get a pool of connections.
    instance.optimize_for_webserver(statement_timeout=15_000, pool_recycle=3600, max_overflow=20)
    target = WorkspaceFileTarget([str(workspace)])
    with WorkspaceProcessContext(instance, target, version=__version__, code_server_log_level="WARNING") as context:
        app = create_app_from_workspace_process_context(context, live_data_poll_rate=2000)
        yield app, context.reload_code_location
