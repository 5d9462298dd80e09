from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from expect import refuses

from mist_ops.config import EvaluationClass
from mist_ops.errors import ConfigError, ImageError, MistError
from mist_ops.evaluation.score import check_classes, read_classes, read_evaluation, score, score_case
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


def test_scores_of_files_equal_the_reference(shared: Path) -> None:
    table = pd.read_csv(shared / "golden" / "metrics.csv")
    table = table[table["metric"].isin(["dice", "haus95", "avg_surf", "surf_dice"]) & (table["case"] != "tol/sp08/t08")]
    assert len(table) == 140
    for (mask, prediction, params), rows in table.groupby(["mask", "prediction", "params"]):
        metrics = {metric: json.loads(params) for metric in rows["metric"].unique()}
        classes = {labels: scored(labels_of(labels), metrics) for labels in rows["labels"].unique()}
        scores = score(shared / mask, shared / prediction, classes)
        values = [scores[f"{row.labels}_{row.metric}"] for row in rows.itertuples()]
        np.testing.assert_allclose(values, rows["value"], rtol=0, atol=1e-9, err_msg=f"{mask} {prediction}")


def labels_of(text: str) -> list[int]:
    return list(range(1, 118)) if text == "1..117" else [int(label) for label in text.split()]


def test_volumes_are_in_ml_and_zero_for_a_class_in_neither_mask(tmp_path: Path) -> None:
    mask, prediction = write(tmp_path / "m.nii.gz", (1, 2, 5)), write(tmp_path / "p.nii.gz", (1, 2, 4))
    volumes = score_case(mask, prediction, {"one": scored([1]), "two": scored([2])}).volumes
    assert volumes["one"] == pytest.approx((3 * 4 * 4 * 3 / 1000, 2 * 4 * 4 * 3 / 1000))
    assert volumes["two"] == (0.0, 0.0)


@pytest.mark.parametrize(
    "label, expected",
    [(1, (0.0, DIAGONAL)), (2, (0.0, DIAGONAL)), (3, (1.0, 0.0))],
    ids=["missed", "false positive", "absent"],
)
def test_empty_masks_score_the_best_or_worst_value(tmp_path: Path, label: int, expected: tuple[float, float]) -> None:
    mask, prediction = write(tmp_path / "m.nii.gz", (1, 2, 5)), write(tmp_path / "p.nii.gz", (2, 2, 5))
    scores = score(mask, prediction, {"C": scored([label])})
    assert (scores["C_dice"], scores["C_haus95"]) == pytest.approx(expected)


def test_a_class_in_neither_mask_scores_nan_on_request(tmp_path: Path) -> None:
    mask = write(tmp_path / "m.nii.gz", (1, 2, 5))
    case = score_case(mask, mask, {"C": scored([3]), "D": scored([1], {"dice": {}})}, absent="nan")
    assert math.isnan(case.scores["C_dice"])
    assert math.isnan(case.scores["C_haus95"])
    assert (case.scores["D_dice"], case.absent_classes) == (1.0, ("C",))


@pytest.mark.parametrize(
    "label, expected", [(1, [0.0, 0.0, 48 * 3 / 1000, 100.0]), (2, [0.0, 0.0, 48 * 3 / 1000, 100.0]), (3, [1, 1, 0, 0])]
)
def test_each_unit_has_a_value_for_empty_masks(tmp_path: Path, label: int, expected: list[float]) -> None:
    metrics = {name: {} for name in ("precision", "recall", "volume_difference", "relative_volume_difference")}
    mask, prediction = write(tmp_path / "m.nii.gz", (1, 2, 5)), write(tmp_path / "p.nii.gz", (2, 2, 5))
    scores = score(mask, prediction, {"C": scored([label], metrics)})
    assert list(scores.values()) == pytest.approx(expected)


def test_the_diagonal_of_the_whole_image_is_the_penalty_of_a_lesion(tmp_path: Path) -> None:
    mask, prediction = write(tmp_path / "m.nii.gz", (1, 1, 3)), write(tmp_path / "p.nii.gz", (1, 7, 9))
    classes = {"C": scored([1], {"lesion_wise_haus95": {}, "lesion_wise_dice": {}})}
    assert score(mask, prediction, classes) == pytest.approx(
        {"C_lesion_wise_haus95": DIAGONAL, "C_lesion_wise_dice": 0}
    )


def test_lesions_are_listed_once_per_set_of_rules(tmp_path: Path) -> None:
    mask, prediction = write(tmp_path / "m.nii.gz", (1, 1, 3)), write(tmp_path / "p.nii.gz", (1, 2, 4))
    metrics = {"lesion_wise_dice": {}, "lesion_wise_f1": {}, "lesion_wise_surf_dice": {"tolerance": 0}, "dice": {}}
    case = score_case(mask, prediction, {"C": scored([1], metrics), "D": scored([2], metrics)})
    assert [(row.class_name, row.metrics) for row in case.lesions] == [
        ("C", "lesion_wise_dice lesion_wise_f1"),
        ("C", "lesion_wise_surf_dice"),
    ]
    assert [(row.status, row.dice, row.surf_dice == 1.0) for row in case.lesions] == [
        ("TP", 0.5, True),
        ("TP", 0.5, False),
    ]


def test_a_class_is_the_union_of_its_labels(tmp_path: Path) -> None:
    mask = write(tmp_path / "m.nii.gz", (1, 2, 4), (2, 4, 6))
    prediction = write(tmp_path / "p.nii.gz", (2, 2, 4), (1, 4, 6))
    scores = score(mask, prediction, {"whole": scored([1, 2, 300]), "one": scored([1], {"dice": {}})})
    assert scores == {"whole_dice": 1.0, "whole_haus95": 0.0, "one_dice": 0.0}


def test_a_different_grid_is_refused(tmp_path: Path) -> None:
    other = Geometry(GRID.size, (1.0, 1.5, 2.5))
    mask, prediction = write(tmp_path / "m.nii.gz"), write(tmp_path / "p.nii.gz", grid=other)
    with refuses("grid-mismatch", ImageError, names="spacing (1, 1.5, 2) and (1, 1.5, 2.5) mm", file=prediction):
        score(mask, prediction, {"C": scored([1])})


def test_an_origin_that_differs_by_rounding_is_the_same_grid(tmp_path: Path) -> None:
    other = Geometry(GRID.size, GRID.spacing, (6e-4, 0.0, 0.0))
    mask, prediction = write(tmp_path / "m.nii.gz", (1, 2, 4)), write(tmp_path / "p.nii.gz", (1, 2, 4), grid=other)
    assert score(mask, prediction, {"C": scored([1])})["C_dice"] == 1.0


def test_an_unknown_label_is_refused_if_known_ones_are_given(tmp_path: Path) -> None:
    mask, prediction = write(tmp_path / "m.nii.gz", (1, 2, 4)), write(tmp_path / "p.nii.gz", (7, 2, 4))
    with refuses("unknown-label", ImageError, file=prediction, found=[7], expected=[0, 1]):
        score(mask, prediction, {"C": scored([1])}, known=[1])


def test_unknown_labels_are_found_outside_all_classes(tmp_path: Path) -> None:
    mask, stray = write(tmp_path / "m.nii.gz", (1, 2, 4)), write(tmp_path / "p.nii.gz", (1, 2, 4), (9, 9, 10))
    assert score(mask, stray, {"C": scored([1], {"dice": {}})}) == {"C_dice": 1.0}
    with refuses("unknown-label", ImageError, file=stray, found=[9]):
        score(mask, stray, {"C": scored([1])}, known=(1, 2))


@pytest.mark.parametrize(
    "entry, names",
    [
        (scored([1], {"surf_dice": {"tolerance": -1.0}}), "'tolerance'"),
        (scored([1], {"lesion_wise_f1": {"dilation_iters": 2.5}}), "'dilation_iters'"),
        (scored([1], {"lesion_wise_f1": {"protocol": "brats"}}), "'protocol'"),
        (scored([1], {"lesion_wise_dice": {"min_volume": 5}}), "'min_lesion_volume'"),
        (scored([1], {"cldice": {"tolerance": 1.0}}), "metric 'cldice'"),
        (scored([1], {"dice": {"tolerence": 2}}), "'tolerence'"),
        (scored([1, 9]), "0, 1, 2, not 9"),
    ],
)
def test_mistakes_in_the_classes_are_named(entry: EvaluationClass, names: str) -> None:
    with refuses("evaluation-invalid", ConfigError, names=names, field="evaluation") as caught:
        check_classes({"WT": entry}, labels=[0, 1, 2])
    assert "class 'WT'" in caught.value.message


def test_unknown_metrics_are_reported_at_once_with_the_nearest_name() -> None:
    with refuses("unknown-metric", ConfigError, names="Did you mean 'haus95'?", found=["dyce", "haus59"]):
        check_classes({"A": scored([1], {"dyce": {}}), "B": scored([1], {"haus59": {}})})


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
    "params, names",
    [
        ({"tolerence": 2.0}, "Did you mean 'tolerance'?"),
        ({"tolerance": None}, "'tolerance'"),
        ({"iterations": "3"}, "'iterations'"),
    ],
)
def test_parameters_are_checked_by_name_and_type(tolerant: str, params: dict[str, object], names: str) -> None:
    with refuses("evaluation-invalid", ConfigError, names=names):
        check_classes({"C": scored([1], {tolerant: params})})


def test_parameters_are_passed_to_the_metric_and_its_value_must_be_finite(tmp_path: Path, tolerant: str) -> None:
    mask = write(tmp_path / "m.nii.gz", (1, 2, 4))
    assert score(mask, mask, {"C": scored([1], {tolerant: {"tolerance": 2, "iterations": 4}})}) == {"C_tolerant": 8.0}
    with refuses("score-not-finite", MistError, field="C_tolerant"):
        score(mask, mask, {"C": scored([1], {tolerant: {"tolerance": 0.0}})})


def test_two_classes_that_share_a_column_are_refused(tolerant: str) -> None:
    METRICS.register("x_tolerant")(METRICS[tolerant])
    try:
        with refuses("evaluation-invalid", ConfigError, names="'C_x_tolerant'"):
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
    "content, code, field",
    [
        ({"WT": {"labels": [], "metrics": {}}}, "value-invalid", "evaluation.WT.labels"),
        ({"WT": {"labels": [0], "metrics": {}}}, "value-invalid", "evaluation.WT.labels.0"),
        ({"WT": {"labels": [1, True], "metrics": {}}}, "value-invalid", "evaluation.WT.labels.1"),
        ({"WT": {"labels": ["1"], "metrics": {}}}, "value-invalid", "evaluation.WT.labels.0"),
        ({"WT": {"labels": [1.5], "metrics": {}}}, "value-invalid", "evaluation.WT.labels.0"),
        ({"WT": {"labels": [1], "metrics": {"dice": None}}}, "value-invalid", "evaluation.WT.metrics.dice"),
        ({"WT": {"labels": [1], "metrics": {}, "metric": {}}}, "unknown-key", "evaluation.WT.metric"),
        ([], "value-invalid", None),
    ],
)
def test_an_invalid_configuration_is_refused(tmp_path: Path, content: object, code: str, field: str | None) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(content))
    with refuses(code, ConfigError, file=path, field=field):
        read_classes(path)


def test_a_missing_configuration_or_one_without_metrics_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    with refuses("config-missing", ConfigError, file=path, field="--config"):
        read_classes(path)
    path.write_text("{}")
    with refuses("evaluation-invalid", ConfigError, file=path):
        read_classes(path)


def test_labels_of_the_dataset_are_known_too(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    info = {"task": "t", "modality": "mr", "images": ["t1"], "labels": [0, 1, 2, 4]}
    classes = {"C": {"labels": [4, 1], "metrics": {"dice": {}}}}
    path.write_text(json.dumps({"evaluation": classes, "dataset_info": info}))
    assert read_evaluation(path).known == (1, 2, 4)
    path.write_text(json.dumps(classes))
    assert read_evaluation(path).known == (1, 4)
