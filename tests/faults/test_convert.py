"""``mist_convert_csv``, ``mist_convert_msd`` and ``mist_convert_nnunet`` on sources with one fault each."""

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
    """Whether all patients except the first are converted, and the first left no folder."""
    first, *others = [(output(box) / "raw" / "train" / case_id).exists() for case_id in IDS]
    return all(others) and not first and (output(box) / "dataset.json").is_file()


def nothing_written(box: Sandbox) -> bool:
    """Whether the output folder does not exist."""
    return not output(box).exists()


@pytest.fixture
def listed(described: Sandbox) -> Sandbox:
    """A sandbox with a table of patients."""
    files = [f"train/{case_id}/{name}.nii.gz" for case_id in IDS for name in ("mask", "t1", "t2")]
    rows = [f"{case_id},{','.join(files[3 * n : 3 * n + 3])}\n" for n, case_id in enumerate(IDS)]
    table(described).write_text("id,mask,t1,t2\n" + "".join(rows))
    return described


@pytest.fixture
def decathlon(described: Sandbox) -> Sandbox:
    """A sandbox with a dataset in the layout of the Decathlon."""
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


@pytest.fixture
def nnunet(described: Sandbox) -> Sandbox:
    """A sandbox with a dataset in the layout of nnU-Net."""
    folder = source(described)
    for part in ("imagesTr", "labelsTr"):
        (folder / part).mkdir(parents=True)
    for number, case_id in enumerate(IDS, start=1):
        for index, channel in enumerate(("t1", "t2")):
            shutil.copy(described.image(number, channel), folder / "imagesTr" / f"{case_id}_{index:04}.nii.gz")
        shutil.copy(described.mask(number), folder / "labelsTr" / f"{case_id}.nii.gz")
    labels = {"background": 0, "lesion": [1, 2], "core": 2}
    description = {"channel_names": {"0": "T1w", "1": "T2w"}, "labels": labels, "file_ending": ".nii.gz"}
    (folder / "dataset.json").write_text(json.dumps(description))
    return described


def edit_row(box: Sandbox, **cells: str) -> None:
    """Change cells of the first patient in the table."""
    edit_rows(table(box), lambda rows: [row | cells if row["id"] == IDS[0] else row for row in rows])


def rename_column(name: str, new: str) -> Callable[[Sandbox], None]:
    """Rename a column of the table."""
    return lambda box: edit_text(table(box), lambda text: text.replace(f",{name}", f",{new}", 1))


def put(path: Path, value: float, dtype: type = np.float32) -> None:
    """Set some voxels in the middle of an image."""
    array = voxels(path).astype(dtype)
    array[8:12, 8:12, 8:12] = value
    save(path, array)


def with_test_table(box: Sandbox, text: str) -> Arguments:
    """Add a table of test patients."""
    path = table(box).with_name("test.csv")
    fill(path, text)
    return ["--test-csv", path]


OF_PATIENTS = [
    Fault(f"convert-csv/{key}", words, breaks, says, others_done=others_done, again=key == "truncated-gz")
    for key, words, breaks, says in [
        (
            "truncated-gz",
            "a truncated image",
            lambda box: cut_short(box.image()),
            ("[image-unreadable]", "data/train/phantom_001/t1.nii.gz"),
        ),
        (
            "not-an-image",
            "a text file named like an image",
            lambda box: fill(box.image(), "This is not an image."),
            ("[image-unreadable]", "phantom_001/t1.nii.gz"),
        ),
        (
            "other-format",
            "a text file named like an image of another format",
            lambda box: fill(box.patient() / "t1.nrrd", "NRRD") or edit_row(box, t1="train/phantom_001/t1.nrrd"),
            ("[image-unreadable]", "t1.nrrd"),
        ),
        (
            "image-4d",
            "an image with two volumes",
            lambda box: save(box.image(), np.stack([voxels(box.image())] * 2, axis=-1)),
            ("[image-not-3d]", "phantom_001"),
        ),
        (
            "nan-voxels",
            "an image with NaN voxels",
            lambda box: put(box.image(), np.nan),
            ("[image-not-finite]", "phantom_001", "64"),
        ),
        (
            "fractional-labels",
            "an interpolated mask",
            lambda box: put(box.mask(), 0.4),
            ("[labels-not-integer]", "data/train/phantom_001/mask.nii.gz", "0.4"),
        ),
        ("image-missing", "a missing image", lambda box: remove(box.image()), "[image-missing]"),
        ("cell-empty", "an empty cell", lambda box: edit_row(box, t2=""), ("[table-cell-empty]", "t2")),
        (
            "symlink-broken",
            "an image that is a broken link",
            lambda box: remove(box.image()) or box.image().symlink_to(box.folder / "gone.nii.gz"),
            "[image-missing]",
        ),
    ]
]

TABLES = [
    Fault(f"convert-csv/{key}", words, breaks, says, others_done=nothing_written, again=key == "table-missing")
    for key, words, breaks, says in [
        ("table-missing", "a missing table", lambda box: remove(table(box)), "[table-missing]"),
        ("table-empty", "an empty table", lambda box: fill(table(box)), ("[table-unreadable]", "train.csv")),
        (
            "table-header-only",
            "a table without patients",
            lambda box: fill(table(box), "id,mask,t1\n"),
            ("[table-empty]", "train.csv"),
        ),
        (
            "table-latin-1",
            "a table that is not in UTF-8",
            lambda box: edit_text(table(box), lambda text: text.replace(IDS[0], "Müller", 1), "latin-1"),
            ("[table-unreadable]", "train.csv"),
        ),
        (
            "table-binary",
            "an image instead of the table",
            lambda box: shutil.copy(box.image(), table(box)) and None,
            ("[table-unreadable]", "train.csv"),
        ),
        (
            "column-missing",
            "a table without masks",
            rename_column("mask", "seg"),
            ("[table-column-missing]", "train.csv", "id, mask"),
        ),
        ("column-twice", "a duplicate column", rename_column("t2", "t1"), ("[column-duplicate]", "t1")),
        ("column-reserved", "a channel called fold", rename_column("t2", "fold"), ("[channel-reserved]", "'fold'")),
        (
            "column-dotdot",
            "a channel that is a path",
            rename_column("t2", "../t2"),
            ("[channel-unsafe]", "'../t2'"),
        ),
        (
            "id-twice",
            "a duplicate patient",
            lambda box: edit_row(box, id=IDS[1]),
            ("[patient-duplicate]", IDS[1]),
        ),
        ("id-empty", "a patient without an id", lambda box: edit_row(box, id=""), ("[id-unsafe]", "''")),
        (
            "id-dotdot",
            "an id that is a relative path",
            lambda box: edit_row(box, id="../x"),
            ("[id-unsafe]", "'../x'"),
        ),
        ("id-absolute", "an id that is a path", lambda box: edit_row(box, id="/etc/x"), ("[id-unsafe]", "'/etc/x'")),
        ("id-long", "an id of 300 letters", lambda box: edit_row(box, id="x" * 300), "[id-unsafe]"),
        (
            "row-too-long",
            "a row with an extra column",
            lambda box: edit_text(table(box), lambda text: text.rstrip("\n") + ",more\n"),
            ("[table-extra-column]", "line 5"),
        ),
        (
            "quote-open",
            "an unclosed quote",
            lambda box: edit_text(table(box), lambda text: text.replace(IDS[0], f'"{IDS[0]}', 1)),
            ("[table-unreadable]", "train.csv"),
        ),
        (
            "test-other-channels",
            "a table of test patients with other channels",
            lambda box: with_test_table(box, "id,t1\na,train/phantom_001/t1.nii.gz\n"),
            ("[table-column-missing]", "test.csv", "id, t1, t2"),
        ),
        (
            "test-missing",
            "a missing table of test patients",
            lambda box: ["--test-csv", "gone.csv"],
            ("[table-missing]", "gone.csv"),
        ),
    ]
]

ACCEPTED = [
    Fault(f"convert-csv/{key}", words, breaks, "Converted: ", status=0, again=False)
    for key, words, breaks in [
        (
            "table-of-a-spreadsheet",
            "a table with semicolons, a byte-order mark and CRLF line endings",
            lambda box: edit_text(
                table(box), lambda text: "\ufeff" + text.replace(",", ";").replace("\n", "\r\n") + "\r\n"
            ),
        ),
        ("id-non-ascii", "a non-ASCII id", lambda box: edit_row(box, id="Müller")),
        ("id-with-spaces", "an id with a space", lambda box: edit_row(box, id="phantom 001")),
    ]
]


def into_source(box: Sandbox) -> Arguments:
    """Use the source as the output."""
    return ["--output", source(box)]


OF_CASES = [
    Fault(f"convert-msd/{key}", words, breaks, says, others_done=others_done, again=key == "truncated-gz")
    for key, words, breaks, says in [
        (
            "truncated-gz",
            "a truncated image",
            lambda box: cut_short(source(box) / "imagesTr" / "phantom_001.nii.gz"),
            ("[image-unreadable]", "imagesTr/phantom_001.nii.gz"),
        ),
        (
            "corrupted-gz",
            "an image with corrupted bytes",
            lambda box: damage(source(box) / "imagesTr" / "phantom_001.nii.gz"),
            ("[image-unreadable]", "imagesTr/phantom_001.nii.gz"),
        ),
        (
            "truncated-mask",
            "a truncated mask",
            lambda box: cut_short(source(box) / "labelsTr" / "phantom_001.nii.gz"),
            ("[image-unreadable]", "labelsTr/phantom_001.nii.gz"),
        ),
        (
            "channel-missing",
            "an image with fewer channels than listed",
            lambda box: shutil.copy(box.image(), source(box) / "imagesTr" / "phantom_001.nii.gz") and None,
            ("[channels-mismatch]", "phantom_001", "1 channel,", "2"),
        ),
        (
            "mask-missing",
            "a missing mask",
            lambda box: remove(source(box) / "labelsTr" / "phantom_001.nii.gz"),
            ("[image-missing]", "phantom_001", "mask"),
        ),
        (
            "image-missing",
            "a missing image",
            lambda box: remove(source(box) / "imagesTr" / "phantom_001.nii.gz"),
            ("[image-missing]", "phantom_001", "image"),
        ),
        (
            "unknown-label",
            "an unlisted label",
            lambda box: put(source(box) / "labelsTr" / "phantom_001.nii.gz", 7, np.uint8),
            ("[unknown-label]", "phantom_001", "7", "0, 1, 2"),
        ),
        (
            "fractional-labels",
            "an interpolated mask",
            lambda box: put(source(box) / "labelsTr" / "phantom_001.nii.gz", 0.4),
            ("[labels-not-integer]", "labelsTr/phantom_001.nii.gz", "0.4"),
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
            ("[dataset-missing]", "--source"),
        ),
        (
            "dataset-empty",
            "an empty dataset.json",
            lambda box: fill(source(box) / "dataset.json"),
            "[json-invalid]",
        ),
        (
            "dataset-broken",
            "a truncated dataset.json",
            lambda box: cut_short(source(box) / "dataset.json"),
            "[json-invalid]",
        ),
        (
            "labels-without-0",
            "labels without the background",
            lambda box: edit_json(source(box) / "dataset.json", labels={"1": "a", "2": "b"}),
            ("[value-invalid]", "'labels'", "1, 2"),
        ),
        (
            "modality-gap",
            "channels not numbered from 0",
            lambda box: edit_json(source(box) / "dataset.json", modality={"0": "T1w", "2": "T2w"}),
            ("[value-invalid]", "'modality'", "0, 2"),
        ),
        (
            "channel-twice",
            "two channels with the same name",
            lambda box: edit_json(source(box) / "dataset.json", modality={"0": "MRI", "1": "MRI"}),
            ("[value-invalid]", "'modality'", "'MRI'"),
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
            ("[patient-duplicate]", "dataset.json", "a"),
        ),
        (
            "id-dotdot",
            "an entry that is not a file name",
            lambda box: edit_json(source(box) / "dataset.json", training=["imagesTr/.."]),
            "[id-unsafe]",
        ),
        (
            "entry-outside",
            "an entry with a path outside the source",
            lambda box: edit_json(source(box) / "dataset.json", training=["../../secret.nii.gz"]),
            ("[image-missing]", "secret"),
        ),
        ("output-is-source", "an output equal to the source", into_source, "[output-is-input]"),
        (
            "source-missing",
            "a missing source",
            lambda box: ["--source", "gone"],
            ("[dataset-missing]", "gone/dataset.json", "--source"),
        ),
    ]
]


OF_NNUNET = [
    *(
        Fault(f"convert-nnunet/{key}", words, breaks, says, others_done=others_done)
        for key, words, breaks, says in [
            (
                "channel-missing",
                "a missing channel",
                lambda box: remove(source(box) / "imagesTr" / "phantom_001_0001.nii.gz"),
                ("[channels-mismatch]", "phantom_001", "_0000", "2 channels"),
            ),
            (
                "mask-missing",
                "a missing mask",
                lambda box: remove(source(box) / "labelsTr" / "phantom_001.nii.gz"),
                ("[image-missing]", "phantom_001", "mask"),
            ),
            (
                "truncated-image",
                "a truncated image",
                lambda box: cut_short(source(box) / "imagesTr" / "phantom_001_0000.nii.gz"),
                ("[image-unreadable]", "imagesTr/phantom_001_0000.nii.gz"),
            ),
            (
                "unknown-label",
                "an unlisted label",
                lambda box: put(source(box) / "labelsTr" / "phantom_001.nii.gz", 7, np.uint8),
                ("[unknown-label]", "phantom_001", "7", "0, 1, 2"),
            ),
        ]
    ),
    *(
        Fault(f"convert-nnunet/{key}", words, breaks, says, others_done=nothing_written)
        for key, words, breaks, says in [
            (
                "dataset-missing",
                "no dataset.json",
                lambda box: remove(source(box) / "dataset.json"),
                ("[dataset-missing]", "--source"),
            ),
            (
                "decathlon",
                "a dataset of the Decathlon",
                lambda box: edit_json(source(box) / "dataset.json", channel_names=None, modality={}, training=[]),
                ("[dataset-layout]", "mist_convert_msd"),
            ),
            (
                "ignore-label",
                "a label of voxels to ignore",
                lambda box: edit_json(source(box) / "dataset.json", labels={"background": 0, "a": 1, "ignore": 2}),
                ("[value-invalid]", "'ignore'"),
            ),
            (
                "file-ending",
                "another file ending than that of the images",
                lambda box: edit_json(source(box) / "dataset.json", file_ending=".nrrd"),
                ("[folder-empty]", "_0000.nrrd"),
            ),
        ]
    ),
]


def damage(path: Path) -> None:
    """Change a byte in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(bytes(content))


def earlier(box: Sandbox) -> None:
    """Write a dataset.json to the output."""
    output(box).mkdir()
    (output(box) / "dataset.json").write_text("{}")


EXISTING = Fault(
    "convert-csv/output-exists",
    "an output that already holds a dataset",
    earlier,
    "already holds dataset.json. Give another folder, or --overwrite to replace them. [output-exists]",  # pinned
    again=False,
)

OF_TABLES, OF_SOURCES = [*OF_PATIENTS, *TABLES, *ACCEPTED], [*OF_CASES, *SOURCES]
FAULTS = [*OF_TABLES, *OF_SOURCES, *OF_NNUNET, EXISTING]


@pytest.mark.parametrize("fault", OF_TABLES, ids=lambda fault: fault.key)
def test_convert_csv(listed: Sandbox, fault: Fault) -> None:
    meets(listed, "convert_csv", ["--train-csv", table(listed), "--output", output(listed), "--overwrite"], fault)


@pytest.mark.parametrize("fault", OF_SOURCES, ids=lambda fault: fault.key)
def test_convert_msd(decathlon: Sandbox, fault: Fault) -> None:
    arguments = ["--source", source(decathlon), "--output", output(decathlon), "--overwrite"]
    meets(decathlon, "convert_msd", arguments, fault)


@pytest.mark.parametrize("fault", OF_NNUNET, ids=lambda fault: fault.key)
def test_convert_nnunet(nnunet: Sandbox, fault: Fault) -> None:
    arguments = ["--source", source(nnunet), "--output", output(nnunet), "--overwrite"]
    meets(nnunet, "convert_nnunet", arguments, fault)


def test_an_existing_dataset_is_kept(listed: Sandbox) -> None:
    meets(listed, "convert_csv", ["--train-csv", table(listed), "--output", output(listed)], EXISTING)
