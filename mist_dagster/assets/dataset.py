"""What a study is made from: its dataset.json and the files of its patients. Observed, never written."""

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import dagster as dg

from mist_dagster.dagster_private import DATA_VERSION_TAG, KIND_PREFIX
from mist_dagster.partitions import StudyPartitions
from mist_dagster.provenance import asset_key, observed_versions
from mist_ops.dataset import (
    Case,
    DatasetDescription,
    find_test_cases,
    find_training_cases,
    read_description,
    read_paths,
    read_train_paths,
)
from mist_ops.errors import ConfigError
from mist_ops.files import file_hash, json_hash
from mist_ops.records.arrays import input_hashes
from mist_ops.study import Study

# Observing partitions is a beta feature that works as documented in 1.13; users need not see the warning.
warnings.filterwarnings("ignore", category=dg.BetaWarning)


def build(study: Study, partitions: StudyPartitions) -> list[dg.AssetsDefinition | dg.SourceAsset]:
    """dataset.json, the training patients and the test patients, each with the hash of its content."""

    @_source(study, "dataset", "json", "The study's dataset.json: channels, labels, classes and folders.")
    def dataset() -> dg.DataVersion:
        return dg.DataVersion(file_hash(dataset_json(study)))

    training = "The images and the mask of a training patient: files that are read and never written."

    @_source(study, "raw_case", "nifti", training, partitions.patients)
    def raw_case(context: dg.OpExecutionContext) -> dg.DataVersionsByPartition:
        analyzed = study.train_paths.exists()  # a patient whose files are missing must not stop the others
        found = read_train_paths(study.train_paths).cases if analyzed else find_training_cases(_description(study))
        return _observe(context, study, asset_key(study, "raw_case"), found, partitions.patients)

    test = "The images of a test patient: files that are read and never written."

    @_source(study, "test_case", "nifti", test, partitions.test_patients)
    def test_case(context: dg.OpExecutionContext) -> dg.DataVersionsByPartition:
        description = _description(study)
        analyzed = study.test_paths.exists()
        found = read_paths(study.test_paths, list(description.images)) if analyzed else find_test_cases(description)
        return _observe(context, study, asset_key(study, "test_case"), found, partitions.test_patients)

    return [dataset, raw_case, test_case]


def _source(
    study: Study, name: str, kind: str, description: str, partitions: dg.PartitionsDefinition | None = None
) -> Callable[[Callable[..., Any]], dg.SourceAsset]:
    """The decorator of a source, which takes no docstring as its description and its kind only as a tag."""
    return dg.observable_source_asset(
        key=asset_key(study, name),
        group_name=study.key,
        partitions_def=partitions,
        tags={f"{KIND_PREFIX}{kind}": ""},
        description=description,
    )


def dataset_json(study: Study) -> Path:
    """The dataset.json of a study."""
    if study.data is None:
        raise ConfigError(
            f"The dataset.json of the study '{study.name}' is unknown. Run mist_analyze --data dataset.json.",
            code="dataset-unknown",
            found=study.name,
        )
    return study.data


def _description(study: Study) -> DatasetDescription:
    return read_description(dataset_json(study))


def _observe(
    context: dg.OpExecutionContext,
    study: Study,
    key: dg.AssetKey,
    cases: Sequence[Case],
    partitions: dg.PartitionsDefinition,
) -> dg.DataVersionsByPartition:
    """Observe the new and changed patients, and return none for Dagster, which would store them one by one."""
    from mist_dagster.instance.event_log import gathering  # loads SQLAlchemy

    shown, known = set(partitions.get_partition_keys()), observed_versions(context.instance, key)
    versions = {case.id: json_hash(list(input_hashes(study, case).values())) for case in cases if case.id in shown}
    with gathering(context.instance):
        for case_id, version in versions.items():
            if known.get(case_id) != version:
                tags = {DATA_VERSION_TAG: version}
                context.log_event(dg.AssetObservation(asset_key=key, partition=case_id, tags=tags))
    return dg.DataVersionsByPartition({})
