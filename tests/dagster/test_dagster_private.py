"""Private names of Dagster: each does what we use it for, and only one module imports them."""

import ast
import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from mist_dagster import dagster_private
from mist_dagster.dagster_private import (
    ConfigurableClassData,
    InMemoryJob,
    NoOpComputeLogManager,
    RegisteredCodeLocationOrigin,
    RemoteJobOrigin,
    RemoteRepositoryOrigin,
    SerializableErrorInfo,
    SqliteEventLogStorage,
    SqliteRunStorage,
    SqliteScheduleStorage,
    UnresolvedAssetJobDefinition,
    daemon_command,
    execute_run,
    extract_data_version_from_entry,
    follow_command,
    get_input_data_version_tag,
    get_input_event_pointer_tag,
    passed_on,
    run_of_step,
    web_application,
)

ROOT = Path(__file__).parents[2]
FOLDERS = ("mist_dagster", "mist_ops", "tests", "bench")
ALLOWED = {
    "mist_dagster/dagster_private.py",
    "tests/dagster/staleness.py",
    "tests/dagster/test_dagster_private.py",
}
PUBLIC = {"dagster", "dagster_celery", "dagster_celery.app", "dagster_postgres"}


def imported(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            private = [alias.name for alias in node.names if alias.name.startswith("_")]
            yield from [f"{node.module}.{name}" for name in private] or [str(node.module)]


def private_names(source: str) -> list[str]:
    """Imports from Dagster's distributions that are not of its public API."""
    modules = [name for name in imported(source) if name.partition(".")[0].partition("_")[0] == "dagster"]
    return [name for name in modules if name not in PUBLIC]


def test_private_names_are_recognized() -> None:
    private = "from dagster._core.events import x\nfrom dagster import _check\nimport dagster_shared.ipc\n"
    assert private_names(private) == ["dagster._core.events", "dagster._check", "dagster_shared.ipc"]
    assert private_names("import dagster as dg\nfrom dagster import op\nfrom dagster_celery.app import app") == []


def test_only_one_module_imports_private_names() -> None:
    files = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")]
    found = {path.relative_to(ROOT).as_posix(): private_names(path.read_text(encoding="utf-8")) for path in files}
    assert {path: names for path, names in found.items() if names and path not in ALLOWED} == {}


def test_importing_them_loads_nothing_that_dagster_does_not_load_itself() -> None:
    code = (
        "import sys, dagster; before = {name.partition('.')[0] for name in sys.modules};"
        "import mist_dagster.dagster_private;"
        "print({name.partition('.')[0] for name in sys.modules} - before)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "{'mist_dagster'}"


def test_every_name_is_there() -> None:
    assert [name for name in dagster_private.__all__ if getattr(dagster_private, name, None) is None] == []
    with pytest.raises(AttributeError, match="no_such_name"):
        dagster_private.__getattr__("no_such_name")


def test_a_link_to_a_run_is_in_the_log(tmp_path: Path) -> None:
    with dg.instance_for_test() as records:
        run, other = (records.run_storage.add_run(dg.DagsterRun(job_name=name)) for name in "ab")
        dagster_private.link_run(run, "Started b.", records, other)
        (entry,) = records.all_logs(run.run_id)
    assert entry.dagster_event is not None
    assert entry.dagster_event.engine_event_data.metadata == {"run": dg.MetadataValue.dagster_run(other.run_id)}


def test_tags_are_those_that_the_ui_and_the_queue_read() -> None:
    names = ("PARTITION_NAME_TAG", "ASSET_PARTITION_RANGE_START_TAG", "ASSET_PARTITION_RANGE_END_TAG")
    values = ["dagster/partition", "dagster/asset_partition_range_start", "dagster/asset_partition_range_end"]
    assert [getattr(dagster_private, name) for name in names] == values


def test_an_event_of_an_asset_tells_its_data_version_and_those_of_its_inputs() -> None:
    upstream, downstream = dg.AssetKey("upstream"), dg.AssetKey("downstream")

    @dg.asset(key=upstream, code_version="3")
    def first() -> dg.MaterializeResult:
        return dg.MaterializeResult(data_version=dg.DataVersion("abc"))

    @dg.asset(key=downstream, deps=[upstream])
    def second() -> None:
        pass

    with dg.DagsterInstance.ephemeral() as instance:
        assert dg.materialize([first, second], instance=instance).success
        record = instance.get_latest_data_version_record(upstream)
        version = extract_data_version_from_entry(record.event_log_entry)
        event = instance.get_latest_materialization_event(downstream)
        made = instance.get_latest_materialization_event(upstream)
    assert version == dg.DataVersion("abc")
    tags = event.asset_materialization.tags
    assert tags[get_input_data_version_tag(upstream)] == "abc"
    assert tags[get_input_event_pointer_tag(upstream)] == str(record.storage_id)
    tags = made.asset_materialization.tags
    assert tags[dagster_private.CODE_VERSION_TAG] == "3"
    assert tags[dagster_private.DATA_VERSION_TAG] == "abc"
    assert tags[dagster_private.DATA_VERSION_IS_USER_PROVIDED_TAG] == "true"


def test_an_asset_that_logs_its_own_events_starts_the_next_step_without_another_event() -> None:
    @dg.asset(dagster_type=dg.Nothing)
    def logged(context: dg.AssetExecutionContext) -> Iterator[dg.Output[None]]:
        context.log_event(dg.AssetMaterialization("logged"))
        yield passed_on()

    @dg.asset(deps=[logged])
    def following() -> None:
        pass

    with dg.DagsterInstance.ephemeral() as instance:
        assert dg.materialize([logged, following], instance=instance).success
        events = [len(instance.fetch_materializations(dg.AssetKey(key), 9).records) for key in ("logged", "following")]
    assert events == [1, 1]


@dg.op
def fails() -> None:
    raise RuntimeError("inner") from OSError("outer")


@dg.job
def failing_job() -> None:
    fails()


def test_a_job_runs_in_this_process_with_the_origin_that_a_re_execution_needs() -> None:
    @dg.job(executor_def=dg.in_process_executor)
    def job() -> None:
        fails()

    origin = RemoteJobOrigin(RemoteRepositoryOrigin(RegisteredCodeLocationOrigin("mist"), "__repository__"), "job")
    with dg.DagsterInstance.ephemeral() as instance:
        run = instance.create_run_for_job(job, tags={"a": "b"}, remote_job_origin=origin)
        result = execute_run(InMemoryJob(job), run, instance, raise_on_error=False)
        recorded = instance.get_run_by_id(run.run_id)
    assert not result.success
    assert recorded.remote_job_origin == origin
    assert recorded.tags["a"] == "b"
    [failure] = [event.step_failure_data for event in result.all_events if event.is_step_failure]
    links = [failure.error, failure.error.cause, failure.error.cause.cause]
    assert all(isinstance(link, SerializableErrorInfo) for link in links)
    assert [link.cls_name for link in links] == ["DagsterExecutionStepExecutionError", "RuntimeError", "OSError"]
    assert "inner" in links[1].message
    assert "Traceback" in failure.error.to_string() or "Stack Trace" in failure.error.to_string()


def test_a_job_of_assets_is_not_resolved_until_it_is_part_of_definitions() -> None:
    assert isinstance(dg.define_asset_job("job"), UnresolvedAssetJobDefinition)


def test_the_storages_have_what_ours_override_and_use(tmp_path: Path) -> None:
    log = SqliteEventLogStorage(str(tmp_path / "runs"))
    assert {"_db_lock", "_initialized_dbs"} <= vars(log).keys()
    assert all(
        callable(getattr(log, name))
        for name in ("_connect", "_initdb", "conn_string_for_shard", "has_table", "dispose")
    )
    assert isinstance(dagster_private.SQLITE_BUSY_TIMEOUT_SECONDS, int | float)
    assert SqliteRunStorage.from_local(str(tmp_path / "history")).get_runs() == []
    assert SqliteScheduleStorage.from_local(str(tmp_path / "schedules")).all_instigator_state() == []
    data = ConfigurableClassData("mist_dagster.dagster_private", "NoOpComputeLogManager", "{}")
    assert isinstance(data.rehydrate(as_type=NoOpComputeLogManager), NoOpComputeLogManager)


def test_the_run_of_a_step_is_read_from_what_celery_hands_to_a_worker() -> None:
    from dagster._core.execution.retries import RetryMode
    from dagster._grpc.types import ExecuteStepArgs
    from dagster_shared.serdes import pack_value

    step = ExecuteStepArgs(
        job_origin=dg.reconstructable(failing_job).get_python_origin(),
        run_id="0123",
        step_keys_to_execute=["fails"],
        instance_ref=None,
        retry_mode=RetryMode.DISABLED,
    )
    assert run_of_step(pack_value(step)) == "0123"


def test_the_daemon_takes_a_workspace_file(tmp_path: Path) -> None:
    command = daemon_command(tmp_path / "workspace.yaml")
    done = subprocess.run([*command[:-2], "--help"], capture_output=True, text=True, check=True)
    assert command[-2] in done.stdout


def test_the_web_application_serves_the_code_locations_of_a_workspace_file(tmp_path: Path) -> None:
    workspace = tmp_path / "workspace.yaml"
    workspace.write_text("load_from: []")
    query = {"query": "{ version workspaceOrError { ... on Workspace { locationEntries { name } } } }"}
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": json.dumps(query).encode(), "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/graphql", "query_string": b"", "root_path": ""}
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance, web_application(instance, workspace) as (app, _):
        asyncio.run(app({**scope, "headers": [(b"content-type", b"application/json")]}, receive, send))
    answer = json.loads(b"".join(message.get("body", b"") for message in sent))
    assert answer["data"] == {"version": dg.__version__, "workspaceOrError": {"locationEntries": []}}


@pytest.mark.parametrize("resume", [False, True])
def test_a_run_is_followed_by_the_python_of_this_environment(tmp_path: Path, resume: bool) -> None:
    """The command ``dagster`` is not in PATH if an environment is used without being activated."""
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        job = dg.reconstructable(failing_job)
        run = instance.create_run_for_job(failing_job, job_code_origin=job.get_python_origin())
        command = follow_command(instance, run, resume=resume)
    assert command[:5] == [sys.executable, "-m", "dagster", "api", "resume_run" if resume else "execute_run"]
    assert run.run_id in command[5]
