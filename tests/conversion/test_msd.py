from __future__ import annotations

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from expect import refuses

from mist_ops.conversion.msd import convert_msd
from mist_ops.dataset import find_training_cases, read_description
from mist_ops.errors import CaseError, DatasetError

INVALID = "value-invalid"
AFFINE = np.array([[-1.5, 0, 0, 10], [0, 2, 0, -20], [0, 0, 3, 5], [0, 0, 0, 1.0]])


def write_source(
    folder: Path, modality: dict[str, str], ids: list[str], ending: str = ".nii.gz", **keys: object
) -> Path:
    channels = len(modality)
    voxels = np.random.default_rng(0).integers(0, 900, (4, 5, 6, channels), dtype=np.int16)
    for kind, array in (
        ("images", voxels[..., 0] if channels == 1 else voxels),
        ("labels", np.uint8(voxels[..., 0] > 450)),
    ):
        (folder / f"{kind}Tr").mkdir(parents=True)
        for case_id in ids:
            nib.save(nib.Nifti1Image(array, AFFINE), folder / f"{kind}Tr" / f"{case_id}{ending}")
    training = [{"image": f"./imagesTr/{i}{ending}", "label": f"./labelsTr/{i}{ending}"} for i in ids]
    labels = {"0": "background", "1": "left lobe"}
    described = {"name": "Toy", "modality": modality, "labels": labels, "training": training, **keys}
    (folder / "dataset.json").write_text(json.dumps(described))
    return folder


def test_the_hippocampus_task_is_copied_byte_for_byte(shared: Path, tmp_path: Path) -> None:
    source = shared / "data" / "Task04_Hippocampus"
    outcomes = list(convert_msd(source, tmp_path))
    assert len(outcomes) == 60
    assert not [outcome for outcome in outcomes if outcome.error]
    case = tmp_path / "raw" / "train" / "hippocampus_001"
    assert (case / "MRI.nii.gz").read_bytes() == (source / "imagesTr" / "hippocampus_001.nii.gz").read_bytes()
    assert (case / "mask.nii.gz").read_bytes() == (source / "labelsTr" / "hippocampus_001.nii.gz").read_bytes()
    assert json.loads((tmp_path / "dataset.json").read_text()) == {
        "task": "Hippocampus",
        "modality": "mr",
        "train-data": "raw/train",
        "test-data": "raw/test",
        "mask": ["mask.nii.gz"],
        "images": {"MRI": ["MRI.nii.gz"]},
        "labels": [0, 1, 2],
        "final_classes": {"Anterior": [1], "Posterior": [2]},
    }


def test_channels_are_split_with_their_voxels_type_and_geometry(tmp_path: Path) -> None:
    source = write_source(tmp_path / "in", {"0": "T2", "1": "ADC"}, ["p1"])
    [outcome] = convert_msd(source, tmp_path / "out")
    assert outcome.error is None
    whole = nib.load(source / "imagesTr" / "p1.nii.gz")
    for index, name in enumerate(("T2", "ADC")):
        channel = nib.load(tmp_path / "out" / "raw" / "train" / "p1" / f"{name}.nii.gz")
        assert channel.get_data_dtype() == np.int16
        np.testing.assert_array_equal(channel.affine, AFFINE)
        np.testing.assert_array_equal(np.asarray(channel.dataobj), np.asarray(whole.dataobj)[..., index])


def test_a_scaled_image_keeps_its_stored_voxels_and_its_scaling(tmp_path: Path) -> None:
    source = write_source(tmp_path / "in", {"0": "T1", "1": "T2"}, ["p1"])
    stored = np.arange(48, dtype=np.int16).reshape(2, 3, 4, 2)
    image = nib.Nifti1Image(stored, AFFINE)
    image.header.set_slope_inter(0.1, -3)
    nib.save(image, source / "imagesTr" / "p1.nii.gz")
    list(convert_msd(source, tmp_path / "out"))
    channel = nib.load(tmp_path / "out" / "raw" / "train" / "p1" / "T2.nii.gz")
    np.testing.assert_array_equal(channel.dataobj.get_unscaled(), stored[..., 1])
    assert (channel.dataobj.slope, channel.dataobj.inter) == pytest.approx((0.1, -3))


@pytest.mark.parametrize("ids, ending", [(["c1.v2"], ".nii.gz"), (["c1"], ".nii")])
def test_dotted_ids_and_uncompressed_files_become_a_dataset(tmp_path: Path, ids: list[str], ending: str) -> None:
    source = write_source(tmp_path / "in", {"0": "CT"}, ids, ending)
    [outcome] = convert_msd(source, tmp_path / "out")
    assert outcome.error is None
    description = read_description(tmp_path / "out" / "dataset.json")
    assert [case.id for case in find_training_cases(description)] == ids
    assert (description.modality, description.classes) == ("ct", {"left_lobe": [1]})
    mask = nib.load(tmp_path / "out" / "raw" / "train" / ids[0] / "mask.nii.gz")
    assert set(np.unique(np.asarray(mask.dataobj))) == {0, 1}


@pytest.mark.parametrize("test", [["./imagesTs/q.nii.gz"], [{"image": "./imagesTs/q.nii.gz"}]])
def test_test_patients_may_be_strings_or_objects(tmp_path: Path, test: list[object]) -> None:
    source = write_source(tmp_path / "in", {"0": "FLAIR"}, ["p"], test=test)
    (source / "imagesTs").mkdir()
    shutil.copy(source / "imagesTr" / "p.nii.gz", source / "imagesTs" / "q.nii.gz")
    assert [outcome.item.id for outcome in convert_msd(source, tmp_path / "out") if not outcome.error] == ["p", "q"]
    described = json.loads((tmp_path / "out" / "dataset.json").read_text())
    assert (described["test-data"], described["modality"]) == ("raw/test", "mr")


def test_without_a_list_of_test_patients_there_is_no_test_data(tmp_path: Path) -> None:
    source = write_source(tmp_path / "in", {"0": "PET"}, ["p"])
    (source / "imagesTs").mkdir()
    list(convert_msd(source, tmp_path / "out"))
    described = json.loads((tmp_path / "out" / "dataset.json").read_text())
    assert "test-data" not in described
    assert described["modality"] == "other"


def test_other_patients_are_converted_if_one_has_too_few_channels(tmp_path: Path) -> None:
    source = write_source(tmp_path / "in", {"0": "T1", "1": "T2"}, ["good", "flat"])
    nib.save(nib.Nifti1Image(np.zeros((4, 5, 6), np.int16), AFFINE), source / "imagesTr" / "flat.nii.gz")
    good, flat = convert_msd(source, tmp_path / "out")
    assert good.error is None
    assert isinstance(flat.error, CaseError)
    assert (flat.error.code, flat.error.case) == ("channels-mismatch", "flat")
    assert (flat.error.found, flat.error.expected) == (1, 2)
    assert [path.name for path in (tmp_path / "out" / "raw" / "train").iterdir()] == ["good"]


def test_other_patients_are_converted_if_one_has_too_many_channels(tmp_path: Path) -> None:
    source = write_source(tmp_path / "in", {"0": "CT"}, ["good", "series"])
    nib.save(nib.Nifti1Image(np.zeros((4, 5, 6, 2), np.int16), AFFINE), source / "imagesTr" / "series.nii.gz")
    good, series = convert_msd(source, tmp_path / "out")
    assert good.error is None
    assert isinstance(series.error, CaseError)
    assert (series.error.code, series.error.found, series.error.expected) == ("channels-mismatch", 2, 1)


@pytest.mark.parametrize("value, code, found", [(7, "unknown-label", [7]), (0.5, "labels-not-integer", 0.5)])
def test_other_patients_are_converted_if_one_has_invalid_labels(
    tmp_path: Path, value: float, code: str, found: object
) -> None:
    source = write_source(tmp_path / "in", {"0": "CT"}, ["good", "odd"])
    mask = np.full((4, 5, 6), value, np.float32)
    nib.save(nib.Nifti1Image(mask, AFFINE), source / "labelsTr" / "odd.nii.gz")
    good, odd = convert_msd(source, tmp_path / "out")
    assert good.error is None
    assert isinstance(odd.error, CaseError)
    assert (odd.error.code, odd.error.case, odd.error.found) == (code, "odd", found)
    assert [path.name for path in (tmp_path / "out" / "raw" / "train").iterdir()] == ["good"]


def test_the_path_of_the_mask_is_used(tmp_path: Path) -> None:
    training = [{"image": "./imagesTr/p.nii.gz", "label": "./drawn/p_by_hand.nii.gz"}]
    source = write_source(tmp_path / "in", {"0": "CT"}, ["p"], training=training)
    (source / "drawn").mkdir()
    nib.save(nib.Nifti1Image(np.ones((4, 5, 6), np.uint8), AFFINE), source / "drawn" / "p_by_hand.nii.gz")
    list(convert_msd(source, tmp_path / "out"))
    mask = nib.load(tmp_path / "out" / "raw" / "train" / "p" / "mask.nii.gz")
    assert np.asarray(mask.dataobj).min() == 1


@pytest.mark.parametrize("outside", ["../secret.nii.gz", "{folder}/secret.nii.gz"])
def test_paths_outside_the_source_are_not_read(tmp_path: Path, outside: str) -> None:
    entry = {"image": outside.format(folder=tmp_path), "label": "./labelsTr/p.nii.gz"}
    source = write_source(tmp_path / "in", {"0": "CT"}, ["p"], training=[entry, {"image": "imagesTr/p.nii.gz"}])
    shutil.copy(source / "imagesTr" / "p.nii.gz", tmp_path / "secret.nii.gz")
    secret, fine = convert_msd(source, tmp_path / "out")
    assert isinstance(secret.error, CaseError)
    assert (secret.error.code, secret.error.case, secret.error.field) == ("image-missing", "secret", "image")
    assert fine.error is None


@pytest.mark.parametrize(
    "name, kind",
    [
        *[(name, "ct") for name in ("CT", "ct_arterial", "CBCT", "contrast CT")],
        *[(name, "mr") for name in ("MR", "MRI", "T1w", "t2-FLAIR", "ADC", "T1gd", "DCE-MRI", "PD", "post T1")],
        *[(name, "other") for name in ("PET", "US", "octopus", "cathode", "T10 counts", "pda")],
    ],
)
def test_the_modality_is_derived_from_the_names_of_channels(tmp_path: Path, name: str, kind: str) -> None:
    source = write_source(tmp_path / "in", {"0": name}, ["p"])
    list(convert_msd(source, tmp_path / "out"))
    assert json.loads((tmp_path / "out" / "dataset.json").read_text())["modality"] == kind


def test_a_dataset_is_only_replaced_with_overwrite(tmp_path: Path) -> None:
    list(convert_msd(write_source(tmp_path / "old", {"0": "CT"}, ["a", "b"]), tmp_path / "out"))
    source = write_source(tmp_path / "new", {"0": "MR"}, ["b"])
    with refuses("output-exists", DatasetError, names="--overwrite", found=["dataset.json", "raw"]):
        convert_msd(source, tmp_path / "out")
    list(convert_msd(source, tmp_path / "out", overwrite=True))
    patients = tmp_path / "out" / "raw" / "train"
    assert [str(path.relative_to(patients)) for path in sorted(patients.rglob("*.gz"))] == [
        "b/MR.nii.gz",
        "b/mask.nii.gz",
    ]


def test_no_dataset_is_written_if_all_patients_fail(tmp_path: Path) -> None:
    source = write_source(tmp_path / "in", {"0": "CT"}, ["p"])
    (source / "labelsTr" / "p.nii.gz").unlink()
    converted = convert_msd(source, tmp_path / "out")
    assert next(converted).error is not None
    with refuses("no-patients", DatasetError):
        next(converted)
    assert not (tmp_path / "out" / "dataset.json").exists()


def test_other_patients_are_converted_if_one_lacks_its_mask(tmp_path: Path) -> None:
    source = write_source(tmp_path / "in", {"0": "MRI"}, ["a", "b"])
    (source / "labelsTr" / "a.nii.gz").unlink()
    first, second = convert_msd(source, tmp_path / "out", workers=2)
    assert isinstance(first.error, CaseError)
    assert (first.error.code, first.error.case, first.error.field) == ("image-missing", "a", "mask")
    assert second.error is None


@pytest.mark.parametrize(
    "keys, code, names",
    [
        ({"modality": {"0": "mask"}}, INVALID, "'mask'"),
        ({"modality": {"1": "CT"}}, INVALID, "'modality'"),
        ({"labels": {"0": "background", "1": "a b", "2": "a_b"}}, INVALID, "'a_b'"),
        ({"training": [{"image": "x/p.nii.gz"}, {"image": "y/p.nii"}]}, "patient-duplicate", "p"),
        ({"training": [{"image": ".nii.gz"}]}, "id-unsafe", "''"),
    ],
)
def test_an_invalid_description_is_refused_before_anything_is_written(
    tmp_path: Path, keys: dict[str, object], code: str, names: str
) -> None:
    source = write_source(tmp_path / "in", {"0": "CT"}, ["p"])
    described = json.loads((source / "dataset.json").read_text())
    (source / "dataset.json").write_text(json.dumps(described | keys))
    with refuses(code, DatasetError, names=names):
        convert_msd(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_source_without_a_dataset_or_equal_to_the_output_is_refused(tmp_path: Path) -> None:
    with refuses("dataset-missing", DatasetError, file=tmp_path / "dataset.json", names="--source"):
        convert_msd(tmp_path, tmp_path / "out")
    source = write_source(tmp_path / "in", {"0": "CT"}, ["p"])
    with refuses("output-is-input", DatasetError, file=source):
        convert_msd(source, source)
