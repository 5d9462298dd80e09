from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
import SimpleITK
from expect import refuses
from imaging.headers import itk_grid, nibabel_grid, stored

from mist_ops.errors import ImageError
from mist_ops.imaging.foreign import store_as_nifti
from mist_ops.imaging.nifti import read_geometry, read_image


def oblique(path: Path) -> SimpleITK.Image:
    """Float voxels on a grid rotated by 30 degrees."""
    image = SimpleITK.GetImageFromArray(np.random.default_rng(0).normal(size=(3, 4, 5)))
    image.SetSpacing((0.7, 0.8, 2.5))
    image.SetOrigin((-11.0, 22.0, 33.0))
    turn = np.deg2rad(30)
    image.SetDirection((np.cos(turn), -np.sin(turn), 0, np.sin(turn), np.cos(turn), 0, 0, 0, 1))
    SimpleITK.WriteImage(image, str(path))
    return image


@pytest.mark.parametrize("ending", [".nrrd", ".nhdr", ".mha", ".mhd", ".gipl.gz"])
def test_voxels_and_geometry_survive_a_conversion(tmp_path: Path, ending: str):
    written = oblique(tmp_path / f"image{ending}")
    store_as_nifti(tmp_path / f"image{ending}", tmp_path / "image.nii.gz")
    image, geometry = read_image(tmp_path / "image.nii.gz")
    np.testing.assert_allclose(image, SimpleITK.GetArrayFromImage(written).T, rtol=1e-6)
    stated = SimpleITK.ReadImage(str(tmp_path / f"image{ending}"))  # GIPL holds no direction
    np.testing.assert_allclose(geometry.origin, stated.GetOrigin(), atol=1e-5)
    np.testing.assert_allclose(geometry.direction, stated.GetDirection(), atol=1e-6)
    np.testing.assert_allclose(geometry.spacing, stated.GetSpacing(), rtol=1e-6)


def test_an_uncompressed_file_is_compressed_reproducibly(tmp_path: Path):
    oblique(tmp_path / "image.nii")
    for name in ("first", "second"):
        store_as_nifti(tmp_path / "image.nii", tmp_path / f"{name}.nii.gz")
    packed = (tmp_path / "first.nii.gz").read_bytes()
    assert gzip.decompress(packed) == (tmp_path / "image.nii").read_bytes()
    assert packed == (tmp_path / "second.nii.gz").read_bytes()
    assert read_geometry(tmp_path / "first.nii.gz") == read_geometry(tmp_path / "image.nii")


def test_color_images_are_refused_and_leave_no_file(tmp_path: Path):
    colors = SimpleITK.GetImageFromArray(np.zeros((3, 4, 5, 3), np.uint8), isVector=True)
    SimpleITK.WriteImage(colors, str(tmp_path / "colors.nrrd"))
    with refuses("image-not-3d", ImageError, file=tmp_path / "colors.nrrd", found=(5, 4, 3, 3)):
        store_as_nifti(tmp_path / "colors.nrrd", tmp_path / "out" / "image.nii.gz")
    assert not list((tmp_path / "out").iterdir())


def test_a_header_without_its_voxels_is_a_one_line_message(tmp_path: Path):
    oblique(tmp_path / "image.mhd")
    next(tmp_path.glob("image*raw")).unlink()
    with refuses("image-unreadable", ImageError, file=tmp_path / "image.mhd") as refusal:
        store_as_nifti(tmp_path / "image.mhd", tmp_path / "image.nii.gz")
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("codes", [(0, 0), (2, 1), (1, 2)])
def test_a_pair_of_files_becomes_one_with_both_forms_and_its_slope(tmp_path: Path, codes: tuple[int, int]) -> None:
    voxels = np.arange(60, dtype=np.int16).reshape(5, 4, 3)
    forms = np.diag([-1.0, 2.0, 3.0, 1.0]), np.diag([1.0, 2.0, 3.0, 1.0])
    whole = stored(tmp_path / "whole.nii", voxels, *forms, codes, (0.5, 7.0), xyzt_units=10).read_bytes()
    (tmp_path / "a.hdr").write_bytes(whole[:344] + b"ni1\0" + bytes(4))
    (tmp_path / "a.img").write_bytes(whole[352:])
    header = bytearray((tmp_path / "a.hdr").read_bytes())
    header[108:112] = bytes(4)  # the voxels start at 0
    (tmp_path / "a.hdr").write_bytes(header)
    store_as_nifti(tmp_path / "a.img", tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(read_image(tmp_path / "a.nii.gz")[0], voxels * 0.5 + 7.0)
    np.testing.assert_allclose(itk_grid(tmp_path / "a.nii.gz"), itk_grid(tmp_path / "a.img"), atol=1e-5)
    np.testing.assert_array_equal(nibabel_grid(tmp_path / "a.nii.gz"), nibabel_grid(tmp_path / "a.img"))
