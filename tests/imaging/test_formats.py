"""Files whose content is not what their name says."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
import SimpleITK
from expect import refuses
from imaging.headers import stored

from mist_ops.errors import ImageError
from mist_ops.imaging.foreign import store_as_nifti
from mist_ops.imaging.nifti import read_geometry, read_image


def nifti(path: Path) -> Path:
    return stored(path, np.ones((2, 3, 4), np.uint8), np.eye(4), np.eye(4), (1, 1))


@pytest.mark.parametrize(
    "name, content, names",
    [
        ("a.nii.gz", bytes(128) + b"DICM" + bytes(200), "dcm2niix"),
        ("a.nii.gz", b"PK\x03\x04" + bytes(200), "ZIP"),
        ("a.nii.gz", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "git lfs pull"),
        ("a.nii.gz", b"\n<!DOCTYPE html><html>404</html>", "web page"),
        ("a.nii", b"<html>404</html>", "web page"),
        ("a.nii", b"NRRD0004\n", "NRRD"),
        ("a.nii", b"ObjectType = Image\n", "MetaImage"),
    ],
)
def test_the_format_of_a_file_is_named(tmp_path: Path, name: str, content: bytes, names: str) -> None:
    (tmp_path / name).write_bytes(content)
    with refuses("image-format", ImageError, file=tmp_path / name, names=names):
        read_geometry(tmp_path / name)
    with refuses("image-format", ImageError, file=tmp_path / name, names=names):
        store_as_nifti(tmp_path / name, tmp_path / "made.nii.gz")
    assert not (tmp_path / "made.nii.gz").exists()


@pytest.mark.parametrize("name, advice", [("a.nii", "with .gz"), ("a.nii.gz", "without .gz")])
def test_a_file_that_is_compressed_or_not_against_its_name_is_to_be_renamed(
    tmp_path: Path, name: str, advice: str
) -> None:
    content = nifti(tmp_path / "whole.nii").read_bytes()
    (tmp_path / name).write_bytes(content if name.endswith(".gz") else gzip.compress(content))
    for read in (read_geometry, lambda path: store_as_nifti(path, tmp_path / "made.nii.gz")):
        with refuses("image-format", ImageError, file=tmp_path / name, names=f"Rename it, {advice}"):
            read(tmp_path / name)
    (tmp_path / name).rename(tmp_path / ("b.nii" if name.endswith(".gz") else "b.nii.gz"))
    assert read_image(next(tmp_path.glob("b.*")))[0].sum() == 24


@pytest.mark.parametrize("ending", [".nrrd", ".mha"])
def test_formats_that_only_conversion_reads_are_named(tmp_path: Path, ending: str) -> None:
    SimpleITK.WriteImage(SimpleITK.Image(3, 3, 3, SimpleITK.sitkUInt8), str(tmp_path / f"a{ending}"))
    with refuses("image-format", ImageError, names="mist_convert_csv"):
        read_geometry(tmp_path / f"a{ending}")
    store_as_nifti(tmp_path / f"a{ending}", tmp_path / "made.nii.gz")
    assert read_geometry(tmp_path / "made.nii.gz").size == (3, 3, 3)
