from __future__ import annotations

import pickle
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from expect import refuses

from mist_ops.analysis.verify import Problem, UnusableCase, leaks, read, repeated_images, verify
from mist_ops.dataset import Case, DatasetDescription
from mist_ops.errors import ImageError

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


def codes(problems: list[Problem]) -> list[str]:
    return [problem.error.code for problem in problems]


def test_a_valid_case_has_no_problems(case: Case):
    assert verify(case, DESCRIPTION) == []


def test_a_missing_and_a_corrupted_file_are_both_listed(case: Case):
    case.images["t1"].unlink()
    case.images["t2"].write_bytes(b"no image")
    found = verify(case, DESCRIPTION)
    assert codes(found) == ["image-missing", "image-unreadable"]
    assert [problem.error.file for problem in found] == list(case.images.values())


def test_files_on_different_grids_are_refused_with_the_differences(case: Case):
    write(case.images["t2"], IMAGE, np.diag([1.0, 1.0, 3.0, 1.0]))
    with refuses("grid-mismatch", UnusableCase, names="the mask and t2", found=["spacing (1, 1, 1) and (1, 1, 3) mm"]):
        read(case, DESCRIPTION, thorough=False)


@pytest.mark.parametrize(
    "mask, code",
    [
        (MASK * 3, "unknown-label"),
        (MASK * np.float32(0.4), "labels-not-integer"),
        (MASK * 0, "mask-empty"),
        (np.stack([MASK, MASK], axis=-1), "image-not-3d"),
        (MASK.astype(np.int16) * -1, "labels-out-of-range"),
    ],
)
def test_an_invalid_mask_is_refused(case: Case, mask: np.ndarray, code: str):
    write(case.mask, mask)  # type: ignore[arg-type]
    with refuses(code, UnusableCase, case="a"):
        read(case, DESCRIPTION, thorough=True)


def test_all_channels_are_checked_for_nan_and_constant_voxels(case: Case):
    write(case.images["t1"], np.where(IMAGE > 2, np.nan, IMAGE))
    write(case.images["t2"], np.full_like(IMAGE, 5))
    found = verify(case, DESCRIPTION)
    assert codes(found) == ["image-not-finite", "image-constant"]
    assert found[1].error.found == 5.0


def test_an_empty_mask_is_accepted_unless_checked(case: Case):
    write(case.mask, MASK * 0)  # type: ignore[arg-type]
    assert read(case, DESCRIPTION, thorough=False).labels == {0: 336}


def test_a_case_without_a_mask_is_refused(case: Case):
    (problem,) = verify(Case("a", case.images), DESCRIPTION)
    assert (problem.gate, problem.error.code) == ("readable", "mask-missing")


def test_several_problems_are_listed_and_can_be_pickled():
    one, two = ImageError("one.", code="grid-mismatch"), ImageError("two.", code="image-constant")
    error = UnusableCase("a", [Problem("one_grid", one), Problem("readable", two)])
    copy = pickle.loads(pickle.dumps(error))
    assert codes(copy.problems) == ["grid-mismatch", "image-constant"]
    assert copy.message == "Case 'a': \n  - one.\n  - two."
    assert (copy.code, copy.case) == ("grid-mismatch", "a")


def test_cases_with_the_same_image_are_listed_together():
    assert repeated_images({"a": "1", "b": "2"}) == []
    (problem,) = repeated_images({"a": "1", "b": "2", "c": "1"})
    assert problem.startswith("The cases a, c ")


def test_the_same_image_is_a_leak_between_folds_only() -> None:
    contents = {"a": "1", "b": "2", "c": "1", "gone": "1"}
    assert leaks(contents, {"a": 0, "b": 1, "c": 0}) == []
    (problem,) = leaks(contents, {"a": 0, "b": 1, "c": 1})
    assert problem.startswith("The cases a (fold 0), c (fold 1) ")
