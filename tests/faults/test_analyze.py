"""Faults of ``mist_analyze``: datasets and results with one fault each."""

from __future__ import annotations

import filecmp
import gzip
import shutil
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from .harness import (
    Fault,
    Sandbox,
    cut_short,
    edit_header,
    edit_json,
    edit_text,
    fill,
    meets,
    move_grid,
    remove,
    save,
    seen_by_itk,
    store_in_microns,
    store_with_slope,
    voxels,
)


def corrupt(path: Path) -> None:
    """Overwrite 64 bytes in the middle of a file."""
    content = path.read_bytes()
    middle = len(content) // 2
    path.write_bytes(content[:middle] + b"\xff" * 64 + content[middle + 64 :])


def change(path: Path, made: Callable[[np.ndarray], np.ndarray]) -> None:
    """Replace the voxels of an image."""
    save(path, made(voxels(path)))


def hot(array: np.ndarray, value: float) -> np.ndarray:
    """Set a single voxel."""
    array = array.astype(np.float32)
    array[3, 4, 5] = value
    return array


def put(path: Path, value: float, dtype: type = np.float32) -> None:
    """Set some voxels in the middle of an image."""

    def changed(array: np.ndarray) -> np.ndarray:
        array = array.astype(dtype)
        array[8:12, 8:12, 8:12] = value
        return array

    change(path, changed)


def colored(array: np.ndarray) -> np.ndarray:
    """An image of three bytes per voxel."""
    made = np.zeros(array.shape, dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    made["R"] = array.astype(np.uint8)
    return made


def sheared(path: Path) -> None:
    """Shear the grid of an image, as a tilted gantry does."""
    affine = nib.load(path).affine.copy()
    affine[:3, 1] += 0.2 * affine[:3, 0]
    save(path, voxels(path), affine)


def rename(box: Sandbox, name: str) -> None:
    """Rename the first patient."""
    box.patient().rename(box.patient().with_name(name))


def move_away(box: Sandbox) -> None:
    """Move the folder of a patient outside the dataset, and link to it."""
    outside = box.folder / "outside"
    shutil.move(box.patient(), outside)
    box.patient().symlink_to(outside)


def patients(box: Sandbox, text: str | bytes, encoding: str = "utf-8") -> None:
    """Add a table of patients to dataset.json."""
    content = text.encode(encoding) if isinstance(text, str) else text
    (box.study.data.parent / "patients.csv").write_bytes(content)
    edit_json(box.study.data, patients="patients.csv")


DAMAGED = [
    Fault(
        "analyze/truncated-gz",
        "a truncated image",
        lambda box: cut_short(box.image()),
        ("[image-unreadable]", "t1.nii.gz"),
    ),
    Fault(
        "analyze/corrupted-gz",
        "an image with corrupted bytes",
        lambda box: corrupt(box.image()),
        ("[image-unreadable]", "t1.nii.gz"),
    ),
    Fault(
        "analyze/truncated-mask",
        "a truncated mask",
        lambda box: cut_short(box.mask()),
        ("[image-unreadable]", "mask.nii.gz"),
    ),
    Fault(
        "analyze/not-an-image",
        "a text file named like an image",
        lambda box: fill(box.image(), "This is not an image."),
        ("[image-unreadable]", "t1.nii.gz"),
    ),
    Fault(
        "analyze/not-compressed",
        "an uncompressed image named .nii.gz",
        lambda box: box.image().write_bytes(gzip.decompress(box.image().read_bytes())) and None,
        ("[image-format]", "t1.nii.gz", "Rename it"),
    ),
    Fault(
        "analyze/dicom",
        "a DICOM file named like an image",
        lambda box: box.image().write_bytes(bytes(128) + b"DICM" + bytes(512)) and None,
        ("[image-format]", "t1.nii.gz", "dcm2niix"),
    ),
    Fault(
        "analyze/image-2d",
        "an image of one slice",
        lambda box: change(box.image(), lambda array: array[:, :, 10]),
        ("[image-not-3d]", "t1.nii.gz"),
    ),
    Fault(
        "analyze/image-4d",
        "an image with two volumes",
        lambda box: change(box.image(), lambda array: np.stack([array, array], axis=-1)),
        "[image-not-3d]",
    ),
    Fault(
        "analyze/image-rgb",
        "an RGB image",
        lambda box: change(box.image(), colored),
        ("[voxel-type]", "t1.nii.gz"),
    ),
    Fault(
        "analyze/nan-voxels",
        "an image with NaN voxels",
        lambda box: put(box.image(), np.nan),
        ("[image-not-finite]", "t1.nii.gz", "64"),
    ),
    Fault(
        "analyze/hot-voxel",
        "an image with a voxel of 1e9",
        lambda box: change(box.image(), lambda array: hot(array, 1e9)),
        ("A few voxels are so far from the others", "phantom_001", "1e+09"),
        status=0,
        again=False,
    ),
    Fault(
        "analyze/other-units",
        "an image in units of 1e20",
        lambda box: change(box.image(), lambda array: array.astype(np.float32) * np.float32(1e18)),
        ("far from those of the other patients", "phantom_001", "e+20"),
        status=0,
        again=False,
    ),
    Fault(
        "analyze/infinite-voxels",
        "an image with infinite voxels",
        lambda box: put(box.image(), np.inf),
        ("[image-not-finite]", "t1.nii.gz", "64"),
    ),
    Fault(
        "analyze/absurd-header",
        "a header with 35 trillion voxels",
        lambda box: edit_header(box.image(), dim=[3, 32767, 32767, 32767, 1, 1, 1, 1]),
        "[image-size]",
    ),
    Fault(
        "analyze/negative-header",
        "a header with a negative size",
        lambda box: edit_header(box.image(), dim=[3, -24, 26, 22, 1, 1, 1, 1]),
        "t1.nii.gz",
    ),
    Fault(
        "analyze/empty-image",
        "an empty image file",
        lambda box: fill(box.image()),
        ("[image-unreadable]", "t1.nii.gz is empty"),
    ),
]

GRIDS = [
    Fault(
        f"analyze/{name}-other-{field}",
        f"{words} of another {field} than the image",
        lambda box, file=file, field=field: move_grid(box.patient() / file, field),
        ("[grid-mismatch]", "Case 'phantom_001'", f"{field} "),
        again=field == "size",
    )
    for name, words, file in [("mask", "a mask", "mask.nii.gz"), ("channel", "a second channel", "t2.nii.gz")]
    for field in ("size", "spacing", "origin", "direction")
] + [
    Fault(
        "analyze/sheared-affine",
        "an image on a sheared grid",
        lambda box: sheared(box.image()),
        ("[grid-sheared]", "t1.nii.gz"),
    ),
    Fault(
        "analyze/zero-affine",
        "an image with a zero affine",
        lambda box: edit_header(box.image(), sform_code=1, qform_code=0, srow_x=0, srow_y=0, srow_z=0),
        ("[image-unreadable]", "t1.nii.gz"),
    ),
    Fault(
        "analyze/qform-against-sform",
        "an image whose sform and qform differ by 20 mm",
        lambda box: edit_header(box.image(), qoffset_x=nib.load(box.image()).header["qoffset_x"] + 20),
        ("20 mm", "phantom_001"),
        status=0,
        again=False,
    ),
    Fault(
        "analyze/microns",
        "a patient whose headers are in microns, with a mask in millimeters",
        lambda box: store_in_microns(box.image(), box.image(channel="t2")),
        "Analysis complete",
        status=0,
        again=False,
    ),
    Fault(
        "analyze/mask-with-slope",
        "a mask stored with a slope of 1/120",
        lambda box: store_with_slope(box.mask(), 1 / 120),
        "Analysis complete",
        status=0,
        again=False,
    ),
    Fault(
        "analyze/mask-of-itk",
        "a mask on the grid that only ITK reads from the images, by their qform",
        lambda box: seen_by_itk(box.mask(), box.image(), box.image(channel="t2")),
        ("phantom_001", "the sform of mask.nii.gz and the qform of t1.nii.gz"),
        status=0,
        again=False,
    ),
]

LABELS = [
    Fault(
        "analyze/unknown-label",
        "a label that dataset.json does not list",
        lambda box: edit_json(box.study.data, labels=[0, 1], final_classes=None),
        ("[unknown-label]", "the label 2", "Case 'phantom_001'"),
    ),
    Fault(
        "analyze/label-beyond-255",
        "a label of 300 in a mask",
        lambda box: put(box.mask(), 300, np.uint16),
        ("[unknown-label]", "the label 300", "Case 'phantom_001'"),
    ),
    Fault(
        "analyze/fractional-labels",
        "an interpolated mask",
        lambda box: put(box.mask(), 0.4),
        ("[labels-not-integer]", "64 voxels", "0.4"),
    ),
    Fault(
        "analyze/empty-mask",
        "a mask with only background",
        lambda box: change(box.mask(), np.zeros_like),
        ("background", "phantom_001"),
        status=0,
        again=False,
    ),
    Fault(
        "analyze/negative-labels",
        "a mask with a negative label",
        lambda box: put(box.mask(), -1, np.int16),
        "[labels-out-of-range]",
    ),
    Fault(
        "analyze/nan-labels",
        "a mask with NaN voxels",
        lambda box: put(box.mask(), np.nan),
        "mask.nii.gz holds",
    ),
]

FOLDERS = [
    Fault(
        "analyze/missing-image",
        "a missing image",
        lambda box: remove(box.image()),
        ("[file-unmatched]", "'phantom_001'", "'t1'"),
    ),
    Fault(
        "analyze/missing-mask",
        "a missing mask",
        lambda box: remove(box.mask()),
        ("[file-unmatched]", "'phantom_001'", "'mask'"),
    ),
    Fault(
        "analyze/ambiguous-image",
        "several files that match an image",
        lambda box: edit_json(box.study.data, images={"t1": ["nii.gz"], "t2": ["t2.nii.gz"]}),
        ("[file-ambiguous]", "'phantom_001'", "'t1'", "3 files", "mask.nii.gz, t1.nii.gz, t2.nii.gz"),
    ),
    Fault(
        "analyze/duplicated-image",
        "the same image for two patients",
        lambda box: shutil.copytree(box.patient(1), box.patient(2), dirs_exist_ok=True) and None,
        "phantom_001, phantom_002 have the same image",
        status=0,
        again=False,
    ),
    Fault(
        "analyze/empty-patient-folder",
        "an empty patient folder",
        lambda box: box.patient(9).mkdir(),
        ("[file-unmatched]", "'phantom_009'", "'mask'"),
        again=False,
    ),
    Fault(
        "analyze/stray-file",
        "a file next to the patient folders",
        lambda box: fill(box.patient().parent / "notes.txt", "notes"),
        "Analysis complete",
        status=0,
        again=False,
    ),
    Fault(
        "analyze/no-patients",
        "a folder without patients",
        lambda box: (box.folder / "data" / "none").mkdir() or edit_json(box.study.data, **{"train-data": "none"}),
        "[folder-empty]",
    ),
    Fault(
        "analyze/symlink-outside",
        "a patient folder that links outside the dataset",
        move_away,
        ("phantom_001", "outside"),
        status=0,
        again=False,
    ),
    Fault(
        "analyze/symlink-broken",
        "a patient folder that is a broken link",
        lambda box: box.patient(9).symlink_to(box.folder / "gone"),
        ("[link-broken]", "phantom_009"),
        again=False,
    ),
    Fault(
        "analyze/symlink-loop",
        "a patient folder that links to itself",
        lambda box: box.patient(9).symlink_to(box.patient(9)),
        ("[link-broken]", "phantom_009"),
        again=False,
    ),
    Fault(
        "analyze/symlink-broken-image",
        "an image that is a broken link",
        lambda box: remove(box.image()) or box.image().symlink_to(box.folder / "gone.nii.gz"),
        ("[link-broken]", "t1.nii.gz"),
        again=False,
    ),
]

IDS = [
    Fault(
        f"analyze/id-{key}",
        f"a patient whose id {words}",
        lambda box, name=name: rename(box, name),
        "Analysis complete" if fine else "[id-unsafe]",
        status=0 if fine else 1,
        again=False,
    )
    for key, words, name, fine in [
        ("non-ascii", "is not in ASCII", "Müller_002", True),
        ("decomposed", "has decomposed accents", "Mu\u0308ller_002", True),
        ("with-spaces", "contains a space", "phantom 002", True),
        ("with-dots", "contains dots", "phantom.002.v1", True),
        ("named-like-a-channel", "is the name of an image", "t1.nii.gz", True),
        ("with-markup", "contains brackets", "002[red]", False),
        ("with-a-newline", "contains a line break", "phantom\n002", False),
        ("beginning-with-a-dash", "starts with a dash", "-rf", False),
        ("too-long", "is too long for a file name", "x" * 250, False),
        ("too-long-non-ascii", "is too long in bytes", "ü" * 120, False),
    ]
]

DESCRIPTIONS = [
    Fault(
        f"analyze/dataset-{key}",
        words,
        lambda box, broken=broken: broken(box.study.data),
        says,
        again=key == "missing",
    )
    for key, words, broken, says in [
        ("missing", "no dataset.json", remove, "[dataset-missing]"),
        ("empty", "an empty dataset.json", fill, ("[json-invalid]", "dataset.json")),
        (
            "comments",
            "a comment in dataset.json",
            lambda path: edit_text(path, lambda text: text.replace("{", "{\n// phantoms", 1)),
            ("[json-invalid]", "line 2"),
        ),
        (
            "trailing-comma",
            "a trailing comma in dataset.json",
            lambda path: edit_text(path, lambda text: text.rstrip().removesuffix("}") + ",}"),
            "[json-invalid]",
        ),
        (
            "utf-16",
            "a dataset.json in UTF-16",
            lambda path: edit_text(path, str, "utf-16"),
            "[json-invalid]",
        ),
        (
            "a-list",
            "a list in dataset.json",
            lambda path: fill(path, "[]"),
            ("[value-invalid]", "dataset.json", "an object"),
        ),
        (
            "duplicate-key",
            "a duplicate key in dataset.json",
            lambda path: edit_text(path, lambda text: text.rstrip().removesuffix("}") + ', "labels": [0, 1]}'),
            ("[json-invalid]", "'labels'"),
        ),
        (
            "nan",
            "NaN in dataset.json",
            lambda path: edit_text(path, lambda text: text.rstrip().removesuffix("}") + ', "x": NaN}'),
            ("[json-invalid]", "NaN"),
        ),
        (
            "unknown-key",
            "a misspelled key in dataset.json",
            lambda path: edit_text(path, lambda text: text.replace("test-data", "test-dat")),
            ("[value-invalid]", "'test-dat'", "'test-data'"),
        ),
        (
            "key-missing",
            "a missing key in dataset.json",
            lambda path: edit_json(path, modality=None),
            ("[key-missing]", "'modality'"),
        ),
        (
            "images-a-string",
            "channels given as text",
            lambda path: edit_json(path, images="t1.nii.gz"),
            ("[value-invalid]", "'images'"),
        ),
        (
            "channel-a-string",
            "a channel given as text instead of a list",
            lambda path: edit_json(path, images={"t1": "t1.nii.gz"}),
            ("[value-invalid]", "'images.t1'"),
        ),
        (
            "channel-named-mask",
            "a channel named mask",
            lambda path: edit_json(path, images={"mask": ["t1.nii.gz"]}),
            ("[value-invalid]", "'images'", "'mask'"),
        ),
        (
            "labels-strings",
            "labels given as text",
            lambda path: edit_json(path, labels=[0, "1", "2"]),
            ("[value-invalid]", "'labels.1'"),
        ),
        (
            "labels-without-0",
            "labels without background",
            lambda path: edit_json(path, labels=[1, 2]),
            ("[value-invalid]", "'labels'", "1, 2"),
        ),
        (
            "labels-twice",
            "a label listed twice",
            lambda path: edit_json(path, labels=[0, 1, 2, 2]),
            ("[value-invalid]", "'labels'", "0, 1, 2, 2"),
        ),
        (
            "label-300",
            "a label of 300 in dataset.json",
            lambda path: edit_json(path, labels=[0, 1, 2, 300]),
            ("[value-invalid]", "'labels.3'", "255", "300"),
        ),
        (
            "class-unknown-label",
            "a class with an unknown label",
            lambda path: edit_json(path, final_classes={"core": [5]}),
            ("[value-invalid]", "'final_classes'", "'core'", "5"),
        ),
        (
            "train-data-missing",
            "a missing folder of patients",
            lambda path: edit_json(path, **{"train-data": "trian"}),
            ("[folder-missing]", "'train-data'", "trian"),
        ),
        (
            "test-data-wrong",
            "a missing folder of test patients",
            lambda path: edit_json(path, **{"test-data": "tset"}),
            ("[folder-missing]", "'test-data'", "tset"),
        ),
        (
            "modality-wrong",
            "an unknown modality",
            lambda path: edit_json(path, modality="mri"),
            ("[value-invalid]", "'modality'", "ct, mr or other", "'mri'"),
        ),
    ]
]

PATIENT_TABLES = [
    Fault(
        f"analyze/patients-{key}",
        words,
        lambda box, text=text, encoding=encoding: patients(box, text, encoding),
        says,
        status=0 if key == "unknown" else 1,
        again=key == "empty",
    )
    for key, words, text, encoding, says in [
        ("empty", "an empty table of patients", "", "utf-8", "patients.csv"),
        ("without-id", "a table of patients without ids", "fold\n0\n", "utf-8", ("[table-column-missing]", "id")),
        ("id-twice", "a patient twice in the table", "id,fold\na,0\na,1\n", "utf-8", ("[patient-duplicate]", "'a'")),
        (
            "fold-wrong",
            "a fold that is not a number",
            "id,fold\nphantom_001,one\n",
            "utf-8",
            ("[table-not-integer]", "'one'"),
        ),
        (
            "fold-beyond",
            "a fold that does not exist",
            "id,fold\nphantom_001,7\n",
            "utf-8",
            ("[unknown-fold]", "phantom_001", "fold 7"),
        ),
        (
            "latin-1",
            "a table of patients not in UTF-8",
            "id,fold\nMüller,0\n",
            "latin-1",
            ("[table-unreadable]", "patients.csv", "UTF-8"),
        ),
        (
            "dotdot",
            "an id with a path to another folder",
            "id,fold\n../x,0\n",
            "utf-8",
            ("[id-unsafe]", "patients.csv", "'../x'"),
        ),
        (
            "unknown",
            "unknown patients in the table",
            "id,fold\nfantom_001,0\n",
            "utf-8",
            "fantom_001",
        ),
    ]
]

DESCRIBED = [
    *DAMAGED,
    *GRIDS,
    *LABELS,
    *FOLDERS,
    *IDS,
    *DESCRIPTIONS,
    *PATIENT_TABLES,
    Fault(
        "analyze/dataset-bom",
        "a byte-order mark before dataset.json",
        lambda box: edit_text(box.study.data, lambda text: "\ufeff" + text),
        "Analysis complete",
        status=0,
        again=False,
    ),
    Fault("analyze/nfolds-1", "one fold", lambda box: ["--nfolds", "1"], "--nfolds", status=2),
    Fault(
        "analyze/nfolds-beyond-patients",
        "more folds than patients",
        lambda box: ["--nfolds", "9"],
        ("[nfolds-invalid]", "4 training cases", "9 folds"),
    ),
]

VERIFIED = [
    Fault(
        "analyze-verify/truncated-gz",
        "a truncated image, with --verify",
        lambda box: cut_short(box.image()),
        ("phantom_001", "[image-unreadable]"),
        status=0,
        again=False,
    ),
    Fault(
        "analyze-verify/truncated-second-channel",
        "a truncated second channel, with --verify",
        lambda box: cut_short(box.image(channel="t2")),
        ("phantom_001", "[image-unreadable]"),
        status=0,
        again=False,
    ),
    Fault(
        "analyze-verify/nan-voxels-second-channel",
        "a second channel with NaN voxels, with --verify",
        lambda box: put(box.image(channel="t2"), np.nan),
        ("[image-not-finite]", "t2.nii.gz", "64"),
        status=0,
        again=False,
    ),
    Fault(
        "analyze-verify/constant-image",
        "a constant image, with --verify",
        lambda box: change(box.image(), np.ones_like),
        ("[image-constant]", "phantom_001", "t1.nii.gz"),
        status=0,
        again=False,
    ),
    Fault(
        "analyze-verify/mask-other-origin",
        "a mask of another origin than the image, with --verify",
        lambda box: move_grid(box.mask(), "origin"),
        ("[grid-mismatch]", "phantom_001", "origin"),
        status=0,
        again=False,
    ),
    Fault(
        "analyze-verify/empty-mask",
        "a mask with only background, with --verify",
        lambda box: change(box.mask(), np.zeros_like),
        ("[mask-empty]", "phantom_001"),
        status=0,
        again=False,
    ),
    Fault(
        "analyze-verify/unknown-label",
        "an unlisted label in every mask, with --verify",
        lambda box: edit_json(box.study.data, labels=[0, 1], final_classes=None),
        ("[cases-unusable]", "4 of 4", "[unknown-label]"),
        again=False,
    ),
    Fault(
        "analyze-verify/too-few-left",
        "fewer patients than folds after exclusion, with --verify",
        lambda box: [cut_short(box.image(number)) for number in (1, 2, 3)] and None,
        ("[nfolds-invalid]", "1 training case", "2 folds"),
        again=False,
    ),
]

KEPT = [
    Fault(
        "analyze/results-exist",
        "results of an earlier analysis",
        lambda box: [],
        "config.json",
        again=False,
    ),
    Fault(
        "analyze/overwrite-then-fails",
        "a truncated image, with --overwrite on an earlier analysis",
        lambda box: cut_short(box.image()) or ["--overwrite", "--nfolds", "2"],
        ("1 of 4 cases", "[image-unreadable]", "t1.nii.gz"),
        again=False,
    ),
    Fault(
        "analyze/replan-without-update",
        "--replan with --overwrite on an earlier analysis",
        lambda box: ["--overwrite", "--replan"],
        ("[flags-contradict]", "--replan", "--update"),
        again=False,
    ),
    Fault(
        "analyze/update-then-fails",
        "a truncated image, with --update of an earlier analysis",
        lambda box: cut_short(box.image()) or ["--update"],
        ("1 of 4 cases", "[image-unreadable]", "t1.nii.gz"),
        again=False,
    ),
]

BROKEN = [
    Fault(
        "analyze/update-config-broken",
        "a truncated config.json, with --update",
        lambda box: cut_short(box.study.config) or ["--update"],
        ("[json-invalid]", "config.json"),
        again=False,
    ),
    Fault(
        "analyze/update-fingerprint-broken",
        "a truncated fingerprint.json, with --update",
        lambda box: cut_short(box.study.fingerprint) or ["--update"],
        ("[json-invalid]", "fingerprint.json"),
        again=False,
    ),
    Fault(
        "analyze/update-fingerprint-missing",
        "results without fingerprint.json, with --update",
        lambda box: remove(box.study.fingerprint) or ["--update"],
        ("[fingerprint-missing]", "fingerprint.json", "--overwrite"),
        again=False,
    ),
    Fault(
        "analyze/update-paths-broken",
        "an empty train_paths.csv, with --update",
        lambda box: fill(box.study.train_paths) or ["--update"],
        ("[table-unreadable]", "train_paths.csv"),
        again=False,
    ),
]

FAULTS = [*DESCRIBED, *VERIFIED, *KEPT, *BROKEN]


@pytest.mark.parametrize("fault", DESCRIBED, ids=lambda fault: fault.key)
def test_analyze(described: Sandbox, fault: Fault) -> None:
    meets(described, "analyze", ["--data", described.study.data, "--nfolds", "2"], fault)


@pytest.mark.parametrize("fault", VERIFIED, ids=lambda fault: fault.key)
def test_analyze_verify(described: Sandbox, fault: Fault) -> None:
    meets(described, "analyze", ["--data", described.study.data, "--nfolds", "2", "--verify"], fault)


@pytest.mark.parametrize("fault", KEPT, ids=lambda fault: fault.key)
def test_a_failed_analysis_keeps_the_earlier_one(analyzed: Sandbox, fault: Fault, sound: Path) -> None:
    meets(analyzed, "analyze", ["--data", analyzed.study.data], fault)
    names = [path.name for path in analyzed.study.results.iterdir() if path.is_file()]
    assert filecmp.cmpfiles(analyzed.study.results, sound / "results", names, shallow=False)[0] == names


@pytest.mark.parametrize("fault", BROKEN, ids=lambda fault: fault.key)
def test_analyze_with_broken_results(analyzed: Sandbox, fault: Fault) -> None:
    meets(analyzed, "analyze", ["--data", analyzed.study.data], fault)
