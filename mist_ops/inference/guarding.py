"""The guard at prediction: measures a scan and its mask, and writes beside the mask whether it can be trusted."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from mist_ops.config import StudyConfig
from mist_ops.dataset import Case
from mist_ops.errors import CaseError, ConfigError
from mist_ops.files import file_hash
from mist_ops.guard.certainty import Certainty
from mist_ops.guard.features import Measured
from mist_ops.guard.measuring import measure
from mist_ops.guard.novelty import score
from mist_ops.guard.verdict import Verdict, reasons
from mist_ops.inference.case import Prepared
from mist_ops.inference.models import find_folds
from mist_ops.records.guard import Guard, Report, check_models, read_guard, write_report
from mist_ops.study import guard_beside, guard_report

_LOG = logging.getLogger(__name__)

_NAMED = 3
"""Reasons in a warning; the report has all."""


@dataclass(frozen=True)
class Guarding:
    """The guard of some weights.

    Attributes:
        guard: What it knows.
        content: SHA-256 of its file.
        config: Settings of the predictions.
        strict: Whether scans that are unlike those of the training patients are refused.
    """

    guard: Guard
    content: str
    config: StudyConfig
    strict: bool = False

    @classmethod
    def open(cls, path: Path, models: Mapping[int, str], config: StudyConfig, *, strict: bool = False) -> Guarding:
        """Read a guard.

        Args:
            path: Its file.
            models: SHA-256 of the weights that predict, by fold.
            config: Settings of the predictions.
            strict: As of the class.

        Raises:
            ConfigError: It is missing, corrupted, or belongs to other weights.
        """
        guard = read_guard(path)
        check_models(path, guard, models)
        return cls(guard, file_hash(path), config, strict)

    @classmethod
    def beside(cls, path: Path, models: Mapping[int, str], config: StudyConfig) -> Guarding | None:
        """As ``open``; None without a file, and with a warning if it cannot be used."""
        if not path.is_file():
            return None
        try:
            return cls.open(path, models, config)
        except ConfigError as error:
            _LOG.warning("%s Predictions get no report of the guard.", error.message)
            return None

    def check(self, case: Case, report: Path, prepared: Prepared, seen: Certainty) -> None:
        """Write the report on a case that was predicted; its mask is not written yet.

        Raises:
            CaseError: The scan is refused.
        """
        verdict = self.verdict(measured(prepared, seen, self.config), seen)
        write_report(report, Report(patient=case.id, verdict=verdict, guard=self.content, models=self.guard.models))
        if verdict.like:
            return
        why = "; ".join(verdict.reasons[:_NAMED])
        if self.strict:
            raise CaseError(
                case.id,
                f"the scan is unlike those of the training patients ({why}). No mask was written; {report} has the "
                "details. Check the scan, or predict it without --strict.",
                code="scan-unlike-training",
                file=report,
                found=round(verdict.score, 2),
                expected=round(verdict.threshold, 2),
            )
        _LOG.warning("Case '%s': the scan is unlike those of the training patients: %s.", case.id, why)

    def verdict(self, found: Measured, seen: Certainty) -> Verdict:
        """What the guard says of a scan."""
        usual = self.guard.novelty
        novelty = usual.of(found)
        highest = score(novelty)
        like = highest <= usual.threshold
        certainty = certainty_of(self.guard.classes, seen, self.config.dataset_info.labels)
        return Verdict(
            like,
            highest,
            usual.threshold,
            novelty,
            reasons(usual, found),
            {
                name: forecast.expect(novelty, certainty[name], not like)
                for name, forecast in self.guard.forecasts.items()
            },
        )


def guarding_of(models: Path, config: StudyConfig, *, strict: bool = False) -> Guarding | None:
    """The guard in a folder of weights; None without one, and with a warning if it cannot be used.

    Raises:
        ConfigError: With ``strict``, there is none, or it cannot be used.
    """
    path = guard_beside(models)
    if not strict and not path.is_file():
        return None
    weights = {fold: file_hash(models / f"fold_{fold}.pt") for fold in find_folds(models)}
    return Guarding.open(path, weights, config, strict=True) if strict else Guarding.beside(path, weights, config)


def checking(guarding: Guarding | None, case: Case, mask: Path) -> Callable[[Prepared, Certainty], None] | None:
    """The check of a ``Job``; without a guard there is none, and the report on an earlier mask is removed."""
    report = guard_report(mask)
    if guarding is None:
        report.unlink(missing_ok=True)
        return None
    return partial(guarding.check, case, report)


def measured(prepared: Prepared, seen: Certainty, config: StudyConfig) -> Measured:
    """Measure a case and its prediction."""
    info = config.dataset_info
    return measure(prepared.image, prepared.geometry, info.images, seen.classes, info.labels, seen.of_classes())


def certainty_of(classes: Mapping[str, Sequence[int]], seen: Certainty, labels: Sequence[int]) -> dict[str, float]:
    """Mean certainty of the labels of each evaluated class; NaN if none is predicted."""
    known = {labels[index]: value for index, value in seen.of_classes().items()}
    found = {}
    for name, members in classes.items():
        values = np.array([known[label] for label in members if label in known])
        present = values[~np.isnan(values)]
        found[name] = float(present.mean()) if present.size else float("nan")
    return found
