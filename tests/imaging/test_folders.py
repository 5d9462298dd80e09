"""Folders that hold one image per case."""

from __future__ import annotations

from pathlib import Path

import pytest
from expect import refuses

from mist_ops.errors import DatasetError
from mist_ops.imaging.folders import IMAGES, find_images, image_id, images_in


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("b.nii.gz", "a.b.nii", "c.nrrd", "notes.txt", "table.csv.gz", ".hidden.nii.gz"):
        (tmp_path / name).touch()
    (tmp_path / "link.nii.gz").symlink_to("nowhere")
    return tmp_path


def test_images_are_listed_by_case_id(folder: Path) -> None:
    assert list(find_images(folder, "--predictions")) == ["a.b", "b", "link"]
    assert list(find_images(folder, "--predictions", IMAGES)) == ["a.b", "b", "c.nrrd", "link"]
    assert [path.name for path in images_in(folder)] == ["a.b.nii", "b.nii.gz", "link.nii.gz"]
    assert images_in(folder / "none") == []


def test_only_the_ending_of_nifti_files_is_removed() -> None:
    names = ("p1.nii.gz", "p1.nii", "p1.gz", "p1.nii.nii.gz", "p1")
    assert [image_id(name) for name in names] == ["p1", "p1", "p1.gz", "p1.nii", "p1"]


def test_a_missing_or_empty_folder_is_refused(tmp_path: Path) -> None:
    with refuses("folder-missing", DatasetError, file=tmp_path / "none", field="--predictions"):
        find_images(tmp_path / "none", "--predictions")
    with refuses("folder-empty", DatasetError, file=tmp_path):
        find_images(tmp_path, "--predictions")


def test_two_images_with_the_same_id_are_refused(folder: Path) -> None:
    (folder / "b.nii").touch()
    with refuses("patient-duplicate", DatasetError, file=folder, found=["b"]):
        find_images(folder, "--predictions")
