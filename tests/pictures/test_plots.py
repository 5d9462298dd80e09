"""Plots of scores and rankings for any number of patients, classes and metrics."""

from __future__ import annotations

import io
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mist_ops.pictures import MetricScores, RankedStrategy, ranking_plot, score_plot


def scores(patients: int, missing: int = 0) -> dict[str, float]:
    values = np.random.default_rng(0).beta(8, 2, patients).tolist()
    return {f"patient_{index}": math.nan if index < missing else value for index, value in enumerate(values)}


@pytest.mark.parametrize("patients, missing", [(0, 0), (1, 0), (3, 3), (500, 7)])
def test_any_number_of_scores_is_drawn(tmp_path: Path, patients: int, missing: int) -> None:
    classes = {name: scores(patients, missing) for name in ("lesion", "core", "edema")}
    metrics = [MetricScores(name, unit, not unit, classes) for name, unit in (("dice", ""), ("haus95", "mm"))]
    thumbnail = score_plot(tmp_path / "scores.png", metrics, "brain")
    assert len(thumbnail) <= 30_000
    with Image.open(io.BytesIO(thumbnail)) as small, Image.open(tmp_path / "scores.png") as large:
        assert small.height <= 300
        assert large.width >= 1000


def test_a_study_without_metrics_has_an_empty_plot(tmp_path: Path) -> None:
    assert len(score_plot(tmp_path / "scores.png", [], "brain")) <= 30_000


def test_equal_scores_give_equal_bytes(tmp_path: Path) -> None:
    metric = MetricScores("dice", "", True, {"lesion": scores(20)})
    for name in ("a", "b"):
        score_plot(tmp_path / f"{name}.png", [metric], "brain")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_a_ranking_has_a_line_for_each_strategy(tmp_path: Path) -> None:
    strategies = [RankedStrategy(f"strategy {place}", place, place - 0.2, place + 0.3) for place in (1.0, 2.0, 3.0)]
    assert len(ranking_plot(tmp_path / "ranking.png", strategies, 50)) <= 30_000
    ranking_plot(tmp_path / "one.png", strategies[:1], 50)
    with Image.open(tmp_path / "ranking.png") as three, Image.open(tmp_path / "one.png") as one:
        assert three.height > one.height
