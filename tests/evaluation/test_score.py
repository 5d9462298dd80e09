from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mist_ops.config import EvaluationClass
from mist_ops.errors import ConfigError, ImageError, MistError
from mist_ops.evaluation.score import check_classes, read_classes, score
from mist_ops.imaging.geometry import Geometry
from mist_ops.imaging.nifti import write_labels
from mist_ops.metrics import Metric
from mist_ops.metrics.pair import MaskPair
from mist_ops.registry import METRICS

GRID = Geometry((10, 12, 14), (1.0, 1.5, 2.0))
DIAGONAL = math.hypot(10, 18, 28)
BOTH = {"dice": {}, "haus95": {}}


def scored(labels: list[int], metrics: dict[str, dict[str, object]] | None = None) -> EvaluationClass:
    return EvaluationClass(labels=labels, metrics=BOTH if metrics is None else metrics)


def write(path: Path, *boxes: tuple[int, int, int], grid: Geometry = GRID) -> Path:
    labels = np.zeros(grid.size, dtype=np.uint8)
    for label, start, stop in boxes:
        labels[start:stop, 4:8, 4:8] = label
    write_labels(path, labels, grid)
    return path


def labels_of(text: str) -> list[int]:
    return list(range(1, 118)) if text == "1..117" else [int(label) for label in text.split()]


def test_dice_and_haus95_are_the_references_on_every_golden_pair(shared: Path) -> None:
    table = pd.read_csv(shared / "golden" / "metrics.csv")
    table = table[table["metric"].isin(BOTH)]
    assert len(table) == 71
    for (mask, prediction), rows in table.groupby(["mask", "prediction"]):
        classes = {labels: scored(labels_of(labels)) for labels in rows["labels"].unique()}
        scores = score(shared / mask, shared / prediction, classes)
        values = [scores[f"{row.labels}_{row.metric}"] for row in rows.itertuples()]
        np.testing.assert_allclose(values, rows["value"], rtol=0, atol=1e-9, err_msg=f"{mask} {prediction}")


@pytest.mark.parametrize(
    "label, expected",
    [(1, (0.0, DIAGONAL)), (2, (0.0, DIAGONAL)), (3, (1.0, 0.0))],
    ids=["missed", "invented", "absent"],
)
def test_empty_masks_are_best_or_worst(tmp_path: Path, label: int, expected: tuple[float, float]) -> None:
    mask, prediction = write(tmp_path / "m.nii.gz", (1, 2, 5)), write(tmp_path / "p.nii.gz", (2, 2, 5))
    scores = score(mask, prediction, {"C": scored([label])})
    assert (scores["C_dice"], scores["C_haus95"]) == pytest.approx(expected)


def test_a_class_is_the_union_of_its_labels(tmp_path: Path) -> None:
    mask = write(tmp_path / "m.nii.gz", (1, 2, 4), (2, 4, 6))
    prediction = write(tmp_path / "p.nii.gz", (2, 2, 4), (1, 4, 6))
    scores = score(mask, prediction, {"whole": scored([1, 2, 300]), "one": scored([1], {"dice": {}})})
    assert scores == {"whole_dice": 1.0, "whole_haus95": 0.0, "one_dice": 0.0}


def test_a_different_grid_is_refused_and_the_field_named(tmp_path: Path) -> None:
    other = Geometry(GRID.size, (1.0, 1.5, 2.5))
    mask, prediction = write(tmp_path / "m.nii.gz"), write(tmp_path / "p.nii.gz", grid=other)
    with pytest.raises(ImageError, match=r"different grids: spacing \(1, 1\.5, 2\) against \(1, 1\.5, 2\.5\)"):
        score(mask, prediction, {"C": scored([1])})


def test_an_origin_that_differs_by_rounding_is_the_same_grid(tmp_path: Path) -> None:
    other = Geometry(GRID.size, GRID.spacing, (6e-4, 0.0, 0.0))
    mask, prediction = write(tmp_path / "m.nii.gz", (1, 2, 4)), write(tmp_path / "p.nii.gz", (1, 2, 4), grid=other)
    assert score(mask, prediction, {"C": scored([1])})["C_dice"] == 1.0


def test_a_label_that_is_not_known_is_refused_where_known_ones_are_given(tmp_path: Path) -> None:
    mask, prediction = write(tmp_path / "m.nii.gz", (1, 2, 4)), write(tmp_path / "p.nii.gz", (7, 2, 4))
    with pytest.raises(ImageError, match=r"p\.nii\.gz holds labels \[7\]; known are \[0, 1\]"):
        score(mask, prediction, {"C": scored([1])}, known=[1])


@pytest.mark.parametrize(
    "wanted, words",
    [
        (scored([1], {"haus59": {}}), "class 'WT': There is no metric 'haus59'. Did you mean 'haus95'"),
        (scored([1], {"dice": {"tolerence": 2}}), "class 'WT', metric 'dice': the key 'tolerence' is not known"),
        (scored([1, 9]), r"class 'WT' names labels \[9\] that are not among those of the dataset, \[0, 1, 2\]"),
    ],
)
def test_mistakes_in_the_classes_are_named(wanted: EvaluationClass, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        check_classes({"WT": wanted}, labels=[0, 1, 2])


def test_all_mistakes_are_named_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        check_classes({"A": scored([1], {"dyce": {}}), "B": scored([1], {"hd": {}})})
    assert "'dyce'" in str(caught.value)
    assert "'hd'" in str(caught.value)


@pytest.fixture
def tolerant() -> Iterator[str]:
    """A metric with a parameter, registered for one test."""

    def tolerant(pair: MaskPair, tolerance: float = 1.0, iterations: int = 3) -> float:
        return tolerance * iterations if tolerance else math.nan

    list(METRICS)
    METRICS.register("tolerant")(Metric(tolerant, 1.0, 0.0, "", True))
    yield "tolerant"
    del METRICS._entries["tolerant"]


@pytest.mark.parametrize(
    "params, words",
    [
        ({"tolerence": 2.0}, "'tolerence' is not known. Did you mean 'tolerance'"),
        ({"tolerance": None}, "'tolerance': Input should be a valid number"),
        ({"iterations": "3"}, "'iterations': Input should be a valid integer"),
    ],
)
def test_parameters_are_checked_by_name_and_type(tolerant: str, params: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        check_classes({"C": scored([1], {tolerant: params})})


def test_parameters_reach_the_metric_and_a_value_that_is_no_number_is_an_error(tmp_path: Path, tolerant: str) -> None:
    mask = write(tmp_path / "m.nii.gz", (1, 2, 4))
    assert score(mask, mask, {"C": scored([1], {tolerant: {"tolerance": 2, "iterations": 4}})}) == {"C_tolerant": 8.0}
    with pytest.raises(MistError, match="class 'C': the metric 'tolerant' is nan"):
        score(mask, mask, {"C": scored([1], {tolerant: {"tolerance": 0.0}})})


def test_two_classes_that_would_share_a_column_are_refused(tolerant: str) -> None:
    METRICS.register("x_tolerant")(METRICS[tolerant])
    try:
        with pytest.raises(ConfigError, match="share the column 'C_x_tolerant'"):
            check_classes({"C": scored([1], {"x_tolerant": {}}), "C_x": scored([1], {tolerant: {}})})
    finally:
        del METRICS._entries["x_tolerant"]


@pytest.mark.parametrize("wrapped", [True, False])
def test_classes_are_read_from_a_config_or_alone(tmp_path: Path, wrapped: bool) -> None:
    path = tmp_path / "config.json"
    classes = {"WT": {"labels": [1, 2], "metrics": {"dice": {}}}}
    path.write_text(json.dumps({"mist_version": "2.3.0", "evaluation": classes} if wrapped else classes))
    assert read_classes(path) == {"WT": EvaluationClass(labels=[1, 2], metrics={"dice": {}})}


@pytest.mark.parametrize(
    "content, words",
    [
        ({"WT": {"labels": [], "metrics": {}}}, "WT.labels"),
        ({"WT": {"labels": [1], "metrics": {"dice": None}}}, "WT.metrics.dice"),
        ({"WT": {"labels": [1], "metrics": {}, "metric": {}}}, "WT.metric' is not known. Did you mean 'metrics'"),
        ([], "valid dictionary"),
    ],
)
def test_a_bad_configuration_is_refused(tmp_path: Path, content: object, words: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(content))
    with pytest.raises(ConfigError, match=words):
        read_classes(path)
