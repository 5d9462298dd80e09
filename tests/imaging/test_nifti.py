"""Valid and invalid NIfTI files."""

from __future__ import annotations

import gzip
import struct
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from logging.config import dictConfig
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK
from expect import refuses
from imaging.headers import SIZE, stored

from mist_ops.errors import ImageError
from mist_ops.imaging.geometry import Geometry
from mist_ops.imaging.nifti import read_geometry, read_image, read_labels, write_image, write_labels
from mist_ops.types import Box

GRID = Geometry((3, 4, 5), (0.5, 1.0, 2.5), (7.0, -8.0, 9.0), (0.0, 1.0, 0.0, -1.0, 0.0, 0.0, 0.0, 0.0, 1.0))


@contextmanager
def peak_of(most: int) -> Iterator[None]:
    """Fail if more than ``most`` bytes are allocated at the same time."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < most
    finally:
        tracemalloc.stop()


def saved(folder: Path, array: np.ndarray, affine: np.ndarray | None = None) -> Path:
    path = folder / "scan.nii.gz"
    nib.save(nib.Nifti1Image(array, np.eye(4) if affine is None else affine), path)
    return path


def test_an_image_survives_a_round_trip_with_its_grid(tmp_path: Path) -> None:
    image = np.random.default_rng(0).normal(size=GRID.size).astype(np.float32)
    write_image(tmp_path / "a.nii.gz", image, GRID)
    found, grid = read_image(tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(found, image)
    assert grid.differences(GRID) == []
    assert read_geometry(tmp_path / "a.nii.gz") == grid
    assert grid.spacing == GRID.spacing


@pytest.mark.parametrize("highest, dtype", [(255, np.uint8), (256, np.uint16)])
def test_labels_are_written_as_the_smallest_integers(tmp_path: Path, highest: int, dtype: type) -> None:
    labels = np.zeros(GRID.size, dtype=np.int64)
    labels[1, 2, 3] = highest
    write_labels(tmp_path / "a.nii.gz", labels, GRID)
    found, _ = read_labels(tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(found, labels)
    assert found.dtype == dtype


def test_a_replaced_file_is_read_again(tmp_path: Path) -> None:
    for spacing in (1.0, 2.0):
        saved(tmp_path, np.full((4, 5, 6), spacing, dtype=np.float32), np.diag([spacing, spacing, spacing, 1.0]))
        image, geometry = read_image(tmp_path / "scan.nii.gz")
        assert geometry.spacing == read_geometry(tmp_path / "scan.nii.gz").spacing == (spacing,) * 3
        assert (image == spacing).all()


def test_slope_and_intercept_are_applied(tmp_path: Path) -> None:
    image = nib.Nifti1Image(np.ones((2, 2, 2), np.int16), np.eye(4))
    image.header.set_slope_inter(2.0, -1000.0)
    nib.save(image, tmp_path / "a.nii")
    assert read_image(tmp_path / "a.nii")[0].max() == -998.0


def test_labels_stored_as_floats_are_labels(tmp_path: Path) -> None:
    found, _ = read_labels(saved(tmp_path, np.full((2, 2, 2), 4.0, np.float32)))
    assert found.dtype == np.uint8
    assert (found == 4).all()


def test_a_fourth_axis_of_size_one_is_dropped(tmp_path: Path) -> None:
    assert read_image(saved(tmp_path, np.zeros((2, 3, 4, 1), np.float32)))[0].shape == (2, 3, 4)


@pytest.mark.parametrize("shape", [(4, 4), (4, 4, 4, 2)])
def test_images_that_are_not_3d_are_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    path = saved(tmp_path, np.zeros(shape, np.float32))
    with refuses("image-not-3d", ImageError, file=path, found=shape):
        read_geometry(path)


def test_an_impossible_size_is_refused_before_voxels_are_read(tmp_path: Path) -> None:
    image = nib.Nifti1Image(np.zeros((2, 2, 2), np.uint8), np.eye(4))
    image.header["dim"][1:4] = 30000
    (tmp_path / "a.nii").write_bytes(image.header.binaryblock + bytes(12))
    with refuses("image-size", ImageError, found=(30000, 30000, 30000)):
        read_image(tmp_path / "a.nii")


def claiming(edge: int, content: bytes, dtype: type = np.uint8) -> bytes:
    """A file whose header claims a cube, followed by other content."""
    image = nib.Nifti1Image(np.zeros((2, 2, 2), dtype), np.eye(4))
    image.header["dim"][1:4] = edge
    image.header["vox_offset"] = 352
    return bytes(image.header.binaryblock) + bytes(4) + content


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_a_header_that_claims_more_than_its_file_can_hold_allocates_no_memory(tmp_path: Path, ending: str) -> None:
    path, content = tmp_path / f"a{ending}", claiming(1000, bytes(1000))
    path.write_bytes(gzip.compress(content) if ending == ".nii.gz" else content)
    with peak_of(2**20), refuses("image-truncated", ImageError, file=path, expected=1000000352):
        read_image(path)


def test_decompression_stops_at_the_size_in_the_header(tmp_path: Path) -> None:
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(claiming(8, bytes(2**27))))
    with peak_of(2**22), refuses("image-unreadable", ImageError, names="decompresses to more"):
        read_labels(tmp_path / "a.nii.gz")


def test_a_volume_larger_than_the_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path, np.zeros((30, 30, 30), np.float32))
    monkeypatch.setattr("os.sysconf", lambda name: 2**8)
    with refuses("image-too-large", ImageError, file=path, found=30**3 * 4 + 352, expected=2**16):
        read_image(path)


def test_bytes_after_the_voxels_are_ignored(tmp_path: Path) -> None:
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(claiming(8, bytes(2000))))
    assert read_image(tmp_path / "a.nii.gz")[0].shape == (8, 8, 8)


def test_header_extensions_are_not_read_whatever_length_they_claim(tmp_path: Path) -> None:
    image = nib.Nifti1Image(np.ones((2, 2, 2), np.uint8), np.eye(4))
    image.header["vox_offset"] = 384
    extension = struct.pack("<4sii24x", bytes([1, 0, 0, 0]), -16, 2)
    (tmp_path / "a.nii").write_bytes(image.header.binaryblock + extension + bytes([1] * 8))
    assert read_image(tmp_path / "a.nii")[0].tolist() == np.ones((2, 2, 2)).tolist()


@pytest.mark.parametrize(
    "field, value", [("vox_offset", -1e9), ("vox_offset", np.nan), ("datatype", 7), ("magic", b"n+")]
)
def test_an_invalid_header_is_refused(tmp_path: Path, field: str, value: object) -> None:
    image = nib.Nifti1Image(np.ones((2, 2, 2), np.uint8), np.eye(4))
    image.header[field] = value
    (tmp_path / "a.nii").write_bytes(image.header.binaryblock + bytes(12))
    with refuses("image-unreadable", ImageError, file=tmp_path / "a.nii"):
        read_image(tmp_path / "a.nii")


def test_intensities_beyond_float32_are_refused(tmp_path: Path) -> None:
    with refuses("image-not-finite", ImageError, found=8):
        read_image(saved(tmp_path, np.full((2, 2, 2), 1e300)))


@pytest.mark.parametrize("value", [1e200, np.nan])
def test_an_affine_that_is_not_finite_is_refused(tmp_path: Path, value: float) -> None:
    image = nib.Nifti2Image(np.ones((2, 2, 2), np.uint8), np.eye(4))
    image.header["srow_x"][0] = value
    image.header["sform_code"] = 1
    (tmp_path / "a.nii").write_bytes(image.header.binaryblock + bytes(12))
    with refuses("image-unreadable", ImageError, file=tmp_path / "a.nii"):
        read_geometry(tmp_path / "a.nii")


def test_the_gap_between_the_forms_is_the_largest_of_all_corners(tmp_path: Path) -> None:
    image = nib.Nifti1Image(np.ones((5, 2, 2), np.uint8), np.eye(4))
    image.set_sform(np.diag([1.5, 1.0, 1.0, 1.0]), code=1)
    for code, gap in ((0, 0.0), (1, 2.0)):
        image.set_qform(np.eye(4), code=code)
        nib.save(image, tmp_path / "a.nii.gz")
        assert read_geometry(tmp_path / "a.nii.gz").form_gap == gap


def test_a_sheared_grid_is_refused(tmp_path: Path) -> None:
    affine = np.eye(4)
    affine[1, 2] = 0.3
    with refuses("grid-sheared", ImageError):
        read_geometry(saved(tmp_path, np.zeros((2, 2, 2), np.float32), affine))


@pytest.mark.parametrize("slope, highest, dtype", [(1 / 255, 1, np.uint8), (1 / 3, 85, np.uint8), (0.1, 300, np.int16)])
@pytest.mark.parametrize("intercept", [0.0, -2e-6])
def test_labels_with_a_slope_are_those_that_itk_rounds_to(
    tmp_path: Path, slope: float, highest: int, dtype: type, intercept: float
) -> None:
    values = np.random.default_rng(1).integers(0, highest + 1, SIZE)
    voxels = np.rint(values / slope).astype(dtype)
    path = stored(tmp_path / "a.nii.gz", voxels, np.eye(4), np.eye(4), (1, 1), (slope, intercept))
    by_itk = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path))).T
    assert not np.array_equal(np.asanyarray(nib.load(path).dataobj), values)
    np.testing.assert_array_equal(np.rint(by_itk), values)
    np.testing.assert_array_equal(read_labels(path)[0], values)


@pytest.mark.parametrize("value", [1.0001, 255.0255, 3000.1])
def test_the_tolerance_of_labels_is_relative_to_them_and_small(tmp_path: Path, value: float) -> None:
    mask = np.zeros((2, 2, 2))
    mask[0, 0, :] = round(value) + (value - round(value)) * 0.99
    assert read_labels(saved(tmp_path, mask))[0].max() == round(value)
    mask[0, 0, :] = round(value) + (value - round(value)) * 1.02
    with refuses("labels-not-integer", ImageError, names="2 voxels"):
        read_labels(saved(tmp_path, mask))


@pytest.mark.parametrize(
    "value, code",
    [
        (0.4, "labels-not-integer"),
        (-1.0, "labels-out-of-range"),
        (np.nan, "labels-out-of-range"),
        (70000.0, "labels-out-of-range"),
    ],
)
def test_values_that_are_not_labels_are_refused(tmp_path: Path, value: float, code: str) -> None:
    mask = np.zeros((2, 2, 2), np.float32)
    mask[0, 0, 1] = value
    with refuses(code, ImageError, names=f"{value:g}"):
        read_labels(saved(tmp_path, mask))


def test_an_infinite_intensity_is_refused(tmp_path: Path) -> None:
    image = np.zeros((2, 2, 2), np.float32)
    image[0, 0, 0] = np.inf
    with refuses("image-not-finite", ImageError, found=1):
        read_image(saved(tmp_path, image))


def test_a_corrupted_file_is_refused(tmp_path: Path) -> None:
    whole = saved(tmp_path, np.random.default_rng(0).normal(size=(20, 20, 20)).astype(np.float32)).read_bytes()
    middle = len(whole) // 2
    flipped = whole[:middle] + bytes([whole[middle] ^ 0x10]) + whole[middle + 1 :]
    for number, content in enumerate((whole[:middle], whole[:-2000] + bytes(2000), flipped, b"no image")):
        path = tmp_path / f"corrupted_{number}.nii.gz"
        path.write_bytes(content)
        with refuses("image-unreadable", ImageError, file=path, names=path.name):
            read_image(path)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with refuses("image-missing", ImageError, file=tmp_path / "none.nii.gz"):
        read_geometry(tmp_path / "none.nii.gz")


def test_a_real_scan_keeps_the_spacing_in_its_header(shared: Path) -> None:
    grid = read_geometry(shared / "data/spine/ref.nii.gz")
    assert grid.size == (512, 512, 17)
    assert grid.canonical()[0].spacing == (3.299999952316284, 0.5859400033950806, 0.5859400033950806)


@pytest.mark.parametrize("kind", [nib.Nifti1Pair, nib.Nifti2Pair, nib.AnalyzeImage])
@pytest.mark.parametrize("given, packed", [(".img", ""), (".hdr", ""), (".img.gz", ".img"), (".hdr.gz", ".hdr")])
def test_a_pair_of_files_is_read_with_either_compressed(tmp_path: Path, kind: type, given: str, packed: str) -> None:
    voxels = np.random.default_rng(0).integers(0, 900, (3, 4, 5)).astype(np.int16)
    nib.save(kind(voxels, np.diag([-1.0, 2.0, 3.0, 1.0])), tmp_path / "a.img")
    expected = read_geometry(tmp_path / "a.img")
    if packed and kind is not nib.AnalyzeImage:
        path = tmp_path / f"a{packed}"
        (tmp_path / f"a{packed}.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    elif packed:
        nib.save(kind(voxels, np.diag([-1.0, 2.0, 3.0, 1.0])), tmp_path / "a.img.gz")
    image, grid = read_image(tmp_path / f"a{given}")
    np.testing.assert_array_equal(image, voxels)
    assert grid == expected


def test_the_missing_half_of_a_pair_is_named(tmp_path: Path) -> None:
    nib.save(nib.Nifti1Pair(np.zeros((2, 2, 2), np.int16), np.eye(4)), tmp_path / "a.img")
    (tmp_path / "a.hdr").unlink()
    with refuses("image-missing", ImageError, file=tmp_path / "a.hdr"):
        read_geometry(tmp_path / "a.img")


@pytest.mark.parametrize("code", [1, 9])
def test_corrections_of_a_header_are_silent(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str], code: int
) -> None:
    grid = (np.eye(4), np.eye(4))
    path = stored(tmp_path / "a.nii", np.ones((2, 2, 2), np.uint8), *grid, (code, 1), pixdim=[0, 1, 1, 1, 0, 0, 0, 0])
    dictConfig({"version": 1, "disable_existing_loggers": False})  # as Dagster does
    assert read_image(path)[0].sum() == 8
    assert not caplog.records
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, ">i2", np.float32, np.float64])
@pytest.mark.parametrize("name", ["scan.nii", "scan.nii.gz"])
def test_a_box_of_an_image_is_read_as_a_view_of_the_whole(tmp_path: Path, dtype: type, name: str) -> None:
    stored = np.random.default_rng(0).integers(0, 200, (20, 37, 9)).astype(dtype)
    nib.save(nib.Nifti1Image(stored, np.eye(4)), tmp_path / name)
    box = Box((3, 1, 2), (17, 36, 9))
    whole, part = read_image(tmp_path / name)[0], read_image(tmp_path / name, box)[0]
    np.testing.assert_array_equal(whole, stored)
    assert whole.flags.c_contiguous
    assert (part.tobytes(), part.strides) == (whole[box.slices].tobytes(), whole.strides)


def test_values_outside_the_box_must_be_finite(tmp_path: Path) -> None:
    stored = np.zeros((4, 5, 6), dtype=np.float32)
    stored[0, 0, 0] = np.nan
    nib.save(nib.Nifti1Image(stored, np.eye(4)), tmp_path / "scan.nii.gz")
    with refuses("image-not-finite", ImageError, found=1):
        read_image(tmp_path / "scan.nii.gz", Box((2, 2, 2), (4, 5, 6)))


def test_the_same_voxels_are_written_as_the_same_bytes_that_any_program_reads(tmp_path: Path) -> None:
    labels = np.random.default_rng(0).integers(0, 3, GRID.size)
    for name in ("a.nii.gz", "b.nii.gz"):
        write_labels(tmp_path / name, labels, GRID)
    first, second = (tmp_path / name for name in ("a.nii.gz", "b.nii.gz"))
    assert first.read_bytes() == second.read_bytes()
    assert gzip.decompress(first.read_bytes())[-labels.size :] == labels.astype(np.uint8).tobytes(order="F")
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(first))).T, labels)
