from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from expect import refuses

from mist_ops.config import EvaluationClass
from mist_ops.errors import CaseError, ConfigError, DatasetError
from mist_ops.evaluation.lesions import LesionRow
from mist_ops.evaluation.score import CaseScores
from mist_ops.evaluation.table import (
    Pair,
    check_output,
    evaluate,
    lesions_path,
    read_pairs,
    read_summary,
    results_rows,
    summary_path,
    worst_first,
    write_evaluation,
    write_pairs,
    write_results,
)
from mist_ops.imaging.geometry import Geometry
from mist_ops.imaging.nifti import write_labels
from mist_ops.tables import SUMMARY_ROWS

CLASSES = {"C": EvaluationClass(labels=[1], metrics={"dice": {}})}
ROWS = {case_id: CaseScores({"C_dice": value}) for case_id, value in (("007", 0.5), ("b", 1.0), ("a", 0.75))}


def pairs(folder: Path, ids: list[str]) -> list[Pair]:
    """Pairs of masks; the k-th shares k of four voxels."""
    found = []
    for shared, case_id in enumerate(ids):
        truth = np.zeros((8, 8, 8), dtype=np.uint8)
        truth[0, 0, :4] = 1
        pair = Pair(case_id, folder / f"{case_id}.nii.gz", folder / f"{case_id}_p.nii.gz")
        for path, mask in ((pair.mask, truth), (pair.prediction, np.roll(truth, 4 - shared, axis=2))):
            write_labels(path, mask, Geometry(mask.shape, (1.0, 1.0, 1.0)))
        found.append(pair)
    return found


@pytest.mark.parametrize("workers", [1, 2])
def test_outcomes_are_in_the_order_of_the_pairs(tmp_path: Path, workers: int) -> None:
    outcomes = list(evaluate(pairs(tmp_path, ["z", "007", "a"]), CLASSES, workers))
    found = [(outcome.item.id, outcome.result and outcome.result.scores["C_dice"]) for outcome in outcomes]
    assert found == [("z", 0.0), ("007", 0.25), ("a", 0.5)]


def test_a_case_that_fails_does_not_stop_the_others(tmp_path: Path) -> None:
    first, second = pairs(tmp_path, ["a", "b"])
    first.prediction.unlink()
    failed, scored = evaluate([first, second], CLASSES)
    assert isinstance(failed.error, CaseError)
    assert (failed.error.case, failed.error.code) == ("a", "image-missing")
    assert failed.result is None
    assert scored.result is not None
    assert scored.result.scores == {"C_dice": 0.25}


def test_rows_keep_their_order_and_are_followed_by_five_summary_rows() -> None:
    rows = results_rows(ROWS, ["C_dice"])
    assert [row["id"] for row in rows] == ["007", "b", "a", *SUMMARY_ROWS]
    spread = np.std([0.5, 1.0, 0.75])
    np.testing.assert_allclose([row["C_dice"] for row in rows], [0.5, 1.0, 0.75, 0.75, spread, 0.625, 0.75, 0.875])


def test_a_patient_that_failed_has_an_empty_row_and_is_excluded_from_the_mean(tmp_path: Path) -> None:
    write_results(tmp_path / "results.csv", ROWS, ["C_dice"], order=["b", "x", "a", "007"])
    lines = (tmp_path / "results.csv").read_text().splitlines()
    assert lines[1:6] == ["b,1.0", "x,", "a,0.75", "007,0.5", "Mean,0.75"]


def test_empty_cells_are_excluded_from_the_mean(tmp_path: Path) -> None:
    rows = {**ROWS, "c": CaseScores({"C_dice": math.nan})}
    write_results(tmp_path / "results.csv", rows, ["C_dice"])
    assert read_summary(tmp_path / "results.csv") == {"C_dice": 0.75}
    write_results(tmp_path / "results.csv", {"c": rows["c"]}, ["C_dice"])
    assert math.isnan(read_summary(tmp_path / "results.csv")["C_dice"])


def test_the_lowest_score_is_first_and_nan_last() -> None:
    rows = {"none": CaseScores({"C_dice": math.nan}), **ROWS}
    assert [row["id"] for row in worst_first(rows)] == ["007", "a", "b", "none"]


def test_the_summary_holds_failures_and_the_policy_for_absent_classes(tmp_path: Path) -> None:
    made = [Pair(case_id, Path("m"), Path("p")) for case_id in ("a", "x", "b")]
    rows = {"b": CaseScores({"C_dice": 1.0}), "a": CaseScores({"C_dice": math.nan}, absent_classes=("C",))}
    write_evaluation(tmp_path / "r.csv", made, CLASSES, rows, {"x": "There is no file p."}, absent="nan")
    found = json.loads(summary_path(tmp_path / "r.csv").read_text())
    assert found["patients"] == {"given": 3, "scored": 2, "failed": 1}
    assert found["failures"] == {"x": "There is no file p."}
    assert found["absent_in_both_masks"] == {"policy": "nan", "patients": {"C": ["a"]}}
    assert (found["columns"]["C_dice"]["patients"], found["columns"]["C_dice"]["mean"]) == (1, 1.0)
    assert (tmp_path / "r.csv").read_text().splitlines()[1:4] == ["a,", "x,", "b,1.0"]


def test_lesions_are_written_if_a_class_has_lesion_wise_metrics(tmp_path: Path) -> None:
    classes = {"C": EvaluationClass(labels=[1], metrics={"lesion_wise_f1": {}})}
    row = LesionRow("C", "truth", 1, 12.5, 2, 0.5, 1.0, math.nan, "TP", "lesion_wise_f1")
    rows = {"007": CaseScores({"C_lesion_wise_f1": 1.0}, lesions=(row,))}
    write_evaluation(tmp_path / "r.csv", [Pair("007", Path("m"), Path("p"))], classes, rows, {})
    assert lesions_path(tmp_path / "r.csv").read_text().splitlines() == [
        "id,class,mask,lesion,volume_mm3,matched,dice,haus95,surf_dice,status,metrics",
        "007,C,truth,1,12.5,2,0.5,1.0,,TP,lesion_wise_f1",
    ]


def test_a_table_of_lesions_of_an_earlier_run_is_removed(tmp_path: Path) -> None:
    classes = {"C": EvaluationClass(labels=[1], metrics={"lesion_wise_f1": {}})}
    write_evaluation(tmp_path / "r.csv", [], classes, {}, {})
    assert lesions_path(tmp_path / "r.csv").read_text().startswith("id,class")
    write_evaluation(tmp_path / "r.csv", [], CLASSES, {}, {})
    assert not lesions_path(tmp_path / "r.csv").exists()


def test_a_table_without_rows_has_no_summary(tmp_path: Path) -> None:
    write_results(tmp_path / "results.csv", {}, ["C_dice"])
    assert (tmp_path / "results.csv").read_text() == "id,C_dice\n"


def test_ids_stay_text_in_the_results(tmp_path: Path) -> None:
    write_results(tmp_path / "new" / "results.csv", ROWS, ["C_dice"])
    lines = (tmp_path / "new" / "results.csv").read_text().splitlines()
    assert lines[:3] == ["id,C_dice", "007,0.5", "b,1.0"]
    assert lines[-5].startswith("Mean,0.75")


def test_pairs_are_read_back_as_written(tmp_path: Path) -> None:
    made = [Pair("007", Path("/m.nii.gz"), Path("/p.nii.gz")), Pair("NA", Path("/m2.nii.gz"), Path("/p2.nii.gz"))]
    write_pairs(tmp_path / "paths.csv", made)
    assert list(pd.read_csv(tmp_path / "paths.csv").columns) == ["id", "mask", "prediction"]
    assert read_pairs(tmp_path / "paths.csv") == made


@pytest.mark.parametrize(
    "content, names",
    [
        ("id,mask\na,m.nii.gz\n", "prediction"),
        ("id,mask,prediction\na,m,p\na,m,p\n", "'a'"),
        ("id,mask,prediction\na,m,\n", "row 2, column 'prediction'"),
    ],
)
def test_an_invalid_table_of_pairs_is_refused(tmp_path: Path, content: str, names: str) -> None:
    (tmp_path / "paths.csv").write_text(content)
    with pytest.raises(DatasetError, match=names):
        read_pairs(tmp_path / "paths.csv")


def test_a_table_of_pairs_without_rows_or_with_the_id_of_a_summary_row_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "paths.csv"
    path.write_text("id,mask,prediction\n")
    with refuses("table-empty", DatasetError, file=path):
        read_pairs(path)
    path.write_text("id,mask,prediction\nMean,m,p\n")
    with refuses("id-reserved", DatasetError, file=path, found=["Mean"]):
        read_pairs(path)


@pytest.mark.parametrize(
    "output, code",
    [("in.csv", "output-is-input"), ("folder", "folder-not-file"), ("in.csv/r.csv", "file-not-folder")],
)
def test_an_output_that_cannot_be_written_is_refused(tmp_path: Path, output: str, code: str) -> None:
    (tmp_path / "in.csv").touch()
    (tmp_path / "folder").mkdir()
    with refuses(code, ConfigError):
        check_output(tmp_path / output, [tmp_path / "in.csv"])
