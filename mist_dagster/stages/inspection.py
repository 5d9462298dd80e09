"""A study's files as they are now, each read once, and what is already known to be stale."""

from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from functools import cache, cached_property
from typing import TypeAlias

from mist_ops.config import StudyConfig, read_config
from mist_ops.dataset import Assignment, Case, read_paths, read_train_paths
from mist_ops.errors import ConfigError
from mist_ops.records.arrays import Change, case_contents
from mist_ops.records.kept import Kept
from mist_ops.records.passport import read_passport
from mist_ops.study import Study

State: TypeAlias = tuple[StudyConfig, Assignment]
"""The settings of a study and its training patients with their folds."""


class Inspection:
    """What the rows of the table compare artifacts with.

    Args:
        study: The study.
        change: Makes the state with which to compare of the present one, to answer "what if".

    Attributes:
        study: The study.
        config: Its config.json.
        assignment: Its training patients and their folds.
        stale: Stale partitions of the stages inspected so far, by stage, with the reason of each.
        contents_of: Hashes by which a patient's arrays may be on record, read once.
        changed: Patients whose arrays are stale, with what changed.
        kept: Stale artifacts that a person declared current.
    """

    def __init__(self, study: Study, change: Callable[[State], State] = lambda state: state) -> None:
        self.study = study
        self.config, self.assignment = change((read_config(study.config), read_train_paths(study.train_paths)))
        self.stale: dict[str, Mapping[str, str]] = {}
        self.contents_of = cache(lambda case_id: case_contents(study, case_id))
        self.changed: Mapping[str, Change] = {}
        self.kept = Kept(study)

    def arrays_changed(self, parts: Collection[str]) -> dict[str, str]:
        """Patients with stale arrays among these, with the reasons."""
        return {case_id: change.reason for case_id, change in self.changed.items() if change.arrays & set(parts)}

    @cached_property
    def test_cases(self) -> list[Case]:
        """The test patients."""
        table = self.study.test_paths
        return read_paths(table, self.config.dataset_info.images) if table.is_file() else []

    @cached_property
    def weights(self) -> Mapping[int, str]:
        """SHA-256 of the weights of each fold whose model is current."""
        known = {}
        for fold in self.config.training.folds:
            if f"fold_{fold}" not in self.stale.get("train", {}):
                with suppress(ConfigError):
                    known[fold] = read_passport(self.study.model(fold)).weights
        return known
