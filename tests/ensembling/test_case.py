from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from expect import refuses
from imaging.headers import SIZE, itk_grid, stored, written_by_itk

from mist_ops.ensembling.case import Predictions, check_backend, combine_labels, combine_probabilities, find_predictions
from mist_ops.ensembling.probabilities import mean
from mist_ops.errors import CaseError, ConfigError, DatasetError
from mist_ops.imaging.geometry import Geometry
from mist_ops.imaging.nifti import read_labels, write_labels
from mist_ops.imaging.vectors import write_vectors

GRID = Geometry((4, 3, 2), (1.0, 1.5, 2.0), (5.0, 6.0, 7.0))


def folders(tmp_path: Path, *cases: dict[str, int], grids: tuple[Geometry, ...] = (GRID, GRID, GRID)) -> list[Path]:
    """A folder for each rater, with masks filled with one label."""
    made = []
    for index, (rater, grid) in enumerate(zip(cases, grids, strict=False)):
        folder = tmp_path / f"rater_{index}"
        folder.mkdir()
        for case_id, label in rater.items():
            write_labels(folder / f"{case_id}.nii.gz", np.full(grid.size, label, dtype=np.uint16), grid)
        made.append(folder)
    return made


def test_patients_are_matched_by_id_and_combined_on_their_grid(tmp_path: Path) -> None:
    paired = find_predictions(folders(tmp_path, {"b": 1, "007": 2}, {"007": 2, "b": 300}, {"007": 1, "b": 300}))
    assert [predictions.id for predictions in paired] == ["007", "b"]
    for predictions in paired:
        combine_labels(predictions, "majority_vote", tmp_path / "out")
    labels, grid = read_labels(tmp_path / "out" / "b.nii.gz")
    assert (labels == 300).all()
    assert not grid.differences(GRID)


def test_folders_with_different_patients_are_refused(tmp_path: Path) -> None:
    one, two = folders(tmp_path, {"a": 1, "b": 1}, {"c": 1})
    with refuses("patients-differ", DatasetError, found={one: ["c"], two: ["a", "b"]}):
        find_predictions([one, two])


def test_an_empty_missing_or_repeated_folder_is_refused(tmp_path: Path) -> None:
    one, empty = folders(tmp_path, {"a": 1}, {})
    others = ((empty, "folder-empty"), (tmp_path / "none", "folder-missing"), (one, "too-few-inputs"))
    for other, code in others:
        with refuses(code, DatasetError, names=str(other)):
            find_predictions([one, other])


def test_a_patient_with_different_grids_fails_and_its_old_mask_stays(tmp_path: Path) -> None:
    other = Geometry(GRID.size, GRID.spacing, (5.0, 6.0, 9.0))
    [predictions] = find_predictions(folders(tmp_path, {"a": 1}, {"a": 1}, grids=(GRID, other)))
    old = tmp_path / "out" / "a.nii.gz"
    write_labels(old, np.zeros(GRID.size, dtype=np.uint8), GRID)
    before = old.read_bytes()
    with refuses("grid-mismatch", CaseError, case="a", file=predictions.files[1], names="origin"):
        combine_labels(predictions, "staple", tmp_path / "out")
    assert old.read_bytes() == before


def test_an_output_that_is_an_input_is_refused(tmp_path: Path) -> None:
    made = folders(tmp_path, {"a": 1}, {"a": 1})
    [predictions] = find_predictions(made)
    with refuses("output-is-input", CaseError, case="a", file=made[1] / "a.nii.gz"):
        combine_labels(predictions, "staple", made[1])
    assert (made[1] / "a.nii.gz").exists()


def probabilities(tmp_path: Path, *values: tuple[float, ...]) -> list[Path]:
    """A folder for each model, with one patient and constant probabilities."""
    made = []
    for index, classes in enumerate(values):
        volumes = np.broadcast_to(np.array(classes, dtype=np.float32)[:, None, None, None], (len(classes), *GRID.size))
        write_vectors(tmp_path / f"model_{index}" / "a.nii.gz", volumes.copy(), GRID)
        made.append(tmp_path / f"model_{index}")
    return made


@pytest.mark.parametrize(
    "models, label",
    [
        ([(0.5, 0.25, 0.25), (0.25, 0.5, 0.25), (0.0, 0.25, 0.75)], 4),
        ([(0.0, 0.5, 0.5), (0.0, 0.5, 0.5)], 1),
    ],
    ids=["highest mean", "first of a tie"],
)
def test_the_label_is_that_of_the_class_with_the_highest_mean_probability(
    tmp_path: Path, models: list[tuple[float, ...]], label: int
) -> None:
    [predictions] = find_predictions(probabilities(tmp_path, *models))
    combine_probabilities(predictions, "mean", tmp_path / "out", [0, 1, 4])
    labels, grid = read_labels(tmp_path / "out" / "a.nii.gz")
    assert (labels == label).all()
    assert not grid.differences(GRID)


def test_another_number_of_classes_is_refused(tmp_path: Path) -> None:
    [predictions] = find_predictions(probabilities(tmp_path, (0.5, 0.5), (0.5, 0.5)))
    with refuses("classes-mismatch", CaseError, case="a", found=2, expected=3):
        combine_probabilities(predictions, "mean", tmp_path / "out", [0, 1, 2])


def test_an_unknown_backend_is_refused_with_a_guess() -> None:
    with refuses("unknown-ensemble-backend", ConfigError, names="Did you mean 'staple'?", found="stapel"):
        check_backend(True, "stapel")
    with refuses("unknown-probability-ensemble-backend", ConfigError, found="median"):
        check_backend(False, "median")


def test_the_mean_is_computed_in_double_precision() -> None:
    thirds = [np.full((1, 1, 1), value, dtype=np.float32) for value in (1e8, 1.0, -1e8)]
    assert mean(thirds)[0, 0, 0] == np.float32(1 / 3)


def test_masks_on_one_grid_by_another_form_are_combined_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    mask = np.zeros(SIZE, dtype=np.uint8)
    mask[1:3, 1:3, 1] = 1
    moved = np.eye(4)
    moved[0, 3] = 20.0
    first = stored(tmp_path / "a.nii", mask, np.eye(4), moved, (2, 1))
    second = written_by_itk(first, tmp_path / "b.nii", mask)
    combine_labels(Predictions("p", (first, second)), "majority_vote", tmp_path / "out")
    assert "on the same grid only by a form" in caplog.text
    np.testing.assert_array_equal(read_labels(tmp_path / "out" / "p.nii.gz")[0], mask)
    np.testing.assert_array_equal(itk_grid(tmp_path / "out" / "p.nii.gz"), itk_grid(first))
    other = stored(tmp_path / "c.nii", mask, 2 * moved, 2 * moved, (1, 1))
    with refuses("grid-mismatch", CaseError):
        combine_labels(Predictions("p", (first, other)), "majority_vote", tmp_path / "out")
