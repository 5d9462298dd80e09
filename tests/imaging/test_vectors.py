from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from expect import refuses

from mist_ops.errors import ImageError
from mist_ops.imaging.geometry import Geometry
from mist_ops.imaging.nifti import write_image
from mist_ops.imaging.vectors import read_values, read_vector_grid, write_vectors

GRID = Geometry((4, 3, 2), (1.0, 1.5, 2.0), (5.0, 6.0, 7.0), (0.0, 1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0))


def vectors() -> np.ndarray:
    return np.random.default_rng(0).random((3, *GRID.size), dtype=np.float32)


@pytest.mark.parametrize("name", ["a.nii.gz", "a.nii"])
def test_vectors_survive_a_round_trip(tmp_path: Path, name: str) -> None:
    made = vectors()
    write_vectors(tmp_path / name, made, GRID)
    values, grid = read_vector_grid(tmp_path / name)
    assert values == 3
    assert not grid.differences(GRID)
    np.testing.assert_array_equal(np.stack(list(read_values(tmp_path / name))), made)


def test_simpleitk_reads_the_same_vectors_and_grid(tmp_path: Path) -> None:
    made = vectors()
    write_vectors(tmp_path / "a.nii.gz", made, GRID)
    image = sitk.ReadImage(tmp_path / "a.nii.gz")
    assert (image.GetSize(), image.GetNumberOfComponentsPerPixel()) == (GRID.size, 3)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image).transpose(3, 2, 1, 0), made)
    np.testing.assert_allclose(image.GetOrigin(), GRID.origin)
    np.testing.assert_allclose(image.GetDirection(), GRID.direction, atol=1e-6)


def test_vectors_written_by_simpleitk_are_read(tmp_path: Path) -> None:
    made = vectors()
    image = sitk.GetImageFromArray(made.transpose(3, 2, 1, 0), isVector=True)
    sitk.WriteImage(image, tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(np.stack(list(read_values(tmp_path / "a.nii.gz"))), made)


def test_a_4d_file_with_a_slope_is_read(tmp_path: Path) -> None:
    stored = nib.Nifti1Image((vectors().transpose(1, 2, 3, 0) * 100).astype(np.int16), np.eye(4))
    stored.header.set_slope_inter(0.01, 0.5)
    nib.save(stored, tmp_path / "a.nii.gz")
    expected = nib.load(tmp_path / "a.nii.gz").get_fdata().transpose(3, 0, 1, 2)
    np.testing.assert_allclose(np.stack(list(read_values(tmp_path / "a.nii.gz"))), expected, atol=1e-6)


def test_one_value_per_voxel_is_refused(tmp_path: Path) -> None:
    write_image(tmp_path / "a.nii.gz", np.zeros(GRID.size, dtype=np.float32), GRID)
    with refuses("not-probabilities", ImageError, file=tmp_path / "a.nii.gz", found=GRID.size):
        read_vector_grid(tmp_path / "a.nii.gz")


def test_infinite_values_are_refused(tmp_path: Path) -> None:
    made = vectors()
    made[1, 0, 0, 0] = np.nan
    write_vectors(tmp_path / "a.nii.gz", made, GRID)
    with refuses("image-not-finite", ImageError, file=tmp_path / "a.nii.gz"):
        list(read_values(tmp_path / "a.nii.gz"))


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    write_vectors(tmp_path / "a.nii.gz", vectors(), GRID)
    (tmp_path / "a.nii.gz").write_bytes((tmp_path / "a.nii.gz").read_bytes()[:-30])
    with refuses("image-unreadable", ImageError, file=tmp_path / "a.nii.gz"):
        list(read_values(tmp_path / "a.nii.gz"))
