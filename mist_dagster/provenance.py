"""Provenance of recorded assets: data versions, inputs and their hashes."""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, TypeVar, cast

import dagster as dg

from mist_dagster.dagster_private import (
    CODE_VERSION_TAG,
    DATA_VERSION_IS_USER_PROVIDED_TAG,
    DATA_VERSION_TAG,
    extract_data_version_from_entry,
    get_input_data_version_tag,
    get_input_event_pointer_tag,
    passed_on,
)
from mist_dagster.metadata import Metadata
from mist_dagster.runtime.progress import Progress
from mist_ops import workers
from mist_ops.dataset import Case
from mist_ops.errors import counted, few
from mist_ops.files import file_hashes, json_hash
from mist_ops.study import Study
from mist_ops.workers import IdentifiedT, Outcome

Result = TypeVar("Result")

CODE_VERSION = "1"
"""Version of the assets that are in no row of the table of stages."""


SHARED = frozenset(
    {"dataset", "raw_case", "test_case", "study_config", "fold_assignment", "data_dump", "preprocessed_case"}
)
"""Assets that the replicas of a study share with it, besides the settings of all stages but the training."""


def is_shared(name: str) -> bool:
    """Whether the replicas of a study share an asset with it."""
    return name in SHARED or (name.endswith("_settings") and name != "training_settings")


def asset_key(study: Study, name: str) -> dg.AssetKey:
    """Return the key of a study's asset; for a replica, that of the original for an asset that they share."""
    return dg.AssetKey([(study.original or study).key if is_shared(name) else study.key, name])


Inputs: TypeAlias = Mapping[str, Mapping[str, str]]
"""SHA-256 of input files, by their role and path."""

MAX_LISTED = 50
"""Most inputs of one role that are listed one by one; of more, their number and a hash of all."""


def hashed(**files: Iterable[Path]) -> Inputs:
    """Hash inputs by their role; missing files are skipped, as the work on them fails by itself."""
    return file_hashes(files)


def listed(inputs: Inputs) -> dg.MetadataValue:
    """Return inputs as metadata of limited size."""
    return dg.MetadataValue.json(
        {
            role: dict(files)
            if len(files) <= MAX_LISTED
            else {"files": len(files), "sha256 of all": json_hash(dict(files))}
            for role, files in inputs.items()
        }
    )


def input_tags(context: dg.AssetExecutionContext) -> dict[str, str]:
    """Return the provenance tags of events that an asset logs itself; Dagster adds them only to its own events."""
    version = context.assets_def.code_versions_by_key[context.asset_key] or ""
    return provenance_tags(context.instance, version, context.assets_def.asset_deps[context.asset_key])


def provenance_tags(instance: dg.DagsterInstance, code: str, upstream: Iterable[dg.AssetKey]) -> dict[str, str]:
    """Return tags with the version of the code and the latest recorded versions of the inputs."""
    tags = {CODE_VERSION_TAG: code}
    for key in upstream:
        tags |= upstream_tags(instance, key)
    return tags


def upstream_tags(instance: dg.DagsterInstance, key: dg.AssetKey) -> dict[str, str]:
    """Return tags with the latest recorded version of an input."""
    record = instance.get_latest_data_version_record(key)
    version = extract_data_version_from_entry(record.event_log_entry) if record else None
    return {
        get_input_data_version_tag(key): version.value if version else "INITIAL",
        get_input_event_pointer_tag(key): str(record.storage_id) if record else "NULL",
    }


def version_tags(version: str) -> dict[str, str]:
    """Return tags that set the data version of an event."""
    return {DATA_VERSION_TAG: version, DATA_VERSION_IS_USER_PROVIDED_TAG: "true"}


def observed_versions(instance: dg.DagsterInstance, key: dg.AssetKey) -> dict[str, str]:
    """Return the data version of the latest observation of each partition."""
    observed = instance.event_log_storage.get_latest_tags_by_partition(
        key, dg.DagsterEventType.ASSET_OBSERVATION, [DATA_VERSION_TAG]
    )
    return {partition: tags[DATA_VERSION_TAG] for partition, tags in observed.items()}


def recorded_version(tags: Mapping[str, str] | None) -> str:
    """Return the data version in the tags of an event, or an empty string."""
    return (tags or {}).get(DATA_VERSION_TAG, "")


def latest_tags(instance: dg.DagsterInstance, key: dg.AssetKey) -> dict[str, str]:
    """Return the tags of the latest materialization of an asset."""
    event = instance.get_latest_materialization_event(key)
    return dict(event.asset_materialization.tags or {}) if event and event.asset_materialization else {}


@dataclass(frozen=True)
class Materialized:
    """Data version and metadata of a materialization."""

    version: str
    metadata: Metadata


RANGE_IN_ONE_RUN: Mapping[str, Any] = {"backfill_policy": dg.BackfillPolicy.single_run(), "dagster_type": dg.Nothing}
"""Arguments of the decorator of assets that use ``materialize_each``."""


def materialize_each(
    context: dg.AssetExecutionContext,
    outcomes: Iterable[Outcome[Case, Result]],
    progress: Progress,
    record: Callable[[Case, Result], Materialized],
) -> Iterator[dg.Output[None]]:
    """Log a materialization for each patient as soon as it is done; fail at the end if any failed.

    One run processes a range of patients, with an event for each, and what is done stays recorded when others fail. If
    none fails, the output lets steps downstream in the same run start.
    """
    from mist_dagster.instance.event_log import gathering  # loads SQLAlchemy

    tags = input_tags(context)
    failures: dict[str, str] = {}
    done = 0
    with gathering(context.instance):
        for outcome in outcomes:
            case = outcome.item
            try:
                if outcome.error is not None:
                    raise outcome.error
                made = record(case, cast(Result, outcome.result))
            except Exception as error:  # neither a case nor its picture may stop the others
                failures[case.id] = str(workers.failure(case.id, error))
                progress.problem(failures[case.id])
                continue
            context.log_event(
                dg.AssetMaterialization(
                    context.asset_key,
                    partition=case.id,
                    metadata=made.metadata,
                    tags={**tags, **version_tags(made.version)},
                )
            )
            done += 1
    if failures:
        raise dg.Failure(
            f"{len(failures)} of {counted(len(failures) + done, 'patient')} failed: {few(list(failures))}.",
            metadata={"failed": dg.MetadataValue.json(failures)},
            allow_retries=False,
        )
    yield passed_on()


def collect(
    outcomes: Iterable[Outcome[IdentifiedT, Result]], progress: Progress
) -> tuple[dict[str, Result], dict[str, str]]:
    """Return the results and the messages of failures by id; failures are reported as they come."""
    results, failures = workers.collect(outcomes, lambda error: progress.problem(str(error)))
    return results, {item_id: str(error) for item_id, error in failures.items()}


@contextlib.contextmanager
def interruptible(context: dg.AssetExecutionContext) -> Iterator[None]:
    """Mark a run that Ctrl-C or SIGTERM ends as canceled; Dagster would mark it as failed."""
    try:
        yield
    except dg.DagsterExecutionInterruptedError:
        run = context.instance.get_run_by_id(context.run.run_id)
        if run and not run.is_finished:  # it was marked as failed if its process seemed lost
            context.instance.report_run_canceling(run)
        raise
