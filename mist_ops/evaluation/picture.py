"""Figures of a case with its prediction, and of all scores of a study."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path

from mist_ops.config import EvaluationClass, StudyConfig
from mist_ops.dataset import Case
from mist_ops.evaluation.score import CaseScores, Classes, score
from mist_ops.imaging.nifti import read_image, read_labels
from mist_ops.pictures import MetricScores, case_picture, label_names, score_plot, thumbnail
from mist_ops.registry import METRICS
from mist_ops.types import LabelMap


def dice_of(case: Case, prediction: Path, config: StudyConfig) -> dict[str, float]:
    """Dice of each scored class; empty for a case without a mask."""
    if case.mask is None:
        return {}
    classes = {
        name: EvaluationClass(labels=scored.labels, metrics={"dice": {}}) for name, scored in config.evaluation.items()
    }
    return {column.removesuffix("_dice"): value for column, value in score(case.mask, prediction, classes).items()}


def draw_case(case: Case, prediction: Path, path: Path, config: StudyConfig, dice: Mapping[str, float]) -> bytes:
    """Plot a case's first channel with outlines of truth and prediction; return a thumbnail."""
    image, geometry = read_image(next(iter(case.images.values())))
    canonical, orientation = geometry.canonical()

    def labels(file: Path | None) -> LabelMap | None:
        return orientation.apply(read_labels(file)[0]) if file else None

    arrays = orientation.apply(image), labels(case.mask), labels(prediction)
    names = label_names({name: scored.labels for name, scored in config.evaluation.items()})
    case_picture(path, *arrays, canonical.spacing, case.id, dice=dice, names=names)
    return thumbnail(*arrays, canonical.spacing)


def draw_scores(
    rows: Mapping[str, CaseScores], failed: Iterable[str], classes: Classes, path: Path, title: str
) -> bytes:
    """Plot all scores, with a panel for each metric; return a thumbnail."""
    names = dict.fromkeys(metric for scored in classes.values() for metric in scored.metrics)
    missing = dict.fromkeys(failed, math.nan)
    panels = [
        MetricScores(
            name=metric,
            unit=METRICS[metric].unit,
            higher_is_better=METRICS[metric].higher_is_better,
            classes={
                name: {**{case_id: row.scores[f"{name}_{metric}"] for case_id, row in rows.items()}, **missing}
                for name, scored in classes.items()
                if metric in scored.metrics
            },
        )
        for metric in names
    ]
    return score_plot(path, panels, title)
