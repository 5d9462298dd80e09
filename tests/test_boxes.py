"""The table of foreground boxes."""

from __future__ import annotations

from pathlib import Path

from expect import refuses

from mist_ops.boxes import read_boxes, write_boxes
from mist_ops.errors import DatasetError
from mist_ops.study import Study
from mist_ops.types import Box

BOXES = {"007": Box((1, 2, 3), (4, 6, 8)), "b": Box((0, 0, 0), (1, 1, 1))}


def test_boxes_survive_a_round_trip_with_ids_as_text(tmp_path: Path) -> None:
    study = Study("study", tmp_path / "numpy", tmp_path)
    write_boxes(study, BOXES, {"007": (9, 9, 9), "b": (1, 2, 3)})
    assert read_boxes(study) == BOXES


def test_the_table_has_inclusive_ends_as_in_the_reference(tmp_path: Path) -> None:
    study = Study("study", tmp_path / "numpy", tmp_path)
    write_boxes(study, BOXES, {"007": (9, 9, 9), "b": (1, 2, 3)})
    assert study.fg_bboxes.read_text().splitlines()[:2] == [
        "x_start,x_end,y_start,y_end,z_start,z_end,x_og_size,y_og_size,z_og_size,id",
        "1,3,2,5,3,7,9,9,9,007",
    ]


def test_an_edge_that_is_not_an_integer_is_refused(tmp_path: Path) -> None:
    study = Study("study", tmp_path / "numpy", tmp_path)
    study.fg_bboxes.write_text("x_start,x_end,y_start,y_end,z_start,z_end,id\n0,1.5,0,1,0,1,a\n")
    with refuses("table-not-integer", DatasetError, file=study.fg_bboxes, found="1.5"):
        read_boxes(study)
