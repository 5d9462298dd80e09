"""Static partitions per patient and per fold, read when the definitions are built.

Only static partitions can be mapped from folds to patients in runs, in the UI and in staleness alike. In return, the
code location must be reloaded after an analysis that changed the patients, as ``mist_ui`` does by itself.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import dagster as dg

from mist_ops.analysis.folds import assign_folds, default_nfolds
from mist_ops.config import read_config
from mist_ops.dataset import (
    find_test_cases,
    find_training_cases,
    read_description,
    read_paths,
    read_patient_table,
    read_train_paths,
)
from mist_ops.errors import MistError
from mist_ops.study import Study

DEFAULT_FOLDS = 5
"""Folds of a study whose patients are unknown."""


@dataclass(frozen=True)
class StudyPartitions:
    """The partitions of a study.

    Attributes:
        patients: Training patients, in the order of train_paths.csv: the held-out patients of a fold are a range.
        folds: ``fold_0``, ``fold_1``, ...
        test_patients: Patients of the test set; may be empty.
        held_out: The patients that each fold predicts.
    """

    patients: dg.StaticPartitionsDefinition
    folds: dg.StaticPartitionsDefinition
    test_patients: dg.StaticPartitionsDefinition
    held_out: Mapping[str, list[str]]

    @property
    def patient_of_fold(self) -> dg.StaticPartitionMapping:
        """From the model of a fold to the patients that it predicts."""
        return dg.StaticPartitionMapping({fold: set(patients) for fold, patients in self.held_out.items()})


def fold_key(index: int) -> str:
    """The partition of a fold."""
    return f"fold_{index}"


def fold_index(key: str) -> int:
    """The fold of a partition."""
    return int(key.removeprefix("fold_"))


def study_partitions(study: Study) -> StudyPartitions:
    """Read a study's patients and folds as the analysis assigned them, or before it as it will assign them."""
    fold_of, test_patients = _assignment(study)
    indices = sorted(set(fold_of.values())) or list(range(DEFAULT_FOLDS))
    held_out = {fold_key(index): [case for case, fold in fold_of.items() if fold == index] for index in indices}
    return StudyPartitions(
        patients=dg.StaticPartitionsDefinition(list(fold_of)),
        folds=dg.StaticPartitionsDefinition(list(held_out)),
        test_patients=dg.StaticPartitionsDefinition(test_patients),
        held_out=held_out,
    )


def _assignment(study: Study) -> tuple[dict[str, int], list[str]]:
    try:
        if study.train_paths.exists():
            assigned = read_train_paths(study.train_paths)
            fold_of = {case.id: assigned.fold_of[case.id] for case in assigned.cases}
            channels = read_config(study.config).dataset_info.images
            tests = read_paths(study.test_paths, channels) if study.test_paths.exists() else []
        elif study.data:
            described = read_description(study.data)
            ids = [case.id for case in find_training_cases(described)]
            known = read_patient_table(described)
            fold_of = assign_folds(ids, min(default_nfolds(ids, known), len(ids)), known)
            tests = find_test_cases(described)
        else:
            return {}, []
    except MistError as error:
        # A broken study must not take the definitions of the others down; its own commands report the error.
        dg.get_dagster_logger().info("Study '%s' has no patients to show: %s", study.name, error)
        return {}, []
    return fold_of, [case.id for case in tests]
