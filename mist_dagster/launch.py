"""Runs of jobs from a command: in this process, on the home's instance, so that the UI shows them like its own."""

import contextlib
import getpass
import json
import re
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any, NoReturn, Protocol, cast

import dagster as dg

from mist_dagster.dagster_private import (
    ASSET_PARTITION_RANGE_END_TAG,
    ASSET_PARTITION_RANGE_START_TAG,
    PARTITION_NAME_TAG,
    InMemoryJob,
    RegisteredCodeLocationOrigin,
    RemoteJobOrigin,
    RemoteRepositoryOrigin,
    SerializableErrorInfo,
    StepFailureData,
    execute_run,
)
from mist_dagster.instance import home
from mist_dagster.instance.home import CODE_LOCATION
from mist_dagster.runtime.progress import Progress
from mist_dagster.stages import STAGES, job_name, owner
from mist_ops.errors import UNDERSTOOD, ConfigError, MistError, explained
from mist_ops.files import stamp
from mist_ops.study import Study

RELOAD = f'mutation {{ reloadRepositoryLocation(repositoryLocationName: "{CODE_LOCATION}") {{ __typename }} }}'

LAUNCH = """
mutation ($parameters: ExecutionParams!) {
  launchRun(executionParams: $parameters) {
    __typename
    ... on LaunchRunSuccess { run { runId } }
    ... on PythonError { message }
    ... on RunConfigValidationInvalid { errors { message } }
    ... on UnauthorizedError { message }
  }
}
"""


_SECONDS_TO_ANSWER = 300
"""To load all studies again takes long on a busy machine, and a run that is submitted twice would be worse."""

TERMINATE = "mutation ($run: String!) { terminateRun(runId: $run) { __typename } }"

_ERRNO = re.compile(r"\[Errno (?P<number>\d+)\] [^:]*(: '(?P<file>[^']+)')?")
"""An error of the operating system as its record reads."""


class RunFailedError(MistError):
    """A run failed.

    Attributes:
        details: Traceback, for ``--debug``.
    """

    def __init__(self, message: str, details: str, *, code: str) -> None:
        super().__init__(message, code=code)
        self.details = details


class PatientsFailedError(RunFailedError):
    """Some patients of a run failed; the others are done."""


class RunCanceledError(Exception):
    """Ctrl-C or SIGTERM ended a run."""


class Build(Protocol):
    """What builds the definitions of some studies and tools."""

    def __call__(
        self, studies: Sequence[Study], progress: Progress | None = None, tools: Sequence[str] = ()
    ) -> dg.Definitions:
        """Build them; their runs report to ``progress``."""
        ...


@dataclass(frozen=True)
class Launcher:
    """Runs jobs in this process and reports their progress.

    Attributes:
        instance: Where runs are recorded.
        progress: What runs report to.
        build: Builds the definitions that hold the jobs.
        started: Called with each run before it starts.
        together: Whether the partitions of a stage may be worked on side by side.
    """

    instance: dg.DagsterInstance
    progress: Progress
    build: Build
    started: Callable[[dg.DagsterRun], None] = lambda _: None
    together: bool = False
    _built: dict[str, object] = field(default_factory=dict)

    def definitions(self, study: Study) -> dg.Definitions:
        """The definitions of a study as its files are now; a stage may have changed the patients and folds."""
        whole = [study.original, study] if study.original else [study]  # a replica depends on assets of the original
        files = (*(part.config for part in whole), study.train_paths, study.test_paths)
        now = (study, *(tuple(stamp(path)) if path.is_file() else None for path in files))
        # Before an analysis the patients are folders, which have no stamp.
        if self._built.get("of") != now or not study.train_paths.is_file():
            self._built.update(of=now, definitions=self.build(whole, self.progress))
        return cast(dg.Definitions, self._built["definitions"])

    def run_stage(
        self, study: Study, stage: str, config: Mapping[str, Any] | None = None, partitions: Sequence[str] | None = None
    ) -> None:
        """Run a stage of a study, once for each contiguous range of the partitions.

        Args:
            study: The study.
            stage: A stage of the table, or ``status``.
            config: Run config of the stage.
            partitions: Patients or folds; None for a stage without partitions.

        Raises:
            PatientsFailedError: Some patients failed; all others are done.
            RunFailedError: A run failed; the following ones were not started.
            RunCanceledError: A run was interrupted.
        """
        study = owner(study, stage)
        job = self.definitions(study).resolve_job_def(job_name(study, stage))
        run_config = {"ops": {_operation(study, stage): {"config": dict(config)}}} if config else {}
        known = job.partitions_def.get_partition_keys() if job.partitions_def else []
        with others_first() as waiting:
            for tags in _partition_tags(known, partitions):
                with waiting():
                    self._run(job, run_config, {**tags, "mist/study": study.key, "mist/stage": stage})

    def run_tool(self, tool: str, output: Path, config: Mapping[str, Any]) -> None:
        """Run a tool, an asset outside of all studies, on the partition of its output; errors as above."""
        partition = str(output.expanduser().resolve())
        job = self.build([], self.progress, tools=[tool]).resolve_job_def(tool)
        self.instance.add_dynamic_partitions("tool_outputs", [partition])
        self._run(job, {"ops": {f"tools__{tool}": {"config": dict(config)}}}, {PARTITION_NAME_TAG: partition})

    def _run(self, job: dg.JobDefinition, run_config: Mapping[str, Any], tags: Mapping[str, str]) -> None:
        repository = RemoteRepositoryOrigin(RegisteredCodeLocationOrigin(CODE_LOCATION), "__repository__")
        run = self.instance.create_run_for_job(
            job,
            # The log of the run has everything; the terminal shows progress and what went wrong instead.
            run_config={**run_config, "loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
            tags={**tags, "user": getpass.getuser()},
            # Without an origin, re-executing the run from the UI ends in an error.
            remote_job_origin=RemoteJobOrigin(repository, job.name),
        )
        self.started(run)
        result = execute_run(InMemoryJob(job), run, self.instance, raise_on_error=False)
        if result.success:
            return
        raise_failure([event.step_failure_data for event in result.all_events if event.is_step_failure])


def raise_failure(failures: Sequence[StepFailureData]) -> NoReturn:
    """Raise what the failed steps of a run amount to.

    Raises:
        PatientsFailedError: Some patients failed.
        RunFailedError: The run failed.
        RunCanceledError: It was interrupted.
    """
    if not failures or any(failure.error and _caused_by_interrupt(failure.error) for failure in failures):
        raise RunCanceledError
    failure = failures[0]
    summary = failure.user_failure_data.description if failure.user_failure_data else None
    error = failure.error or SerializableErrorInfo("unknown", [], None)
    if summary:
        raise PatientsFailedError(summary, error.to_string(), code="patients-failed")
    message, code = _message(error)
    raise RunFailedError(message, error.to_string(), code=code)


@contextlib.contextmanager
def others_first() -> Iterator[Callable[[], contextlib.AbstractContextManager[None]]]:
    """Continue although patients fail: yield a context manager that holds back a ``PatientsFailedError``.

    The first error held back is raised at the end.
    """
    failed: list[PatientsFailedError] = []

    @contextlib.contextmanager
    def waiting() -> Iterator[None]:
        try:
            yield
        except PatientsFailedError as error:
            failed.append(error)

    yield waiting
    if failed:
        raise failed[0]


@contextlib.contextmanager
def launcher(progress: Progress, build: Build) -> Iterator[Launcher]:
    """Open the home's instance for a command."""
    with home.instance() as instance:
        yield Launcher(instance, progress, build)


def _operation(study: Study, stage: str) -> str:
    """The operation that takes the run config of a stage."""
    return f"{study.key}__{STAGES[stage].operation}"


def _partition_tags(known: Sequence[str], wanted: Sequence[str] | None) -> Iterator[dict[str, str]]:
    if wanted is None:
        yield {}
        return
    order = {name: position for position, name in enumerate(known)}
    positions = sorted(order[name] for name in wanted)
    for _, members in groupby(enumerate(positions), key=lambda pair: pair[1] - pair[0]):
        unbroken = [known[position] for _, position in members]
        if len(unbroken) == 1:
            yield {PARTITION_NAME_TAG: unbroken[0]}
        else:
            yield {ASSET_PARTITION_RANGE_START_TAG: unbroken[0], ASSET_PARTITION_RANGE_END_TAG: unbroken[-1]}


def _chain(error: SerializableErrorInfo | None) -> Iterator[SerializableErrorInfo]:
    while error:
        yield error
        error = error.cause


def _caused_by_interrupt(error: SerializableErrorInfo) -> bool:
    return any(link.cls_name in ("DagsterExecutionInterruptedError", "KeyboardInterrupt") for link in _chain(error))


def _message(error: SerializableErrorInfo) -> tuple[str, str]:
    """The message and the code of an error for a user: ours, or the root cause of an unexpected one."""
    ours = {kind.__name__ for kind in _kinds(MistError)}
    for link in _chain(error):
        if link.cls_name in ours:
            return _divided(link.message.partition(": ")[2].strip())
    for link in _chain(error):
        found = _ERRNO.search(link.message)
        if found and int(found["number"]) in UNDERSTOOD:
            return _divided(explained(OSError(int(found["number"]), "", found["file"])))
    *_, root = _chain(error)
    return f"Unexpected {root.message.strip()} Run again with --debug for the traceback.", "unexpected"


def _divided(text: str) -> tuple[str, str]:
    message, _, code = text.removesuffix("]").rpartition(" [")
    return (message, code) if text.endswith("]") else (text, "unexpected")


def _kinds(kind: type[Exception]) -> Iterator[type[Exception]]:
    yield kind
    for child in kind.__subclasses__():
        yield from _kinds(child)


def submit(
    study: Study,
    stage: str,
    config: Mapping[str, Any],
    partitions: Sequence[str] | None,
    tags: Mapping[str, str],
    *,
    known: Sequence[str] | None = None,
) -> Iterator[str]:
    """Hand runs to the queue of this home's running instance; yield the addresses of their pages.

    Args:
        study: The study.
        stage: A stage of the table, or ``make_current``.
        config: Run config of the stage.
        partitions: Patients or folds; None for a stage without partitions.
        tags: Further tags of the runs.
        known: All partitions of the stage in their order, for a run for each unbroken range instead of each partition.

    Raises:
        ConfigError: No ``mist_ui`` runs in this home, or it does not take a run.
    """
    address = home.web_server()
    selector = {"repositoryLocationName": CODE_LOCATION, "repositoryName": "__repository__"}
    own = {**tags, "mist/study": study.key, "mist/stage": stage, "user": getpass.getuser()}
    name = _operation(study, stage) if stage in STAGES else f"{study.key}__rebuild_stale"
    parameters = {
        "selector": {**selector, "jobName": job_name(study, stage)},
        "runConfigData": {"ops": {name: {"config": dict(config)}}} if config else {},
    }
    try:
        if not address:
            raise FileNotFoundError
        _ask(address, RELOAD)  # it may not know the study yet, or not its folds
        alone = [{PARTITION_NAME_TAG: partition} for partition in partitions or ()]
        for chosen in alone if partitions is not None and known is None else _partition_tags(known or (), partitions):
            given = [{"key": key, "value": value} for key, value in {**own, **chosen}.items()]
            launch = {"parameters": {**parameters, "executionMetadata": {"tags": given}}}
            answer = _ask(address, LAUNCH, launch)["launchRun"]
            if "run" not in answer:
                raise ConfigError(f"The queue refused the run: {json.dumps(answer)}", code="run-refused", found=answer)
            yield f"{address}/runs/{answer['run']['runId']}"
    except TimeoutError as error:
        raise ConfigError(
            f"mist_ui at {address} does not answer within {_SECONDS_TO_ANSWER} s; this machine may be busy. Look there "
            "for what was submitted before you submit again.",
            code="ui-not-answering",
            found=address,
        ) from error
    except OSError as error:
        raise ConfigError(
            f"mist_ui does not run in {home.dagster_home()} on this machine, so there is no queue. Start it, or omit "
            "--submit.",
            code="ui-not-running",
            file=home.dagster_home(),
        ) from error


def terminate(run_id: str) -> None:
    """Ask this home's running instance to terminate a run."""
    address = home.web_server()
    if address:
        _ask(address, TERMINATE, {"run": run_id})


def _ask(address: str, query: str, variables: Mapping[str, Any] | None = None) -> Any:
    request = urllib.request.Request(
        f"{address}/graphql",
        data=json.dumps({"query": query, "variables": variables or {}}).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=_SECONDS_TO_ANSWER) as answer:
        return json.load(answer)["data"]
