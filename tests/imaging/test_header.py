"""Headers of scans survive in the files that are written for them, whichever form a program reads."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from imaging.headers import SIZE, affine, itk_grid, nibabel_grid, rotation, stored, written_by_itk

from mist_ops.imaging.geometry import Geometry
from mist_ops.imaging.nifti import read_geometry, read_labels, write_image, write_labels
from mist_ops.imaging.vectors import write_vectors

CODES = list(itertools.product(range(5), range(5)))
OBLIQUE = rotation(np.random.default_rng(3))
FLIPPED = np.diag([-1.0, 1.0, 1.0])
SCANNER = affine(OBLIQUE, (0.7, 1.5, 3.0), (-20.0, 11.0, 5.0))

FORMS = {
    "equal": (SCANNER, SCANNER),
    "qfac -1": (affine(OBLIQUE @ FLIPPED, (0.7, 1.5, 3.0), (1.0, 2.0, 3.0)),) * 2,
    "another origin": (SCANNER, affine(OBLIQUE, (0.7, 1.5, 3.0), (0.0, 0.0, 0.0))),
    "another direction": (affine(np.diag([-1.0, -1.0, 1.0]), (0.7, 1.5, 3.0), (9.0, 8.0, 7.0)), SCANNER),
    "permuted axes": (affine(np.eye(3)[[1, 2, 0]], (0.7, 1.5, 3.0), (9.0, 8.0, 7.0)), SCANNER),
}


@pytest.fixture
def voxels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 4, SIZE).astype(np.uint8)


def assert_same_grid(written: Path, scan: Path) -> None:
    np.testing.assert_allclose(itk_grid(written), itk_grid(scan), atol=1e-5)
    np.testing.assert_array_equal(nibabel_grid(written), nibabel_grid(scan))
    ours, theirs = (nib.load(path).header for path in (written, scan))
    for field in ("sform_code", "qform_code", "xyzt_units", "dim_info"):
        assert ours[field] == theirs[field]


@pytest.mark.parametrize("codes", CODES)
@pytest.mark.parametrize("forms", FORMS)
def test_itk_and_nibabel_find_written_files_on_the_grid_of_the_scan(
    tmp_path: Path, voxels: np.ndarray, forms: str, codes: tuple[int, int]
) -> None:
    scan = stored(tmp_path / "scan.nii.gz", voxels, *FORMS[forms], codes, xyzt_units=10, dim_info=57)
    labels, grid = read_labels(scan)
    write_labels(tmp_path / "mask.nii.gz", labels, grid)
    write_image(tmp_path / "image.nii.gz", labels.astype(np.float32), grid)
    write_vectors(tmp_path / "vectors.nii.gz", np.stack([labels, labels]).astype(np.float32), grid)
    assert_same_grid(tmp_path / "mask.nii.gz", scan)
    assert_same_grid(tmp_path / "image.nii.gz", scan)
    vectors = nib.load(tmp_path / "vectors.nii.gz")
    np.testing.assert_array_equal(vectors.affine, nib.load(scan).affine)
    np.testing.assert_allclose(itk_grid(tmp_path / "vectors.nii.gz"), itk_grid(scan), atol=1e-5)


@pytest.mark.parametrize("codes", CODES)
@pytest.mark.parametrize("forms", FORMS)
def test_a_mask_that_itk_wrote_for_a_scan_is_on_its_grid(
    tmp_path: Path, voxels: np.ndarray, forms: str, codes: tuple[int, int]
) -> None:
    scan = stored(tmp_path / "scan.nii.gz", voxels, *FORMS[forms], codes, xyzt_units=10)
    mask = read_geometry(written_by_itk(scan, tmp_path / "mask.nii.gz", voxels))
    grid = read_geometry(scan)
    assert grid.differences(mask) == mask.differences(grid) == []
    itk_reads_another = not np.allclose(grid.lps_affine, itk_grid(scan)[:4], atol=1e-2)
    assert (grid.shared_forms(mask) is not None) == itk_reads_another
    moved = replace(mask, origin=(500.0, 0.0, 0.0), header=None)
    assert "origin" in " ".join(grid.differences(moved))


@pytest.mark.parametrize("units, factor", [(0, 1.0), (1, 1e-3), (2, 1.0), (3, 1e3), (4, 1.0)])
@pytest.mark.parametrize("time", [0, 8, 16, 24])
@pytest.mark.parametrize("codes", [(0, 0), (0, 1), (1, 0), (1, 1), (2, 1)])
def test_units_of_length_do_not_change_the_grid(
    tmp_path: Path, voxels: np.ndarray, codes: tuple[int, int], time: int, units: int, factor: float
) -> None:
    scale = np.diag([factor, factor, factor, 1.0])
    scan = stored(tmp_path / "a.nii", voxels, scale @ SCANNER, scale @ SCANNER, codes, xyzt_units=units + time)
    reference = read_geometry(stored(tmp_path / "mm.nii", voxels, SCANNER, SCANNER, codes, xyzt_units=2))
    labels, grid = read_labels(scan)
    assert grid.spacing == pytest.approx((0.7, 1.5, 3.0), rel=1e-6)
    np.testing.assert_allclose(grid.lps_affine, reference.lps_affine, atol=1e-4)
    np.testing.assert_allclose(itk_grid(scan)[:3, :3], itk_grid(tmp_path / "mm.nii")[:3, :3], atol=1e-4)
    write_labels(tmp_path / "mask.nii.gz", labels, grid)
    assert_same_grid(tmp_path / "mask.nii.gz", scan)


@pytest.mark.parametrize("kind", [nib.AnalyzeImage, nib.Nifti1Pair])
def test_masks_of_a_pair_of_files_are_on_its_grid(tmp_path: Path, voxels: np.ndarray, kind: type) -> None:
    nib.save(kind(voxels, np.diag([-2.0, 3.0, 4.0, 1.0])), tmp_path / "scan.img")
    labels, grid = read_labels(tmp_path / "scan.img")
    write_labels(tmp_path / "mask.nii.gz", labels, grid)
    np.testing.assert_allclose(itk_grid(tmp_path / "mask.nii.gz"), itk_grid(tmp_path / "scan.img"), atol=1e-5)
    np.testing.assert_allclose(nibabel_grid(tmp_path / "mask.nii.gz"), nibabel_grid(tmp_path / "scan.img"), atol=1e-5)


def test_an_axis_too_long_for_nifti_1_is_written_as_nifti_2(tmp_path: Path) -> None:
    voxels = np.zeros((40000, 2, 1), dtype=np.uint8)
    voxels[39999, 1, 0] = 3
    write_labels(tmp_path / "long.nii.gz", voxels, Geometry(voxels.shape, (0.01, 1.0, 2.0), (1.0, 2.0, 3.0)))
    found, grid = read_labels(tmp_path / "long.nii.gz")
    assert found[39999, 1, 0] == 3
    write_labels(tmp_path / "again.nii.gz", found, grid)
    np.testing.assert_array_equal(nibabel_grid(tmp_path / "again.nii.gz"), nibabel_grid(tmp_path / "long.nii.gz"))


def test_a_grid_that_was_derived_from_a_file_is_not_written_with_its_header(tmp_path: Path, voxels: np.ndarray) -> None:
    grid = read_geometry(stored(tmp_path / "a.nii", voxels, SCANNER, SCANNER, (1, 1)))
    moved = replace(grid, origin=(1.0, 2.0, 3.0))
    write_labels(tmp_path / "b.nii", voxels, moved)
    assert read_geometry(tmp_path / "b.nii").origin == pytest.approx((1.0, 2.0, 3.0))
    assert grid.resampled((1.0, 1.0, 1.0)).header is None


def test_two_real_mismatches_are_not_taken_for_forms_of_one_grid() -> None:
    first, second = Geometry(SIZE, (1.0, 1.0, 1.0)), Geometry(SIZE, (1.0, 1.0, 2.0))
    assert first.differences(second) == ["spacing (1, 1, 1) and (1, 1, 2) mm"]
