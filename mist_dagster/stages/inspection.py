"""A study's files as they are now, each read once, and what is already known to be stale."""

from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from functools import cache, cached_property
from typing import TypeAlias

from mist_ops.analysis.changes import GONE, Update, pending_update, read_analyzed
from mist_ops.config import StudyConfig
from mist_ops.dataset import Assignment
from mist_ops.errors import ConfigError
from mist_ops.files import settle
from mist_ops.records.arrays import Change, case_contents
from mist_ops.records.kept import Kept
from mist_ops.records.passport import read_passport
from mist_ops.study import Study

State: TypeAlias = tuple[StudyConfig, Assignment]
"""The settings of a study and its training patients with their folds."""


class Inspection:
    """What the rows of the table compare artifacts with: the study as it is once its analysis is updated.

    Args:
        study: The study.
        change: Makes the state with which to compare of the present one, to answer "what if".
        as_analyzed: Whether to compare with the study as the last analysis left it.

    Attributes:
        study: The study.
        analyzed: What its analysis wrote, and edits.
        config: Its config.json.
        assignment: Its training patients and their folds.
        test_cases: Its test patients.
        dataset_changes: What changed in the dataset since the analysis, as in ``Update``.
        stale: Stale partitions of the stages inspected so far, by stage, with the reason of each.
        contents_of: Hashes by which a patient's arrays may be on record, read once.
        changed: Patients whose arrays are stale, with what changed.
        kept: Stale artifacts that a person declared current.
    """

    def __init__(
        self, study: Study, change: Callable[[State], State] = lambda state: state, *, as_analyzed: bool = False
    ) -> None:
        settle(study.numpy, study.analysis, study.results)
        self.study, self.analyzed = study, read_analyzed(study)
        update = Update(self.analyzed) if as_analyzed else pending_update(study, self.analyzed)
        self.test_cases = update.result.tests
        self.config, self.assignment = change((update.result.config, update.result.assignment))
        removed = [case_id for case_id in update.result.assignment.fold_of if case_id not in self.assignment.fold_of]
        self.dataset_changes: Mapping[str, str] = {**update.reasons, **dict.fromkeys(removed, GONE)}
        self.stale: dict[str, Mapping[str, str]] = {}
        self.contents_of = cache(lambda case_id: case_contents(study, case_id))
        self.changed: Mapping[str, Change] = {}
        self.kept = Kept(study)

    def arrays_changed(self, parts: Collection[str]) -> dict[str, str]:
        """Patients with stale arrays among these, with the reasons."""
        return {case_id: change.reason for case_id, change in self.changed.items() if change.arrays & set(parts)}

    @cached_property
    def weights(self) -> Mapping[int, str]:
        """SHA-256 of the weights of each fold whose model is current."""
        known = {}
        for fold in self.config.training.folds:
            if f"fold_{fold}" not in self.stale.get("train", {}):
                with suppress(ConfigError):
                    known[fold] = read_passport(self.study.model(fold)).weights
        return known
