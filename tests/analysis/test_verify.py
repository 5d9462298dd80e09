from __future__ import annotations

import pickle
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from mist_ops.analysis.verify import Problem, UnusableCase, leaks, read, repeated_images, verify
from mist_ops.dataset import Case, DatasetDescription

DESCRIPTION = DatasetDescription.model_validate(
    {
        "task": "t",
        "modality": "mr",
        "train-data": "x",
        "mask": ["mask"],
        "images": {"t1": ["t1"], "t2": ["t2"]},
        "labels": [0, 1, 2],
    }
)
IMAGE = np.random.default_rng(0).normal(size=(6, 7, 8)).astype(np.float32)
MASK = np.zeros((6, 7, 8), dtype=np.uint8)
MASK[2:4, 2:4, 2:4] = 1


def write(path: Path, array: np.ndarray, affine: np.ndarray | None = None) -> None:
    nib.save(nib.Nifti1Image(array, np.eye(4) if affine is None else affine), path)


@pytest.fixture
def case(tmp_path: Path) -> Case:
    for name, array in (("t1", IMAGE), ("t2", IMAGE + 1), ("mask", MASK)):
        write(tmp_path / f"{name}.nii.gz", array)
    images = {name: tmp_path / f"{name}.nii.gz" for name in ("t1", "t2")}
    return Case("a", images, tmp_path / "mask.nii.gz")


def test_a_sound_case_has_no_problems(case: Case):
    assert verify(case, DESCRIPTION) == []


def test_a_missing_and_a_damaged_file_are_both_named(case: Case):
    case.images["t1"].unlink()
    case.images["t2"].write_bytes(b"no image")
    first, second = verify(case, DESCRIPTION)
    assert "t1.nii.gz" in first
    assert "t2.nii.gz" in second


def test_files_on_different_grids_are_told_with_what_differs(case: Case):
    write(case.images["t2"], IMAGE, np.diag([1.0, 1.0, 3.0, 1.0]))
    (problem,) = verify(case, DESCRIPTION)
    assert problem.startswith("the mask and t2 differ: spacing (1, 1, 1) and (1, 1, 3)")
    with pytest.raises(UnusableCase):
        read(case, DESCRIPTION, thorough=False)


@pytest.mark.parametrize(
    "mask, words",
    [
        (MASK * 3, r"the mask holds labels \[3\], but 'labels' lists \[0, 1, 2\]"),
        (MASK * np.float32(0.4), "holds the value 0.4"),
        (MASK * 0, "background alone"),
        (np.stack([MASK, MASK], axis=-1), "three dimensions"),
        (MASK.astype(np.int16) * -1, "between 0 and"),
    ],
)
def test_a_mask_that_cannot_be_used_is_refused_in_words(case: Case, mask: np.ndarray, words: str):
    write(case.mask, mask)  # type: ignore[arg-type]
    with pytest.raises(UnusableCase, match=words):
        read(case, DESCRIPTION, thorough=True)


def test_all_channels_are_looked_through_for_voxels_that_are_not_finite_or_never_change(case: Case):
    write(case.images["t1"], np.where(IMAGE > 2, np.nan, IMAGE))
    write(case.images["t2"], np.full_like(IMAGE, 5))
    not_finite, constant = verify(case, DESCRIPTION)
    assert "NaN" in not_finite
    assert constant == "t2.nii.gz holds 5 in every voxel."


def test_an_empty_mask_is_no_fault_unless_asked_for(case: Case):
    write(case.mask, MASK * 0)  # type: ignore[arg-type]
    assert read(case, DESCRIPTION, thorough=False).labels == {0: 336}


def test_a_case_without_a_mask_is_refused(case: Case):
    assert verify(Case("a", case.images), DESCRIPTION) == ["it has no mask, which a training case needs."]


def test_the_reasons_survive_the_way_back_from_a_worker():
    error = pickle.loads(pickle.dumps(UnusableCase("a", [Problem("one.", "one_grid"), Problem("two.", "readable")])))
    assert error.problems == ["one.", "two."]
    assert str(error) == "Case 'a': \n  - one.\n  - two."


def test_cases_with_the_same_image_are_named_together():
    assert repeated_images({"a": "1", "b": "2"}) == []
    (problem,) = repeated_images({"a": "1", "b": "2", "c": "1"})
    assert problem.startswith("The cases a, c have the same image.")


def test_the_same_image_leaks_from_fold_to_fold_and_not_within_one() -> None:
    contents = {"a": "1", "b": "2", "c": "1", "gone": "1"}
    assert leaks(contents, {"a": 0, "b": 1, "c": 0}) == []
    (problem,) = leaks(contents, {"a": 0, "b": 1, "c": 1})
    assert problem.startswith("The cases a (fold 0), c (fold 1) have the same image")
