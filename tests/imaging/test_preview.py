"""Thinned images keep values, data type and place."""

from __future__ import annotations

import math
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mist_ops.errors import ImageError
from mist_ops.imaging.preview import preview, strides

AFFINE = np.array([[0, -1.5, 0, 30], [0.8, 0, 0, -20], [0, 0, 3.0, 5], [0, 0, 0, 1.0]])


@pytest.mark.parametrize(
    "size, spacing, most, expected",
    [
        ((512, 512, 400), (0.8, 0.8, 1.0), 2**27, (1, 1, 1)),
        ((512, 512, 400), (0.8, 0.8, 1.0), 2**25, (2, 2, 1)),
        ((512, 512, 60), (0.5, 0.5, 5.0), 2**22, (2, 2, 1)),
        ((1, 1, 900), (1.0, 1.0, 1.0), 100, (1, 1, 9)),
    ],
)
def test_the_finest_axes_are_thinned_first(
    size: tuple[int, int, int], spacing: tuple[float, float, float], most: int, expected: tuple[int, int, int]
) -> None:
    assert strides(size, spacing, most) == expected


@given(st.tuples(*[st.integers(1, 700)] * 3), st.tuples(*[st.floats(0.1, 9.0)] * 3), st.integers(1, 10**6))
def test_never_more_voxels_are_left_than_asked_for(
    size: tuple[int, int, int], spacing: tuple[float, float, float], most: int
) -> None:
    assert math.prod(-(-n // step) for n, step in zip(size, strides(size, spacing, most), strict=True)) <= most


@pytest.mark.parametrize("name", ["scan.nii", "scan.nii.gz"])
def test_each_voxel_kept_has_its_value_and_its_place(tmp_path: Path, name: str) -> None:
    stored = np.random.default_rng(0).integers(-900, 900, (21, 16, 9), dtype=np.int16)
    image = nib.Nifti1Image(stored, AFFINE)
    image.header.set_slope_inter(0.5, 7)
    nib.save(image, tmp_path / name)
    small = nib.Nifti1Image.from_bytes(preview(tmp_path / name, 510))
    assert small.shape == (7, 8, 9)
    np.testing.assert_array_equal(small.get_fdata(), nib.load(tmp_path / name).get_fdata()[::3, ::2])
    assert small.get_data_dtype() == np.int16
    np.testing.assert_allclose(small.affine @ (4, 5, 6, 1), AFFINE @ (12, 10, 6, 1))


def test_a_file_that_is_cut_off_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "scan.nii"
    nib.save(nib.Nifti1Image(np.zeros((9, 9, 9), dtype=np.int16), AFFINE), path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ImageError):
        preview(path, 100)
