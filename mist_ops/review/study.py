"""The review of a study: the masks of its training patients against their held-out predictions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

from mist_ops.config import StudyConfig, read_config
from mist_ops.dataset import Assignment, read_train_paths
from mist_ops.errors import CaseError, ConfigError, MistError
from mist_ops.evaluation.score import check_classes
from mist_ops.evaluation.structures import Structures, structures_of
from mist_ops.evaluation.study import StudyEvaluation
from mist_ops.evaluation.table import Pair
from mist_ops.imaging.nifti import seconds_for
from mist_ops.records.arrays import input_hashes
from mist_ops.records.source import check_same_dataset
from mist_ops.review.measures import Measured, measure
from mist_ops.review.queue import Entry, write_queue
from mist_ops.review.suspicion import suspects
from mist_ops.study import Study
from mist_ops.workers import Outcome, outcomes, worthwhile


@dataclass(frozen=True)
class StudyReview:
    """The review of a study's masks.

    Attributes:
        study: The study.
        config: Its settings.
        assignment: Its patients with their folds.
    """

    study: Study
    config: StudyConfig
    assignment: Assignment

    @cached_property
    def pairs(self) -> Sequence[Pair]:
        """The masks with a held-out prediction."""
        return StudyEvaluation(self.study, self.config, self.assignment).pairs

    def masks(self, ids: Iterable[str]) -> dict[str, str]:
        """SHA-256 of the masks of some patients as they are now; patients who are gone are skipped."""
        known = [self.assignment[case_id] for case_id in ids if case_id in self.assignment.fold_of]
        return {case.id: input_hashes(self.study, case).get("mask", "") for case in known}

    def measure(self, workers: int = 1) -> Iterator[Outcome[Pair, Measured]]:
        """Compare each mask with its prediction; yield the outcomes in the order of the table of patients.

        Raises:
            DatasetError: The masks are those of another dataset.
            ConfigError: There is no prediction.
        """
        if not self.pairs:
            raise ConfigError(
                f"{self.study.cv_predictions} holds no predictions. Run mist_train first.",
                code="predictions-missing",
                file=self.study.cv_predictions,
            )
        check_same_dataset(self.study, self.assignment.cases)
        seconds = seconds_for([self.pairs[0].mask, self.pairs[0].prediction])
        needed = worthwhile(workers, len(self.pairs), seconds)
        return outcomes(partial(_measured, structures_of(self.config)), self.pairs, needed)

    def write(self, found: Mapping[str, Measured], masks: Mapping[str, str]) -> list[Entry]:
        """Write review_queue.csv, and return its rows.

        Args:
            found: What was measured, by patient.
            masks: SHA-256 of the masks, taken before they were read.
        """
        fold_of = self.assignment.fold_of
        entries = [
            Entry(suspect.id, fold_of[suspect.id], suspect.score, suspect.place, masks[suspect.id], suspect.reasons)
            for suspect in suspects(found)
        ]
        write_queue(self.study.review_queue, entries)
        return entries


def open_review(study: Study) -> StudyReview:
    """Read what the review of a study needs.

    Raises:
        MistError: config.json or the table of patients cannot be used.
    """
    config = read_config(study.config)
    check_classes(config.evaluation, config.dataset_info.labels)
    return StudyReview(study, config, read_train_paths(study.train_paths))


def _measured(structures: Structures, pair: Pair) -> Measured:
    try:
        return measure(pair.mask, pair.prediction, structures)
    except MistError as error:
        raise CaseError.of(pair.id, error) from error
