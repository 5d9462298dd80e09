"""Figures of cases, scores, learning curves and rankings. Nothing is computed from them."""

from __future__ import annotations

from mist_ops.pictures.case import case_picture, label_names, thumbnail
from mist_ops.pictures.curves import learning_curves
from mist_ops.pictures.panels import Panel, Points, draw_panels
from mist_ops.pictures.ranking import RankedStrategy, ranking_plot
from mist_ops.pictures.scores import MetricScores, score_plot

__all__ = [
    "MetricScores",
    "Panel",
    "Points",
    "RankedStrategy",
    "case_picture",
    "draw_panels",
    "label_names",
    "learning_curves",
    "ranking_plot",
    "score_plot",
    "thumbnail",
]
