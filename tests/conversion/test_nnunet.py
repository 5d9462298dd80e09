"""Conversion of datasets of nnU-Net v2."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK
from expect import refuses

from mist_ops.conversion.msd import convert_msd
from mist_ops.conversion.nnunet import convert_nnunet
from mist_ops.dataset import find_test_cases, find_training_cases, read_description
from mist_ops.errors import DatasetError

INVALID = "value-invalid"
REGIONS = {"background": 0, "whole tumor": [1, 2, 3], "core": [2, 3], "enhancing": 3}


def write_source(folder: Path, ids: list[str], ending: str = ".nii.gz", **keys: object) -> Path:
    """A dataset of two channels, with a test patient."""
    generator = np.random.default_rng(0)
    for part in ("imagesTr", "labelsTr", "imagesTs"):
        (folder / part).mkdir(parents=True)
    for part, case_id in [*(("Tr", case_id) for case_id in ids), ("Ts", "new")]:
        for index in range(2):
            voxels = generator.integers(0, 900, (6, 5, 4), dtype=np.int16)
            write(folder / f"images{part}" / f"{case_id}_{index:04}{ending}", voxels)
        if part == "Tr":
            write(folder / "labelsTr" / f"{case_id}{ending}", generator.integers(0, 4, (6, 5, 4), dtype=np.uint8))
    labels = {"background": 0, "edema": 1, "necrosis": 2, "enhancing": 3}
    described = {"channel_names": {"0": "T1", "1": "FLAIR"}, "labels": labels, "file_ending": ending, "numTraining": 1}
    (folder / "dataset.json").write_text(json.dumps(described | keys))
    return folder


def write(path: Path, voxels: np.ndarray) -> None:
    image = SimpleITK.GetImageFromArray(voxels)
    image.SetSpacing((1.0, 1.5, 2.0))
    image.SetOrigin((-3.0, 4.0, 5.0))
    SimpleITK.WriteImage(image, str(path))


def test_files_are_copied_byte_for_byte_and_described(tmp_path: Path) -> None:
    source = write_source(tmp_path / "Dataset001_Toy", ["b_1", "a"])
    outcomes = list(convert_nnunet(source, tmp_path / "out", workers=2))
    assert [(outcome.item.id, outcome.error) for outcome in outcomes] == [("a", None), ("b_1", None), ("new", None)]
    train, test = tmp_path / "out" / "raw" / "train", tmp_path / "out" / "raw" / "test"
    pairs = [
        (train / "b_1" / "FLAIR.nii.gz", "imagesTr/b_1_0001.nii.gz"),
        (train / "b_1" / "mask.nii.gz", "labelsTr/b_1.nii.gz"),
        (test / "new" / "T1.nii.gz", "imagesTs/new_0000.nii.gz"),
    ]
    assert [made.read_bytes() for made, _ in pairs] == [(source / name).read_bytes() for _, name in pairs]
    assert json.loads((tmp_path / "out" / "dataset.json").read_text()) == {
        "task": "Toy",
        "modality": "mr",
        "train-data": "raw/train",
        "test-data": "raw/test",
        "mask": ["mask.nii.gz"],
        "images": {"T1": ["T1.nii.gz"], "FLAIR": ["FLAIR.nii.gz"]},
        "labels": [0, 1, 2, 3],
        "final_classes": {"edema": [1], "necrosis": [2], "enhancing": [3]},
    }
    described = read_description(tmp_path / "out" / "dataset.json")
    assert [case.id for case in find_training_cases(described)] == ["a", "b_1"]
    assert [case.id for case in find_test_cases(described)] == ["new"]


def test_regions_become_classes_of_several_labels(tmp_path: Path) -> None:
    source = write_source(tmp_path / "in", ["a"], labels=REGIONS, regions_class_order=[1, 2, 3])
    list(convert_nnunet(source, tmp_path / "out"))
    described = json.loads((tmp_path / "out" / "dataset.json").read_text())
    assert described["labels"] == [0, 1, 2, 3]
    assert described["final_classes"] == {"whole_tumor": [1, 2, 3], "core": [2, 3], "enhancing": [3]}


@pytest.mark.parametrize("ending", [".nrrd", ".mha", ".nii"])
def test_other_formats_are_converted_on_their_grid(tmp_path: Path, ending: str) -> None:
    source = write_source(tmp_path / "in", ["a"], ending)
    list(convert_nnunet(source, tmp_path / "out"))
    before = SimpleITK.ReadImage(str(source / "imagesTr" / f"a_0001{ending}"))
    after = SimpleITK.ReadImage(str(tmp_path / "out" / "raw" / "train" / "a" / "FLAIR.nii.gz"))
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(after), SimpleITK.GetArrayFromImage(before))
    for grid in ("GetOrigin", "GetSpacing", "GetDirection"):
        np.testing.assert_allclose(getattr(after, grid)(), getattr(before, grid)())


def test_a_patient_with_a_missing_file_or_an_unknown_label_fails_alone(tmp_path: Path) -> None:
    source = write_source(tmp_path / "in", ["a", "b", "c", "d", "e"])
    (source / "imagesTr" / "a_0001.nii.gz").unlink()
    (source / "labelsTr" / "b.nii.gz").unlink()
    write(source / "labelsTr" / "c.nii.gz", np.full((6, 5, 4), 9, np.uint8))
    for index in range(2):
        (source / "imagesTr" / f"d_000{index}.nii.gz").unlink()
    outcomes = {outcome.item.id: outcome for outcome in convert_nnunet(source, tmp_path / "out")}
    codes = {case_id: getattr(outcome.error, "code", None) for case_id, outcome in outcomes.items()}
    assert codes == {
        "a": "channels-mismatch",
        "b": "image-missing",
        "c": "unknown-label",
        "d": "channels-mismatch",
        "e": None,
        "new": None,
    }
    assert [path.name for path in (tmp_path / "out" / "raw" / "train").iterdir()] == ["e"]


@pytest.mark.parametrize(
    "keys, names",
    [
        ({"labels": {"background": 0, "lesion": 1, "ignore": 2}}, "'ignore'"),
        ({"labels": {"lesion": 1, "core": 2}}, "'background'"),
        ({"labels": {"background": 0, "a b": 1, "a_b": 2}}, "'a_b'"),
        ({"channel_names": {"0": "MRI", "1": "MRI"}}, "'MRI'"),
        ({"channel_names": {"0": "T1", "2": "T2"}}, "0, 2"),
        ({"dataset": {"a": {"images": ["/a.nii.gz"], "label": "/b.nii.gz"}}}, "mist_convert_csv"),
    ],
)
def test_descriptions_that_cannot_be_converted_are_refused(tmp_path: Path, keys: dict[str, object], names: str) -> None:
    source = write_source(tmp_path / "in", ["a"], **keys)
    with refuses(INVALID, DatasetError, file=source / "dataset.json", names=names):
        convert_nnunet(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_another_ending_than_that_of_the_files_is_reported(tmp_path: Path) -> None:
    source = write_source(tmp_path / "in", ["a"], file_ending=".png")
    with refuses("folder-empty", DatasetError, expected=".png"):
        convert_nnunet(source, tmp_path / "out")


def test_each_layout_is_recognized_by_the_readers_of_the_others(tmp_path: Path, shared: Path) -> None:
    nnunet = write_source(tmp_path / "nnunet", ["a"])
    decathlon = shared / "data" / "Task04_Hippocampus"
    list(convert_nnunet(nnunet, tmp_path / "out"))
    with refuses("dataset-layout", DatasetError, found="nnU-Net", names="mist_convert_nnunet --source"):
        read_description(nnunet / "dataset.json")
    with refuses("dataset-layout", DatasetError, found="Decathlon", names="mist_convert_msd --source"):
        read_description(decathlon / "dataset.json")
    with refuses("dataset-layout", DatasetError, found="nnU-Net"):
        convert_msd(nnunet, tmp_path / "other")
    with refuses("dataset-layout", DatasetError, found="Decathlon"):
        convert_nnunet(decathlon, tmp_path / "other")
    with refuses("dataset-layout", DatasetError, found="MIST", names="mist_analyze"):
        convert_nnunet(tmp_path / "out", tmp_path / "other")


def test_the_hippocampus_task_in_both_layouts_is_converted_to_the_same_patients(shared: Path, tmp_path: Path) -> None:
    decathlon, nnunet = shared / "data" / "Task04_Hippocampus", tmp_path / "Dataset004_Hippocampus"
    for part in ("imagesTr", "labelsTr"):
        (nnunet / part).mkdir(parents=True)
    for path in sorted((decathlon / "imagesTr").glob("[!.]*.nii.gz"))[:5]:
        shutil.copy(path, nnunet / "imagesTr" / path.name.replace(".nii.gz", "_0000.nii.gz"))
        shutil.copy(decathlon / "labelsTr" / path.name, nnunet / "labelsTr" / path.name)
    described = {
        "channel_names": {"0": "MRI"},
        "labels": {"background": 0, "Anterior": 1, "Posterior": 2},
        "file_ending": ".nii.gz",
    }
    (nnunet / "dataset.json").write_text(json.dumps(described))
    list(convert_msd(decathlon, tmp_path / "a"))
    list(convert_nnunet(nnunet, tmp_path / "b"))
    made = sorted((tmp_path / "b" / "raw").rglob("*.nii.gz"))
    assert len(made) == 10
    assert all(path.read_bytes() == (tmp_path / "a" / path.relative_to(tmp_path / "b")).read_bytes() for path in made)
    first, second = (json.loads((tmp_path / name / "dataset.json").read_text()) for name in ("a", "b"))
    assert second == {key: value for key, value in first.items() if key != "test-data"}
    assert nib.load(made[0]).shape
