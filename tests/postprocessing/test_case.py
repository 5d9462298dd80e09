from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from expect import refuses

from mist_ops.errors import CaseError, DatasetError
from mist_ops.imaging.geometry import Geometry
from mist_ops.imaging.nifti import read_labels, write_image, write_labels
from mist_ops.postprocessing.case import Prediction, check_output, find_predictions, postprocess_case
from mist_ops.postprocessing.strategy import Step

GRID = Geometry((12, 12, 12), (1.0, 1.5, 2.0), (5.0, 6.0, 7.0))
STRATEGY = (Step("remove_small_objects", (-1,), True, {"small_object_threshold": 5}),)


@pytest.fixture
def prediction(tmp_path: Path) -> Prediction:
    labels = np.zeros(GRID.size, dtype=np.uint16)
    labels[2:5, 2:5, 2:5], labels[8, 8, 8] = 300, 1
    write_labels(tmp_path / "in" / "007.nii.gz", labels, GRID)
    return Prediction("007", tmp_path / "in" / "007.nii.gz")


def test_a_mask_is_changed_on_its_grid_and_changes_are_counted(prediction: Prediction, tmp_path: Path) -> None:
    counts = postprocess_case(prediction, STRATEGY, tmp_path / "out")
    labels, grid = read_labels(tmp_path / "out" / "007.nii.gz")
    assert (counts.before, counts.after, counts.changed) == ({1: 1, 300: 27}, {300: 27}, (1,))
    assert np.unique(labels).tolist() == [0, 300]
    assert not grid.differences(GRID)


def test_a_failure_leaves_the_earlier_mask(prediction: Prediction, tmp_path: Path) -> None:
    postprocess_case(prediction, STRATEGY, tmp_path / "out")
    before = (tmp_path / "out" / "007.nii.gz").read_bytes()
    write_image(prediction.path, np.full(GRID.size, 0.5, dtype=np.float32), GRID)
    with pytest.raises(CaseError, match=r"Case '007'.*labels-not-integer"):
        postprocess_case(prediction, STRATEGY, tmp_path / "out")
    assert [path.read_bytes() for path in (tmp_path / "out").iterdir()] == [before]


def test_predictions_are_listed_by_id_and_a_broken_link_fails_by_name(prediction: Prediction, tmp_path: Path) -> None:
    folder = prediction.path.parent
    (folder / "b.nii.gz").symlink_to("nowhere")
    (folder / ".hidden.nii.gz").touch()
    (folder / "notes.txt").touch()
    found = find_predictions(folder)
    assert [case.id for case in found] == ["007", "b"]
    with refuses("image-missing", CaseError, case="b"):
        postprocess_case(found[1], STRATEGY, tmp_path / "out")


def test_a_folder_without_predictions_or_with_two_of_a_patient_is_refused(
    prediction: Prediction, tmp_path: Path
) -> None:
    for folder, code in ((tmp_path / "none", "folder-missing"), (tmp_path, "folder-empty")):
        with refuses(code, DatasetError, file=folder, field="--base-predictions"):
            find_predictions(folder)
    (prediction.path.parent / "007.nii").touch()
    with refuses("patient-duplicate", DatasetError, found=["007"]):
        find_predictions(prediction.path.parent)


def test_an_output_that_is_the_input_a_file_or_holds_other_masks_is_refused(
    prediction: Prediction, tmp_path: Path
) -> None:
    with refuses("output-is-input", DatasetError, file=prediction.path.parent):
        check_output(prediction.path.parent, [prediction])
    with refuses("output-is-input", CaseError, case="007"):
        postprocess_case(prediction, STRATEGY, prediction.path.parent)
    write_labels(tmp_path / "out" / "old.nii.gz", np.zeros(GRID.size, dtype=np.uint8), GRID)
    with refuses("output-not-empty", DatasetError, found=["old.nii.gz"]):
        check_output(tmp_path / "out", [prediction])
    with refuses("file-not-folder", DatasetError, file=tmp_path / "out" / "old.nii.gz"):
        check_output(tmp_path / "out" / "old.nii.gz", [prediction])
