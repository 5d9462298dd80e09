"""``mist_convert_csv`` and ``mist_convert_msd`` on sources with one fault each."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from .harness import (
    Arguments,
    Fault,
    Sandbox,
    cut_short,
    edit_json,
    edit_rows,
    edit_text,
    fill,
    meets,
    remove,
    save,
    voxels,
)

IDS = [f"phantom_{number:03}" for number in range(1, 5)]


def table(box: Sandbox) -> Path:
    """The table of patients."""
    return box.folder / "data" / "train.csv"


def output(box: Sandbox) -> Path:
    """The folder of the converted dataset."""
    return box.folder / "converted"


def source(box: Sandbox) -> Path:
    """The folder of the Decathlon's dataset."""
    return box.folder / "data" / "Task01"


def others_done(box: Sandbox) -> bool:
    """Whether all patients but the first are converted, and of that one nothing is left."""
    first, *others = [(output(box) / "raw" / "train" / case_id).exists() for case_id in IDS]
    return all(others) and not first and (output(box) / "dataset.json").is_file()


def nothing_written(box: Sandbox) -> bool:
    """Whether the output is as if the command had not been run."""
    return not output(box).exists()


@pytest.fixture
def listed(described: Sandbox) -> Sandbox:
    """A sandbox with a table of the patients' files."""
    files = [f"train/{case_id}/{name}.nii.gz" for case_id in IDS for name in ("mask", "t1", "t2")]
    rows = [f"{case_id},{','.join(files[3 * n : 3 * n + 3])}\n" for n, case_id in enumerate(IDS)]
    table(described).write_text("id,mask,t1,t2\n" + "".join(rows))
    return described


@pytest.fixture
def decathlon(described: Sandbox) -> Sandbox:
    """A sandbox with the patients in the layout of the Decathlon."""
    folder = source(described)
    for part in ("imagesTr", "labelsTr"):
        (folder / part).mkdir(parents=True)
    for number, case_id in enumerate(IDS, start=1):
        channels = [voxels(described.image(number, channel)) for channel in ("t1", "t2")]
        affine = nib.load(described.mask(number)).affine
        nib.save(nib.Nifti1Image(np.stack(channels, axis=-1), affine), folder / "imagesTr" / f"{case_id}.nii.gz")
        shutil.copy(described.mask(number), folder / "labelsTr" / f"{case_id}.nii.gz")
    files = [{"image": f"./imagesTr/{name}.nii.gz", "label": f"./labelsTr/{name}.nii.gz"} for name in IDS]
    labels = {"0": "background", "1": "lesion", "2": "core"}
    description = {"name": "Toy", "modality": {"0": "T1w", "1": "T2w"}, "labels": labels, "training": files}
    (folder / "dataset.json").write_text(json.dumps(description))
    return described


def edit_row(box: Sandbox, **cells: str) -> None:
    """Change cells of the first patient in the table."""
    edit_rows(table(box), lambda rows: [row | cells if row["id"] == IDS[0] else row for row in rows])


def rename_column(name: str, new: str) -> Callable[[Sandbox], None]:
    """Calls a column of the table otherwise."""
    return lambda box: edit_text(table(box), lambda text: text.replace(f",{name}", f",{new}", 1))


def put(path: Path, value: float, dtype: type = np.float32) -> None:
    """Set some voxels in the middle of an image."""
    array = voxels(path).astype(dtype)
    array[8:12, 8:12, 8:12] = value
    save(path, array)


def with_test_table(box: Sandbox, text: str) -> Arguments:
    """Give a table of test patients as well."""
    path = table(box).with_name("test.csv")
    fill(path, text)
    return ["--test-csv", path]


OF_PATIENTS = [
    Fault(f"convert-csv/{key}", words, breaks, says, others_done=others_done, again=key == "truncated-gz")
    for key, words, breaks, says in [
        (
            "truncated-gz",
            "an image that is cut short",
            lambda box: cut_short(box.image()),
            "data/train/phantom_001/t1.nii.gz cannot be read as a NIfTI image",
        ),
        (
            "not-an-image",
            "a text called like an image",
            lambda box: fill(box.image(), "This is not an image."),
            "phantom_001/t1.nii.gz cannot be read as a NIfTI image",
        ),
        (
            "other-format",
            "a text called like an image of another format",
            lambda box: fill(box.patient() / "t1.nrrd", "NRRD") or edit_row(box, t1="train/phantom_001/t1.nrrd"),
            "t1.nrrd cannot be read as an image",
        ),
        (
            "image-4d",
            "an image with two volumes",
            lambda box: save(box.image(), np.stack([voxels(box.image())] * 2, axis=-1)),
            "An image must have three dimensions",
        ),
        (
            "nan-voxels",
            "an image with voxels that are NaN",
            lambda box: put(box.image(), np.nan),
            "holds 64 NaN or infinite voxels",
        ),
        (
            "fractional-labels",
            "a mask that was interpolated",
            lambda box: put(box.mask(), 0.4),
            "data/train/phantom_001/mask.nii.gz holds the value 0.4. Labels must be whole",
        ),
        ("image-missing", "an image that is not there", lambda box: remove(box.image()), "There is no file"),
        ("cell-empty", "an empty cell", lambda box: edit_row(box, t2=""), "the cells of ['t2'] are empty"),
        (
            "symlink-broken",
            "an image that is a link to nothing",
            lambda box: remove(box.image()) or box.image().symlink_to(box.folder / "gone.nii.gz"),
            "There is no file",
        ),
    ]
]

TABLES = [
    Fault(f"convert-csv/{key}", words, breaks, says, others_done=nothing_written, again=key == "table-missing")
    for key, words, breaks, says in [
        ("table-missing", "a table that is not there", lambda box: remove(table(box)), "There is no table"),
        ("table-empty", "an empty table", lambda box: fill(table(box)), "train.csv must have the columns"),
        (
            "table-header-only",
            "a table without patients",
            lambda box: fill(table(box), "id,mask,t1\n"),
            "train.csv lists no patient",
        ),
        (
            "table-latin-1",
            "a table that is not in UTF-8",
            lambda box: edit_text(table(box), lambda text: text.replace(IDS[0], "Müller", 1), "latin-1"),
            "train.csv cannot be read as a table in UTF-8",
        ),
        (
            "table-binary",
            "an image in the place of the table",
            lambda box: shutil.copy(box.image(), table(box)) and None,
            "train.csv cannot be read as a table in UTF-8",
        ),
        (
            "column-missing",
            "a table without masks",
            rename_column("mask", "seg"),
            "train.csv must have the columns ['id', 'mask'] and one per channel",
        ),
        ("column-twice", "a column given twice", rename_column("t2", "t1"), "the name 't1' is given twice"),
        ("column-reserved", "a channel called fold", rename_column("t2", "fold"), "'fold' cannot name a file"),
        ("column-dotdot", "a channel that leads out", rename_column("t2", "../t2"), "'../t2' cannot name a file"),
        ("id-twice", "a patient twice", lambda box: edit_row(box, id=IDS[1]), "the id 'phantom_002' is given twice"),
        ("id-empty", "a patient without an id", lambda box: edit_row(box, id=""), "The id '' cannot name a file"),
        ("id-dotdot", "an id that leads out", lambda box: edit_row(box, id="../x"), "'../x' cannot name a file"),
        ("id-absolute", "an id that is a path", lambda box: edit_row(box, id="/etc/x"), "'/etc/x' cannot name a file"),
        ("id-long", "an id of 300 letters", lambda box: edit_row(box, id="x" * 300), "cannot name a file"),
        (
            "row-too-long",
            "a row with a cell too many",
            lambda box: edit_text(table(box), lambda text: text.rstrip("\n") + ",more\n"),
            "line 5 has 5 cells for 4 columns",
        ),
        (
            "quote-open",
            "a quote that is not closed",
            lambda box: edit_text(table(box), lambda text: text.replace(IDS[0], f'"{IDS[0]}', 1)),
            "train.csv cannot be read as a table",
        ),
        (
            "test-other-channels",
            "a table of test patients with other channels",
            lambda box: with_test_table(box, "id,t1\na,train/phantom_001/t1.nii.gz\n"),
            "test.csv must have the columns ['id', 't1', 't2']",
        ),
        (
            "test-missing",
            "a table of test patients that is not there",
            lambda box: ["--test-csv", "gone.csv"],
            "There is no table",
        ),
    ]
]

ACCEPTED = [
    Fault(f"convert-csv/{key}", words, breaks, "Converted: ", status=0, again=False)
    for key, words, breaks in [
        (
            "table-of-a-spreadsheet",
            "a table with semicolons, a byte-order mark and the line ends of Windows",
            lambda box: edit_text(
                table(box), lambda text: "\ufeff" + text.replace(",", ";").replace("\n", "\r\n") + "\r\n"
            ),
        ),
        ("id-non-ascii", "an id that is not in ASCII", lambda box: edit_row(box, id="Müller")),
        ("id-with-spaces", "an id that holds a space", lambda box: edit_row(box, id="phantom 001")),
    ]
]


def into_source(box: Sandbox) -> Arguments:
    """Have the dataset be written where it was read."""
    return ["--output", source(box)]


OF_CASES = [
    Fault(f"convert-msd/{key}", words, breaks, says, others_done=others_done, again=key == "truncated-gz")
    for key, words, breaks, says in [
        (
            "truncated-gz",
            "an image that is cut short",
            lambda box: cut_short(source(box) / "imagesTr" / "phantom_001.nii.gz"),
            "cannot be read as a NIfTI image",
        ),
        (
            "corrupted-gz",
            "an image with damaged bytes",
            lambda box: damage(source(box) / "imagesTr" / "phantom_001.nii.gz"),
            "cannot be read as a NIfTI image",
        ),
        (
            "truncated-mask",
            "a mask that is cut short",
            lambda box: cut_short(source(box) / "labelsTr" / "phantom_001.nii.gz"),
            "labelsTr/phantom_001.nii.gz cannot be read as a NIfTI image",
        ),
        (
            "channel-missing",
            "an image with fewer channels than are listed",
            lambda box: shutil.copy(box.image(), source(box) / "imagesTr" / "phantom_001.nii.gz") and None,
            "holds 1 channels but 'modality' lists 2",
        ),
        (
            "mask-missing",
            "a mask that is not there",
            lambda box: remove(source(box) / "labelsTr" / "phantom_001.nii.gz"),
            "there is no file of its mask",
        ),
        (
            "image-missing",
            "an image that is not there",
            lambda box: remove(source(box) / "imagesTr" / "phantom_001.nii.gz"),
            "there is no file of its image",
        ),
        (
            "unknown-label",
            "a label that is not listed",
            lambda box: put(source(box) / "labelsTr" / "phantom_001.nii.gz", 7, np.uint8),
            "the mask holds labels [7], but 'labels' lists [0, 1, 2]",
        ),
        (
            "fractional-labels",
            "a mask that was interpolated",
            lambda box: put(source(box) / "labelsTr" / "phantom_001.nii.gz", 0.4),
            "labelsTr/phantom_001.nii.gz holds the value 0.4",
        ),
    ]
]

SOURCES = [
    Fault(f"convert-msd/{key}", words, breaks, says, again=key == "dataset-missing")
    for key, words, breaks, says in [
        (
            "dataset-missing",
            "no dataset.json",
            lambda box: remove(source(box) / "dataset.json"),
            "Name the folder of a Decathlon task with --source",
        ),
        (
            "dataset-empty",
            "an empty dataset.json",
            lambda box: fill(source(box) / "dataset.json"),
            "[json-invalid]",
        ),
        (
            "dataset-broken",
            "a dataset.json that is cut short",
            lambda box: cut_short(source(box) / "dataset.json"),
            "[json-invalid]",
        ),
        (
            "labels-without-0",
            "labels without the background",
            lambda box: edit_json(source(box) / "dataset.json", labels={"1": "a", "2": "b"}),
            "'labels' must hold the background 0, found [1, 2]",
        ),
        (
            "modality-gap",
            "channels that are not numbered from 0 on",
            lambda box: edit_json(source(box) / "dataset.json", modality={"0": "T1w", "2": "T2w"}),
            "'modality' must be numbered from 0 on, found [0, 2]",
        ),
        (
            "channel-twice",
            "two channels of one name",
            lambda box: edit_json(source(box) / "dataset.json", modality={"0": "MRI", "1": "MRI"}),
            "'modality': the name 'MRI' is given twice",
        ),
        (
            "no-training",
            "a dataset.json without patients",
            lambda box: edit_json(source(box) / "dataset.json", training=[]),
            ("[value-invalid]", "'training'"),
        ),
        (
            "patient-twice",
            "a patient listed twice",
            lambda box: edit_json(source(box) / "dataset.json", training=["a.nii.gz", "a.nii.gz"]),
            "lists 'a' twice",
        ),
        (
            "id-dotdot",
            "an entry that is no file's name",
            lambda box: edit_json(source(box) / "dataset.json", training=["imagesTr/.."]),
            "cannot name a file",
        ),
        (
            "entry-outside",
            "an entry that leads out of the source",
            lambda box: edit_json(source(box) / "dataset.json", training=["../../secret.nii.gz"]),
            "there is no file of its image",
        ),
        ("output-is-source", "an output that is the source", into_source, "is the source itself"),
        (
            "source-missing",
            "a source that is not there",
            lambda box: ["--source", "gone"],
            "Name the folder of a Decathlon task with --source",
        ),
    ]
]


def damage(path: Path) -> None:
    """Change a byte in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(bytes(content))


def earlier(box: Sandbox) -> None:
    """Have the output hold a dataset already."""
    output(box).mkdir()
    (output(box) / "dataset.json").write_text("{}")


EXISTING = Fault(
    "convert-csv/output-exists",
    "an output that holds a dataset already",
    earlier,
    "holds dataset.json already. Name another folder, or replace them with --overwrite",
    again=False,
)

OF_TABLES, OF_SOURCES = [*OF_PATIENTS, *TABLES, *ACCEPTED], [*OF_CASES, *SOURCES]
FAULTS = [*OF_TABLES, *OF_SOURCES, EXISTING]


@pytest.mark.parametrize("fault", OF_TABLES, ids=lambda fault: fault.key)
def test_convert_csv(listed: Sandbox, fault: Fault) -> None:
    meets(listed, "convert_csv", ["--train-csv", table(listed), "--output", output(listed), "--overwrite"], fault)


@pytest.mark.parametrize("fault", OF_SOURCES, ids=lambda fault: fault.key)
def test_convert_msd(decathlon: Sandbox, fault: Fault) -> None:
    arguments = ["--source", source(decathlon), "--output", output(decathlon), "--overwrite"]
    meets(decathlon, "convert_msd", arguments, fault)


def test_a_conversion_upon_a_dataset_keeps_it(listed: Sandbox) -> None:
    meets(listed, "convert_csv", ["--train-csv", table(listed), "--output", output(listed)], EXISTING)
