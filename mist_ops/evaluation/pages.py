"""HTML pages: one for each scored patient, and an index with the worst first.

The pages need no scripts and no network. All links are relative, so that results can be moved and shared.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from mist_ops.dataset import Assignment, Case
from mist_ops.evaluation.lesions import LesionRow
from mist_ops.evaluation.score import CaseScores, Classes
from mist_ops.evaluation.standings import Column, Ranking, formatted
from mist_ops.evaluation.table import lesions_path
from mist_ops.files import atomic_folder
from mist_ops.study import Study

if TYPE_CHECKING:
    from jinja2 import Template

MAX_LESIONS = 30
"""Number of lesions on a patient's page, the largest first; the table holds the rest."""

_CARD_SCORES = 4


@dataclass(frozen=True)
class Model:
    """A model as in its passport: SHA-256 of its weights, their epoch (from 1) and the number of epochs."""

    weights: str
    best_epoch: int
    epochs: int


@dataclass(frozen=True)
class _Pages:
    """Contents of the pages; see ``write_pages``."""

    study: Study
    task: str
    assignment: Assignment
    rows: Mapping[str, CaseScores]
    columns: Sequence[Column]
    models: Mapping[str, Model]

    @cached_property
    def overall(self) -> Ranking:
        """The patients ranked by their mean rank over all scores."""
        return Ranking({case_id: self._mean_share(case_id) for case_id in self.rows})

    @cached_property
    def order(self) -> list[str]:
        """All patients, worst first; patients without scores come last."""
        return sorted(self.rows, key=lambda case_id: (self.overall.values.get(case_id, math.inf), case_id))

    def _mean_share(self, case_id: str) -> float:
        standings = [column.ranking.standing(case_id) for column in self.columns]
        shares = [standing.share for standing in standings if standing]
        return fmean(shares) if shares else math.nan

    @cached_property
    def folder(self) -> Path:
        """Folder of the pages."""
        return self.study.patient_index.parent

    def from_here(self, path: Path) -> str:
        """A path relative to the folder of the pages."""
        return os.path.relpath(path, self.folder)

    def picture(self, case_id: str) -> str | None:
        """The picture of a patient, if it exists."""
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
    """Write the page of each scored patient and the index, and remove pages of other patients.

    Args:
        study: The study.
        task: Heading of the index.
        assignment: All patients with their folds.
        classes: The scored classes.
        rows: Scores by id.
        models: The model that predicted each patient, where it is known.
    """
    columns = [
        Column(name, metric, {case_id: row.scores[f"{name}_{metric}"] for case_id, row in rows.items()})
        for name, scored in classes.items()
        for metric in scored.metrics
    ]
    pages = _Pages(study, task, assignment, rows, columns, models)
    with atomic_folder(pages.folder) as folder:
        for place, case_id in enumerate(pages.order):
            (folder / study.patient_page(case_id).name).write_text(_patient(pages, place), encoding="utf-8")
        (folder / study.patient_index.name).write_text(_index(pages), encoding="utf-8")


@cache
def _template(name: str) -> Template:
    from jinja2 import Environment, PackageLoader, StrictUndefined  # takes 0.06 s to import, and only pages need it

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
    cells = {
        "class_name": column.class_name,
        "metric": column.metric,
        "value": column.formatted(column.scores[case_id]),
    }
    if standing is None:
        return {**cells, "strip": None, "median": "", "standing": "", "low": False}
    median = column.formatted(column.sign * column.quartiles[2])
    return {**cells, "strip": column.strip(case_id), "median": median, "standing": standing, "low": standing.is_low}


def _lesions(rows: Sequence[LesionRow]) -> list[dict[str, Any]]:
    return [
        {
            "class_name": row.class_name,
            "mask": row.mask,
            "number": row.lesion,
            "status": row.status,
            "error": row.status in ("FN", "FP"),
            "volume": formatted(row.volume_mm3 / 1000, "ml"),
            "matched": row.matched,
            "dice": formatted(row.dice),
            "haus95": formatted(row.haus95, "mm"),
            "surf_dice": formatted(row.surf_dice),
        }
        for row in sorted(rows, key=lambda row: -row.volume_mm3)[:MAX_LESIONS]
    ]


def _volume(name: str, truth: float, prediction: float) -> dict[str, str]:
    percent = f" ({100 * (prediction - truth) / truth:+.0f} %)" if truth else ""
    return {
        "class_name": name,
        "truth": formatted(truth, "ml"),
        "prediction": formatted(prediction, "ml"),
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
        "scores": [
            (f"{column.class_name} {column.metric}", column.formatted(column.scores[case_id])) for column in columns
        ],
    }
