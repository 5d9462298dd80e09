"""A page for each patient that was scored, and an index that lists them worst first.

HTML that needs neither scripts nor a network. All links are relative, so that results can be moved and handed on.
"""

from __future__ import annotations

import math
import os
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np

from mist_ops.dataset import Assignment, Case
from mist_ops.evaluation.lesions import LesionRow
from mist_ops.evaluation.score import CaseScores, Classes
from mist_ops.evaluation.table import lesions_path
from mist_ops.files import atomic_folder
from mist_ops.registry import METRICS
from mist_ops.study import Study

if TYPE_CHECKING:
    from jinja2 import Template

MAX_LESIONS = 30
"""Lesions of a patient that its page shows, the largest; the table holds the rest."""

_CARD_SCORES = 4


@dataclass(frozen=True)
class Model:
    """What a passport says of a model: SHA-256 of its weights, the epoch that they are of (from 1), and of how many."""

    weights: str
    best_epoch: int
    epochs: int


@dataclass(frozen=True)
class Standing:
    """How many patients are worse than one, as good (itself among them), and better."""

    worse: int
    equal: int
    better: int

    @property
    def total(self) -> int:
        """All patients that have a value."""
        return self.worse + self.equal + self.better

    @property
    def is_low(self) -> bool:
        """Whether it is in the worst quarter."""
        return 4 * (self.worse + self.equal) <= self.total

    @property
    def share(self) -> float:
        """The share of the other patients that are worse, counting half of those that are as good; 0.5 without any."""
        others = self.total - 1
        return (self.worse + (self.equal - 1) / 2) / others if others else 0.5

    def __str__(self) -> str:
        """Such as "3rd worst of 50", told from the nearer end."""
        if self.equal == self.total:
            return f"the same in all {self.total}" if self.total > 1 else "the only one"
        end, before = ("worst", self.worse) if self.worse < self.better else ("best", self.better)
        tied = f", tied with {self.equal - 1}" if self.equal > 1 else ""
        return f"{_ordinal(before + 1)}{end} of {self.total}{tied}"


class Ranking:
    """Patients by a value of which more is better; NaN ranks nowhere."""

    def __init__(self, values: Mapping[str, float]) -> None:
        self.values = {case_id: value for case_id, value in values.items() if math.isfinite(value)}
        self.ascending = sorted(self.values.values())

    def standing(self, case_id: str) -> Standing | None:
        """Where a patient stands; None for one without a value."""
        value = self.values.get(case_id)
        if value is None:
            return None
        worse, not_better = bisect_left(self.ascending, value), bisect_right(self.ascending, value)
        return Standing(worse, not_better - worse, len(self.ascending) - not_better)


@dataclass(frozen=True)
class Column:
    """A score of all patients."""

    class_name: str
    metric: str
    scores: Mapping[str, float]

    @cached_property
    def sign(self) -> int:
        """What makes more be better."""
        return 1 if METRICS[self.metric].higher_is_better else -1

    @cached_property
    def ranking(self) -> Ranking:
        """The patients by this score."""
        return Ranking({case_id: self.sign * score for case_id, score in self.scores.items()})

    @cached_property
    def quartiles(self) -> tuple[float, ...]:
        """Worst, quarter, median, three quarters and best of the ranked values, of which there is one at least."""
        return tuple(np.quantile(self.ranking.ascending, (0, 0.25, 0.5, 0.75, 1)).tolist())

    def told(self, value: float) -> str:
        """A score with its unit; empty for NaN."""
        return _told(value, METRICS[self.metric].unit)

    def strip(self, case_id: str) -> dict[str, str] | None:
        """Where a patient and the quartiles lie between worst and best, in percent; None if all are alike."""
        worst, lower, median, upper, best = self.quartiles
        if worst == best:
            return None

        def percent(value: float) -> float:
            return 100 * (value - worst) / (best - worst)

        places = {"lower": lower, "median": median, "patient": self.ranking.values[case_id]}
        return {
            **{name: f"{percent(value):.1f}" for name, value in places.items()},
            "upper": f"{100 - percent(upper):.1f}",
            "words": " … ".join(self.told(self.sign * value) for value in (worst, median, best)),
        }


@dataclass(frozen=True)
class _Pages:
    """What the pages are made of; see ``write_pages``."""

    study: Study
    task: str
    assignment: Assignment
    rows: Mapping[str, CaseScores]
    columns: Sequence[Column]
    models: Mapping[str, Model]

    @cached_property
    def overall(self) -> Ranking:
        """The patients by the mean of their ranks in all scores."""
        return Ranking({case_id: self._mean_share(case_id) for case_id in self.rows})

    @cached_property
    def order(self) -> list[str]:
        """All patients, worst first; those without any score come last."""
        return sorted(self.rows, key=lambda case_id: (self.overall.values.get(case_id, math.inf), case_id))

    def _mean_share(self, case_id: str) -> float:
        standings = [column.ranking.standing(case_id) for column in self.columns]
        shares = [standing.share for standing in standings if standing]
        return fmean(shares) if shares else math.nan

    @cached_property
    def folder(self) -> Path:
        """That of the pages."""
        return self.study.patient_index.parent

    def from_here(self, path: Path) -> str:
        """A path as seen from the folder of the pages."""
        return os.path.relpath(path, self.folder)

    def picture(self, case_id: str) -> str | None:
        """The picture of a patient, if it was drawn."""
        path = self.study.cv_figure(case_id)
        return self.from_here(path) if path.is_file() else None


def write_pages(
    study: Study,
    task: str,
    assignment: Assignment,
    classes: Classes,
    rows: Mapping[str, CaseScores],
    models: Mapping[str, Model],
) -> None:
    """Write the page of each scored patient and the index; pages of other patients go away.

    Args:
        study: Where to, and where the files are that the pages link to.
        task: The heading of the index.
        assignment: The patients with their folds, those of ``rows`` among them.
        classes: What was scored.
        rows: Scores by id.
        models: What predicted each patient; none where that is not known.
    """
    columns = [
        Column(name, metric, {case_id: row.scores[f"{name}_{metric}"] for case_id, row in rows.items()})
        for name, wanted in classes.items()
        for metric in wanted.metrics
    ]
    pages = _Pages(study, task, assignment, rows, columns, models)
    with atomic_folder(pages.folder) as folder:
        for place, case_id in enumerate(pages.order):
            (folder / study.patient_page(case_id).name).write_text(_patient(pages, place), encoding="utf-8")
        (folder / study.patient_index.name).write_text(_index(pages), encoding="utf-8")


@cache
def _template(name: str) -> Template:
    from jinja2 import Environment, PackageLoader, StrictUndefined  # not at the top: only those who write pages need it

    loader = PackageLoader(__package__)
    return Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True).get_template(name)


def _patient(pages: _Pages, place: int) -> str:
    case_id = pages.order[place]
    study, row, fold = pages.study, pages.rows[case_id], pages.assignment.fold_of[case_id]
    worse, better = pages.order[max(0, place - 1) : place], pages.order[place + 1 : place + 2]
    return _template("patient.html").render(
        id=case_id,
        task=pages.task,
        index=study.patient_index.name,
        worse=[(other, study.patient_page(other).name) for other in worse],
        better=[(other, study.patient_page(other).name) for other in better],
        standing=pages.overall.standing(case_id),
        fold=fold,
        model=pages.models.get(case_id),
        passport=pages.from_here(study.passport(fold)),
        picture=pages.picture(case_id),
        scores=[_score(column, case_id) for column in pages.columns],
        lesions=_lesions(row.lesions),
        more_lesions=max(0, len(row.lesions) - MAX_LESIONS),
        lesions_csv=pages.from_here(lesions_path(study.results_csv)),
        volumes=[_volume(name, *volumes) for name, volumes in row.volumes.items()],
        files=list(_files(pages, pages.assignment[case_id])),
    )


def _score(column: Column, case_id: str) -> dict[str, Any]:
    standing = column.ranking.standing(case_id)
    told = {"class_name": column.class_name, "metric": column.metric, "value": column.told(column.scores[case_id])}
    if standing is None:
        return {**told, "strip": None, "median": "", "standing": "", "low": False}
    median = column.told(column.sign * column.quartiles[2])
    return {**told, "strip": column.strip(case_id), "median": median, "standing": standing, "low": standing.is_low}


def _lesions(rows: Sequence[LesionRow]) -> list[dict[str, Any]]:
    return [
        {
            "class_name": row.class_name,
            "mask": row.mask,
            "number": row.lesion,
            "status": row.status,
            "missed": row.status in ("FN", "FP"),
            "volume": _told(row.volume_mm3 / 1000, "ml"),
            "matched": row.matched,
            "dice": _told(row.dice),
            "haus95": _told(row.haus95, "mm"),
            "surf_dice": _told(row.surf_dice),
        }
        for row in sorted(rows, key=lambda row: -row.volume_mm3)[:MAX_LESIONS]
    ]


def _volume(name: str, truth: float, prediction: float) -> dict[str, str]:
    percent = f" ({100 * (prediction - truth) / truth:+.0f} %)" if truth else ""
    return {
        "class_name": name,
        "truth": _told(truth, "ml"),
        "prediction": _told(prediction, "ml"),
        "difference": f"{prediction - truth:+.2f} ml{percent}",
    }


def _files(pages: _Pages, case: Case) -> Iterator[tuple[str, str]]:
    study = pages.study
    named = {**case.images, "mask": case.mask, "prediction": study.cv_prediction(case.id)}
    yield from ((name, pages.from_here(path)) for name, path in named.items() if path)
    yield "all scores", pages.from_here(study.results_csv)


def _index(pages: _Pages) -> str:
    plot = pages.study.figure("scores")
    shown = {column.class_name: column for column in reversed(pages.columns)}  # the first metric of each class
    columns = list(reversed(shown.values()))[:_CARD_SCORES]
    return _template("index.html").render(
        task=pages.task,
        plot=pages.from_here(plot) if plot.is_file() else None,
        patients=[_card(pages, case_id, columns) for case_id in pages.order],
    )


def _card(pages: _Pages, case_id: str, columns: Sequence[Column]) -> dict[str, Any]:
    return {
        "id": case_id,
        "page": pages.study.patient_page(case_id).name,
        "picture": pages.picture(case_id),
        "standing": pages.overall.standing(case_id),
        "fold": pages.assignment.fold_of[case_id],
        "scores": [(f"{column.class_name} {column.metric}", column.told(column.scores[case_id])) for column in columns],
    }


def _told(value: float, unit: str = "") -> str:
    """Three decimals of small numbers, one of large ones; empty for NaN."""
    if math.isnan(value):
        return ""
    return f"{value:.3f} {unit}".rstrip() if abs(value) < 10 else f"{value:.1f} {unit}".rstrip()


def _ordinal(number: int) -> str:
    """Such as "2nd "; empty for the first."""
    if number == 1:
        return ""
    ending = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending} "
