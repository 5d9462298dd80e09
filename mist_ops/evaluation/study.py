"""Scores of a study's cross-validation: which predictions are scored, and the files that the scores fill."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from mist_ops.config import STEP_VERSIONS, StudyConfig, read_config
from mist_ops.dataset import Assignment, read_train_paths
from mist_ops.errors import ConfigError
from mist_ops.evaluation.pages import Model, write_pages
from mist_ops.evaluation.picture import draw_scores
from mist_ops.evaluation.score import CaseScores, check_classes
from mist_ops.evaluation.table import Pair, evaluate, write_evaluation, write_pairs
from mist_ops.records.passport import read_passport
from mist_ops.records.prediction import read_prediction_record
from mist_ops.records.scores import ScoreInputs
from mist_ops.records.source import check_same_dataset
from mist_ops.steps import settings, view
from mist_ops.study import Study
from mist_ops.workers import Outcome

Hashes = Mapping[str, Mapping[str, str]]
"""SHA-256 by path, for each part of ``StudyEvaluation.inputs``."""


@dataclass(frozen=True)
class Written:
    """Result of ``StudyEvaluation.write``.

    Attributes:
        missing: Patients without scores.
        plot: Thumbnail of the plot of all scores, a PNG; None if it was not requested.
    """

    missing: Sequence[str]
    plot: bytes | None


@dataclass(frozen=True)
class StudyEvaluation:
    """The evaluation of a study's held-out predictions.

    Attributes:
        study: The study.
        config: Its settings.
        assignment: Its patients with their folds.
    """

    study: Study
    config: StudyConfig
    assignment: Assignment

    @cached_property
    def expected(self) -> Sequence[Pair]:
        """Patients with a mask that are predicted, or that the model of their fold should have predicted."""
        study, fold_of = self.study, self.assignment.fold_of
        pairs = [Pair(case.id, case.mask, study.cv_prediction(case.id)) for case in self.assignment.cases if case.mask]
        return [pair for pair in pairs if pair.prediction.exists() or study.model(fold_of[pair.id]).exists()]

    @cached_property
    def pairs(self) -> Sequence[Pair]:
        """The pairs to score: the expected ones whose prediction exists."""
        return [pair for pair in self.expected if pair.prediction.exists()]

    @property
    def inputs(self) -> Mapping[str, Sequence[Path]]:
        """The files that the scores depend on."""
        return {
            "config": [self.study.config],
            "models": [self.study.model(fold) for fold in self.config.training.folds],
            "masks": [pair.mask for pair in self.pairs],
            "predictions": [pair.prediction for pair in self.pairs],
        }

    def models(self, ids: Iterable[str]) -> dict[str, Model]:
        """The model that predicted each patient, where the passport of the fold describes the same weights."""
        fold_of, known = self.assignment.fold_of, {}
        for fold in set(fold_of.values()):
            with suppress(ConfigError):
                passport = read_passport(self.study.model(fold))
                known[passport.weights] = Model(passport.weights, passport.best_epoch + 1, len(passport.history))
        records = {case_id: read_prediction_record(self.study.prediction_record("train", case_id)) for case_id in ids}
        used = {case_id: record.models.get(fold_of[case_id]) for case_id, record in records.items() if record}
        return {case_id: known[weights] for case_id, weights in used.items() if weights in known}

    def score(self, workers: int = 1) -> Iterator[Outcome[Pair, CaseScores]]:
        """Write the table of pairs, then score each; yield the outcomes in the order of the table.

        Raises:
            DatasetError: The masks are those of another dataset.
        """
        self.prepare()
        return evaluate(self.pairs, self.config.evaluation, workers)

    def prepare(self) -> None:
        """Write the table of pairs.

        Raises:
            DatasetError: The masks are those of another dataset.
        """
        check_same_dataset(self.study, self.assignment.cases)
        write_pairs(self.study.evaluation_paths, self.pairs)

    def write(
        self,
        rows: Mapping[str, CaseScores],
        failures: Mapping[str, str],
        hashes: Hashes,
        *,
        figures: bool = True,
    ) -> Written:
        """Write results.csv with the files beside it, the plot, and a page for each patient.

        Args:
            rows: Scores by id.
            failures: Reasons by id, of patients that could not be scored.
            hashes: Those of ``inputs``, taken before anything was scored.
            figures: Whether to draw the plot; otherwise that of earlier scores is removed.
        """
        study, classes, task = self.study, self.config.evaluation, self.config.dataset_info.task
        predicted = {pair.id for pair in self.pairs}
        unpredicted = {
            pair.id: f"Case '{pair.id}': it is not predicted." for pair in self.expected if pair.id not in predicted
        }
        inputs = self._record(hashes)
        write_evaluation(study.results_csv, self.expected, classes, rows, {**failures, **unpredicted}, inputs=inputs)
        missing = [case.id for case in self.assignment.cases if case.id not in rows]
        plot = None
        if figures:
            plot = draw_scores(rows, missing, classes, study.figure("scores"), task)
        else:
            study.figure("scores").unlink(missing_ok=True)
        write_pages(study, task, self.assignment, classes, rows, self.models(rows))
        return Written(missing, plot)

    def _record(self, hashes: Hashes) -> ScoreInputs:
        return ScoreInputs(
            settings=settings(self.config, "evaluation"),
            version=STEP_VERSIONS["evaluation"],
            masks={pair.id: hashes["masks"].get(str(pair.mask)) for pair in self.pairs},
            predictions={pair.id: hashes["predictions"].get(str(pair.prediction)) for pair in self.pairs},
        )


def open_evaluation(study: Study) -> StudyEvaluation:
    """Read what the evaluation of a study needs, and check the classes to score.

    Raises:
        MistError: config.json or the table of patients cannot be used.
    """
    config = read_config(study.config)
    check_classes(config.evaluation, config.dataset_info.labels)
    return StudyEvaluation(study, view(config, "evaluation"), read_train_paths(study.train_paths))
