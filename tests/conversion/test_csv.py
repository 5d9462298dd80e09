from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK
from expect import refuses

from mist_ops.conversion.csv import convert_csv
from mist_ops.dataset import find_test_cases, find_training_cases, read_description
from mist_ops.errors import CaseError, DatasetError

AFFINE = np.array([[-1.5, 0, 0, 10], [0, 2, 0, -20], [0, 0, 3, 5], [0, 0, 0, 1.0]])
VOXELS = np.arange(120, dtype=np.int16).reshape(4, 5, 6)
LABELS = np.uint8(VOXELS > 60) * np.uint8(3)


def write_sources(folder: Path, names: Sequence[str] = ("a", "b"), ending: str = ".nii.gz") -> None:
    for name in names:
        (folder / name).mkdir(parents=True)
        for part, voxels in (("t1", VOXELS), ("t2", VOXELS + 1), ("seg", LABELS)):
            nib.save(nib.Nifti1Image(voxels, AFFINE), folder / name / f"{part}.nii.gz")
            if ending not in (".nii.gz", ".nii"):
                image = SimpleITK.ReadImage(str(folder / name / f"{part}.nii.gz"))
                SimpleITK.WriteImage(image, str(folder / name / f"{part}{ending}"))
            elif ending == ".nii":
                nib.save(nib.Nifti1Image(voxels, AFFINE), folder / name / f"{part}.nii")


def write_table(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def rows(*ids: str, name: str = "a", ending: str = ".nii.gz") -> list[str]:
    return [f"{i},{name}/seg{ending},{name}/t1{ending},{name}/t2{ending}" for i in ids]


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """A table of two patients, 001 and 1e5, with files beside it."""
    write_sources(tmp_path / "in")
    return write_table(tmp_path / "in" / "train.csv", "id,mask,t1-gd,2nd scan", *rows("001"), *rows("1e5", name="b"))


def test_a_table_becomes_a_dataset_with_its_ids_and_columns(table: Path, tmp_path: Path):
    outcomes = list(convert_csv(table, None, tmp_path / "out"))
    assert [(outcome.item.id, outcome.result) for outcome in outcomes] == [("001", [0, 3]), ("1e5", [0, 3])]
    patient = tmp_path / "out" / "raw" / "train" / "001"
    assert sorted(path.name for path in patient.iterdir()) == ["2nd scan.nii.gz", "mask.nii.gz", "t1-gd.nii.gz"]
    assert (patient / "t1-gd.nii.gz").read_bytes() == (table.parent / "a" / "t1.nii.gz").read_bytes()
    assert json.loads((tmp_path / "out" / "dataset.json").read_text()) == {
        "task": None,
        "modality": None,
        "train-data": "raw/train",
        "mask": ["mask.nii.gz"],
        "images": {"t1-gd": ["t1-gd.nii.gz"], "2nd scan": ["2nd scan.nii.gz"]},
        "labels": [0, 3],
        "final_classes": None,
    }


def test_null_task_and_modality_must_be_filled_in(table: Path, tmp_path: Path):
    list(convert_csv(table, None, tmp_path / "out"))
    written = tmp_path / "out" / "dataset.json"
    with pytest.raises(DatasetError, match=r"'task' .*null(.|\n)*'modality' must be ct, mr or other, got null"):
        read_description(written)
    written.write_text(json.dumps({**json.loads(written.read_text()), "task": "Toy", "modality": "mr"}))
    description = read_description(written)
    assert [case.id for case in find_training_cases(description)] == ["001", "1e5"]
    assert description.classes == {"label_3": [3]}


@pytest.mark.parametrize("ending", [".nii", ".nrrd", ".mha", ".mhd"])
def test_other_formats_are_converted(tmp_path: Path, ending: str):
    write_sources(tmp_path, ["a"], ending)
    train = write_table(tmp_path / "train.csv", "id,mask,t1,t2", *rows("p", ending=ending))
    [outcome] = convert_csv(train, None, tmp_path / "out")
    assert outcome.error is None
    image = nib.load(tmp_path / "out" / "raw" / "train" / "p" / "t2.nii.gz")
    np.testing.assert_array_equal(np.asarray(image.dataobj), VOXELS + 1)
    np.testing.assert_allclose(image.affine, AFFINE, atol=1e-6)
    assert image.get_data_dtype() == np.int16


def test_test_patients_may_have_channels_in_another_order(table: Path, tmp_path: Path):
    test = write_table(tmp_path / "in" / "test.csv", "id,2nd scan,t1-gd", "q,a/t2.nii.gz,a/t1.nii.gz")
    *_, last = convert_csv(table, test, tmp_path / "out", workers=2)
    assert (last.item.id, last.error, last.result) == ("q", None, [])
    described = json.loads((tmp_path / "out" / "dataset.json").read_text())
    assert described["test-data"] == "raw/test"
    (tmp_path / "out" / "dataset.json").write_text(json.dumps({**described, "task": "Toy", "modality": "mr"}))
    [case] = find_test_cases(read_description(tmp_path / "out" / "dataset.json"))
    np.testing.assert_array_equal(np.asarray(nib.load(case.images["2nd scan"]).dataobj), VOXELS + 1)


def test_semicolons_byte_order_mark_crlf_and_blank_rows_are_accepted(tmp_path: Path):
    write_sources(tmp_path)
    text = "\ufeffid; mask;t1;\r\n001; a/seg.nii.gz ;a/t1.nii.gz;\r\n;;\r\n\r\nNA;b/seg.nii.gz;b/t1.nii.gz\r\n"
    (tmp_path / "train.csv").write_bytes(text.encode())
    outcomes = list(convert_csv(tmp_path / "train.csv", None, tmp_path / "out"))
    assert [(outcome.item.id, outcome.error) for outcome in outcomes] == [("001", None), ("NA", None)]


def test_paths_are_relative_to_the_table_or_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_sources(tmp_path / "here", ["a", "b"])
    write_sources(tmp_path / "there", ["a"])
    nib.save(nib.Nifti1Image(VOXELS + 7, AFFINE), tmp_path / "there" / "a" / "t1.nii.gz")
    train = write_table(tmp_path / "there" / "train.csv", "id,mask,t1,t2", *rows("p"), *rows("q", name="b"))
    monkeypatch.chdir(tmp_path / "here")
    first, second = convert_csv(train, None, tmp_path / "out")
    assert (first.error, second.error) == (None, None)
    image = nib.load(tmp_path / "out" / "raw" / "train" / "p" / "t1.nii.gz")
    assert np.asarray(image.dataobj).min() == 7


@pytest.mark.parametrize(
    "row, code, file",
    [
        ("p,a/seg.nii.gz,a/t1.nii.gz,", "table-cell-empty", None),
        ("p,a/none.nii.gz,a/t1.nii.gz,a/t2.nii.gz", "image-missing", "none.nii.gz"),
        ("p,a/t1.nii.gz,a/t1.nii.gz,a/four.nii.gz", "image-not-3d", "four.nii.gz"),
        ("p,a/half.nii.gz,a/t1.nii.gz,a/t2.nii.gz", "labels-not-integer", "half.nii.gz"),
        ("p,a/seg.nii.gz,a/t1.nii.gz,a/text.nrrd", "image-unreadable", "text.nrrd"),
        ("p,a/seg.nii.gz,a/t1.nii.gz,a/flat.mha", "image-not-3d", "flat.mha"),
    ],
)
def test_other_patients_are_converted_if_one_fails(tmp_path: Path, row: str, code: str, file: str | None):
    write_sources(tmp_path)
    nib.save(nib.Nifti1Image(np.zeros((3, 3, 3, 2), np.float32), AFFINE), tmp_path / "a" / "four.nii.gz")
    nib.save(nib.Nifti1Image(np.full((4, 5, 6), 0.5, np.float32), AFFINE), tmp_path / "a" / "half.nii.gz")
    SimpleITK.WriteImage(SimpleITK.Image(3, 3, SimpleITK.sitkFloat32), str(tmp_path / "a" / "flat.mha"))
    (tmp_path / "a" / "text.nrrd").write_text("no image")
    train = write_table(tmp_path / "train.csv", "id,mask,t1,t2", row, *rows("good", name="b"))
    bad, good = convert_csv(train, None, tmp_path / "out")
    assert isinstance(bad.error, CaseError)
    assert (bad.error.code, bad.error.case, bad.error.file) == (code, "p", file and tmp_path / "a" / file)
    assert file is None or file in bad.error.message
    assert good.error is None
    assert [path.name for path in (tmp_path / "out" / "raw" / "train").iterdir()] == ["good"]


@pytest.mark.parametrize(
    "lines, code, found",
    [
        (["id,t1,t2", "p,a,b"], "table-column-missing", ["id", "t1", "t2"]),
        (["id,mask", "p,a"], "table-column-missing", ["id", "mask"]),
        (["id,mask,t1"], "table-empty", None),
        (["id,mask,t1", "p,a,b", "p,c,d"], "patient-duplicate", "p"),
        (["id,mask,t1", "../p,a,b"], "id-unsafe", "../p"),
        (["id,mask,t1", ",a,b"], "id-unsafe", ""),
        (["id,mask,../t1", "p,a,b"], "channel-unsafe", "../t1"),
        (["id,mask,Fold", "p,a,b"], "channel-reserved", "Fold"),
        (["id,mask,t1,T1", "p,a,b,c"], "channel-duplicate", "T1"),
        (["id,mask,mask,t1", "p,a,b,c"], "column-duplicate", ["mask"]),
        (["id,mask,t1", "p,a,b,c"], "table-extra-column", 2),
        (["id,mask,t1", 'p,"a,b'], "table-unreadable", None),
        ([], "table-unreadable", None),
    ],
)
def test_an_invalid_table_is_refused_before_anything_is_written(
    tmp_path: Path, lines: list[str], code: str, found: object
):
    train = write_table(tmp_path / "train.csv", *lines)
    with refuses(code, DatasetError, names="train.csv", found=found):
        convert_csv(train, None, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("columns", ["id,t1-gd", "id,t1-gd,2nd scan,t3", "id,t1-gd,2nd"])
def test_a_test_table_with_other_channels_is_refused(table: Path, tmp_path: Path, columns: str):
    test = write_table(tmp_path / "test.csv", columns, "q" + ",x" * columns.count(","))
    with refuses("table-column-missing", DatasetError, file=test, expected=["id", "t1-gd", "2nd scan"]):
        convert_csv(table, test, tmp_path / "out")


def test_tables_that_are_missing_or_in_another_encoding_are_refused(tmp_path: Path):
    with refuses("table-missing", DatasetError, file=tmp_path / "none.csv"):
        convert_csv(tmp_path / "none.csv", None, tmp_path / "out")
    (tmp_path / "latin.csv").write_bytes("id,mask,t1\nMüller,a,b\n".encode("latin-1"))
    with refuses("table-unreadable", DatasetError, file=tmp_path / "latin.csv"):
        convert_csv(tmp_path / "latin.csv", None, tmp_path / "out")


def test_no_dataset_is_written_if_all_patients_fail(tmp_path: Path):
    train = write_table(tmp_path / "train.csv", "id,mask,t1,t2", *rows("p"))
    converted = convert_csv(train, None, tmp_path / "out")
    assert next(converted).error is not None
    with refuses("no-patients", DatasetError):
        next(converted)
    assert list((tmp_path / "out").rglob("*")) == []


def test_a_dataset_is_only_replaced_with_overwrite_and_completely(table: Path, tmp_path: Path):
    list(convert_csv(table, None, tmp_path / "out"))
    fewer = write_table(table.parent / "fewer.csv", "id,mask,t1,t2", *rows("new"))
    with refuses("output-exists", DatasetError, names="--overwrite", found=["dataset.json", "raw"]):
        convert_csv(fewer, None, tmp_path / "out")
    list(convert_csv(fewer, None, tmp_path / "out", overwrite=True))
    assert [path.name for path in (tmp_path / "out" / "raw" / "train").iterdir()] == ["new"]


def test_an_interrupted_or_failed_conversion_leaves_the_earlier_dataset(table: Path, tmp_path: Path):
    out = tmp_path / "out"
    list(convert_csv(table, None, out))
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    interrupted = convert_csv(table, None, out, overwrite=True)
    next(interrupted)
    interrupted.close()
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    broken = write_table(table.parent / "broken.csv", "id,mask,t1,t2", "p,none.nii.gz,none.nii.gz,none.nii.gz")
    with refuses("no-patients", DatasetError):
        list(convert_csv(broken, None, out, overwrite=True))
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_files_in_the_output_folder_are_refused_as_sources(table: Path, tmp_path: Path):
    list(convert_csv(table, None, tmp_path / "out"))
    own = write_table(tmp_path / "own.csv", "id,mask,t1", "p,out/raw/train/001/mask.nii.gz,in/a/t1.nii.gz")
    with refuses("output-is-input", DatasetError, file=tmp_path / "out" / "raw" / "train" / "001" / "mask.nii.gz"):
        convert_csv(own, None, tmp_path / "out", overwrite=True)
