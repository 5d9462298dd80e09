"""What a study is made from: its dataset.json and the files of its patients. Observed, never written."""

import warnings
from collections.abc import Sequence
from pathlib import Path

import dagster as dg

from mist_dagster.partitions import StudyPartitions
from mist_dagster.provenance import asset_key
from mist_ops.dataset import Case, find_test_cases, find_training_cases, read_description
from mist_ops.errors import ConfigError
from mist_ops.files import file_hash, json_hash
from mist_ops.study import Study

# Observation of partitions is a beta feature that behaves (measured on 1.13); its warning says nothing to a user.
warnings.filterwarnings("ignore", category=dg.BetaWarning)


def dataset_assets(study: Study, partitions: StudyPartitions) -> list[dg.AssetsDefinition | dg.SourceAsset]:
    """dataset.json, the training patients and the test patients, each with the hash of its content."""

    @dg.observable_source_asset(key=asset_key(study, "dataset"), group_name=study.name)
    def dataset() -> dg.DataVersion:
        """The study's dataset.json: channels, labels, classes and folders."""
        return dg.DataVersion(file_hash(_data(study)))

    @dg.observable_source_asset(
        key=asset_key(study, "raw_case"), group_name=study.name, partitions_def=partitions.patients
    )
    def raw_case() -> dg.DataVersionsByPartition:
        """The images and the mask of a training patient, as they came."""
        return _versions(find_training_cases(read_description(_data(study))), partitions.patients)

    @dg.observable_source_asset(
        key=asset_key(study, "test_case"), group_name=study.name, partitions_def=partitions.test_patients
    )
    def test_case() -> dg.DataVersionsByPartition:
        """The images of a test patient, as they came."""
        return _versions(find_test_cases(read_description(_data(study))), partitions.test_patients)

    return [dataset, raw_case, test_case]


def _data(study: Study) -> Path:
    if study.data is None:
        raise ConfigError(f"The dataset.json of '{study.name}' is not known. Run mist_analyze --data dataset.json.")
    return study.data


def _versions(cases: Sequence[Case], partitions: dg.PartitionsDefinition) -> dg.DataVersionsByPartition:
    known = set(partitions.get_partition_keys())
    return dg.DataVersionsByPartition(
        {case.id: json_hash([file_hash(path) for path in case.files]) for case in cases if case.id in known}
    )
