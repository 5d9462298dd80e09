from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from expect import refuses

from mist_ops.config import EvaluationClass
from mist_ops.errors import DatasetError
from mist_ops.evaluation.accepted import check_whole, regressions

CLASSES = {"lesion": EvaluationClass(labels=[1], metrics={"dice": {}, "haus95": {}})}


def table(path: Path, dice: float = 0.0, distance: float = 0.0, noise: float = 0.0, patients: int = 20) -> Path:
    generator, other = np.random.default_rng(0), np.random.default_rng(1)
    scores = {
        "id": [f"{index:03d}" for index in range(patients)],
        "lesion_dice": generator.uniform(0.6, 0.9, patients) + dice + noise * other.normal(size=patients),
        "lesion_haus95": generator.uniform(2, 9, patients) + distance,
    }
    sums = pd.DataFrame([{"id": "Mean", "lesion_dice": 0.0, "lesion_haus95": 0.0}])
    pd.concat([pd.DataFrame(scores), sums]).to_csv(path, index=False)
    return path


def test_equal_scores_are_not_a_regression(tmp_path: Path) -> None:
    accepted = table(tmp_path / "accepted.csv")
    assert regressions(table(tmp_path / "results.csv"), accepted, CLASSES) == []


def test_each_metric_gets_worse_in_its_own_direction(tmp_path: Path) -> None:
    accepted = table(tmp_path / "accepted.csv")
    (worse,) = regressions(table(tmp_path / "a.csv", dice=-0.02, distance=-1.0), accepted, CLASSES)
    assert (worse.column, worse.patients) == ("lesion_dice", 20)
    assert abs(worse.difference + 0.02) < 1e-9
    (farther,) = regressions(table(tmp_path / "b.csv", dice=0.02, distance=1.0), accepted, CLASSES)
    assert farther.column == "lesion_haus95"


def test_a_difference_within_the_interval_is_not_a_regression(tmp_path: Path) -> None:
    accepted = table(tmp_path / "accepted.csv")
    assert regressions(table(tmp_path / "a.csv", dice=-0.005, noise=0.1), accepted, CLASSES) == []


def test_patients_in_only_one_table_are_not_compared(tmp_path: Path) -> None:
    accepted = table(tmp_path / "accepted.csv", patients=25)
    found = regressions(table(tmp_path / "results.csv", dice=-0.1, patients=20), accepted, CLASSES)
    assert all(column.patients == 20 for column in found)


@pytest.mark.parametrize(
    "content, code, found",
    [
        ("id,lesion_dice\n007,0.5\n", "table-column-missing", ["id", "lesion_dice"]),
        ("id,lesion_dice,lesion_haus95\n007,,\n8,1,2\n", "scores-missing", ["007"]),
        ("id,lesion_dice,lesion_haus95\nMean,1,2\n", "scores-missing", []),
    ],
)
def test_an_incomplete_table_cannot_be_accepted(tmp_path: Path, content: str, code: str, found: list[str]) -> None:
    path = tmp_path / "results.csv"
    path.write_text(content)
    with refuses(code, DatasetError, file=path, found=found):
        check_whole(path, ["lesion_dice", "lesion_haus95"])
