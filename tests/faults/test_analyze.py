"""``mist_analyze`` on datasets with one fault each."""

from __future__ import annotations

import filecmp
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
    voxels,
)


def corrupt(path: Path) -> None:
    """Overwrite 64 bytes in the middle of a file."""
    content = path.read_bytes()
    middle = len(content) // 2
    path.write_bytes(content[:middle] + b"\xff" * 64 + content[middle + 64 :])


def change(path: Path, made: Callable[[np.ndarray], np.ndarray]) -> None:
    """Write other voxels on the same affine."""
    save(path, made(voxels(path)))


def put(path: Path, value: float, dtype: type = np.float32) -> None:
    """Set some voxels in the middle of an image."""

    def changed(array: np.ndarray) -> np.ndarray:
        array = array.astype(dtype)
        array[8:12, 8:12, 8:12] = value
        return array

    change(path, changed)


def colored(array: np.ndarray) -> np.ndarray:
    """An image of three bytes a voxel."""
    made = np.zeros(array.shape, dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    made["R"] = array.astype(np.uint8)
    return made


def sheared(path: Path) -> None:
    """Tilt an axis of an image towards another, as a gantry does."""
    affine = nib.load(path).affine.copy()
    affine[:3, 1] += 0.2 * affine[:3, 0]
    save(path, voxels(path), affine)


def rename(box: Sandbox, name: str) -> None:
    """Call the first patient otherwise."""
    box.patient().rename(box.patient().with_name(name))


def move_away(box: Sandbox) -> None:
    """Have the folder of a patient lie outside of the dataset, with a link to it in its place."""
    outside = box.folder / "outside"
    shutil.move(box.patient(), outside)
    box.patient().symlink_to(outside)


def patients(box: Sandbox, text: str | bytes, encoding: str = "utf-8") -> None:
    """Name a table of patients in dataset.json."""
    content = text.encode(encoding) if isinstance(text, str) else text
    (box.study.data.parent / "patients.csv").write_bytes(content)
    edit_json(box.study.data, patients="patients.csv")


DAMAGED = [
    Fault(
        "analyze/truncated-gz",
        "an image that is cut short",
        lambda box: cut_short(box.image()),
        "t1.nii.gz cannot be read as a NIfTI image",
    ),
    Fault(
        "analyze/corrupted-gz",
        "an image with damaged bytes",
        lambda box: corrupt(box.image()),
        "t1.nii.gz cannot be read as a NIfTI image",
    ),
    Fault(
        "analyze/truncated-mask",
        "a mask that is cut short",
        lambda box: cut_short(box.mask()),
        "mask.nii.gz cannot be read as a NIfTI image",
    ),
    Fault(
        "analyze/not-an-image",
        "a text called like an image",
        lambda box: fill(box.image(), "This is not an image."),
        "t1.nii.gz cannot be read as a NIfTI image",
    ),
    Fault(
        "analyze/image-2d",
        "an image of one slice",
        lambda box: change(box.image(), lambda array: array[:, :, 10]),
        "An image must have three dimensions",
    ),
    Fault(
        "analyze/image-4d",
        "an image with two volumes",
        lambda box: change(box.image(), lambda array: np.stack([array, array], axis=-1)),
        "[image-not-3d]",
    ),
    Fault(
        "analyze/image-rgb",
        "an image in color",
        lambda box: change(box.image(), colored),
        "A voxel must be one real number",
    ),
    Fault(
        "analyze/nan-voxels",
        "an image with voxels that are NaN",
        lambda box: put(box.image(), np.nan),
        "t1.nii.gz holds 64 NaN or infinite voxels",
    ),
    Fault(
        "analyze/infinite-voxels",
        "an image with infinite voxels",
        lambda box: put(box.image(), np.inf),
        "t1.nii.gz holds 64 NaN or infinite voxels",
    ),
    Fault(
        "analyze/absurd-header",
        "a header that tells of 35 million million voxels",
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
        "an image file without a byte",
        lambda box: fill(box.image()),
        ("[image-unreadable]", "t1.nii.gz is empty"),
    ),
]

GRIDS = [
    Fault(
        f"analyze/{name}-other-{field}",
        f"{words} of another {field} than the image",
        lambda box, file=file, field=field: move_grid(box.patient() / file, field),
        f"differ: {field} (",
        again=field == "size",
    )
    for name, words, file in [("mask", "a mask", "mask.nii.gz"), ("channel", "a second channel", "t2.nii.gz")]
    for field in ("size", "spacing", "origin", "direction")
] + [
    Fault(
        "analyze/sheared-affine",
        "an image on a sheared grid",
        lambda box: sheared(box.image()),
        "t1.nii.gz has a sheared grid",
    ),
    Fault(
        "analyze/zero-affine",
        "an image whose affine is zero",
        lambda box: edit_header(box.image(), sform_code=1, qform_code=0, srow_x=0, srow_y=0, srow_z=0),
        ("[image-unreadable]", "t1.nii.gz"),
    ),
    Fault(
        "analyze/qform-against-sform",
        "an image whose header places it twice, 20 mm apart",
        lambda box: edit_header(box.image(), qoffset_x=nib.load(box.image()).header["qoffset_x"] + 20),
        "The sform and the qform in the headers of phantom_001 are up to 20 mm apart",
        status=0,
        again=False,
    ),
]

LABELS = [
    Fault(
        "analyze/unknown-label",
        "a label that dataset.json does not list",
        lambda box: edit_json(box.study.data, labels=[0, 1], final_classes=None),
        "the mask holds labels [2], but 'labels' lists [0, 1]",
    ),
    Fault(
        "analyze/label-beyond-255",
        "a label of 300 in a mask",
        lambda box: put(box.mask(), 300, np.uint16),
        "the mask holds labels [300], but 'labels' lists [0, 1, 2]",
    ),
    Fault(
        "analyze/fractional-labels",
        "a mask that was interpolated",
        lambda box: put(box.mask(), 0.4),
        "[labels-not-integer]",
    ),
    Fault(
        "analyze/empty-mask",
        "a mask of background alone",
        lambda box: change(box.mask(), np.zeros_like),
        "The masks of phantom_001 hold background alone",
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
        "a mask with voxels that are NaN",
        lambda box: put(box.mask(), np.nan),
        "mask.nii.gz holds",
    ),
]

FOLDERS = [
    Fault(
        "analyze/missing-image",
        "an image that is not there",
        lambda box: remove(box.image()),
        ("[file-unmatched]", "'phantom_001'", "'t1'"),
    ),
    Fault(
        "analyze/missing-mask",
        "a mask that is not there",
        lambda box: remove(box.mask()),
        ("[file-unmatched]", "'phantom_001'", "'mask'"),
    ),
    Fault(
        "analyze/ambiguous-image",
        "two files that may both be an image",
        lambda box: edit_json(box.study.data, images={"t1": ["nii.gz"], "t2": ["t2.nii.gz"]}),
        ("[file-ambiguous]", "'phantom_001'", "'t1'", "3 files", "mask.nii.gz, t1.nii.gz, t2.nii.gz"),
    ),
    Fault(
        "analyze/duplicated-image",
        "one image under the names of two patients",
        lambda box: shutil.copytree(box.patient(1), box.patient(2), dirs_exist_ok=True) and None,
        "The cases phantom_001, phantom_002 have the same image",
        status=0,
        again=False,
    ),
    Fault(
        "analyze/empty-patient-folder",
        "a patient's folder with nothing in it",
        lambda box: box.patient(9).mkdir(),
        ("[file-unmatched]", "'phantom_009'", "'mask'"),
        again=False,
    ),
    Fault(
        "analyze/stray-file",
        "a file beside the folders of the patients",
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
        "a patient's folder that is a link out of the dataset",
        move_away,
        "Files of phantom_001 lie outside the dataset's folders",
        status=0,
        again=False,
    ),
    Fault(
        "analyze/symlink-broken",
        "a patient's folder that is a link to nothing",
        lambda box: box.patient(9).symlink_to(box.folder / "gone"),
        ("[link-broken]", "phantom_009"),
        again=False,
    ),
    Fault(
        "analyze/symlink-loop",
        "a patient's folder that is a link to itself",
        lambda box: box.patient(9).symlink_to(box.patient(9)),
        ("[link-broken]", "phantom_009"),
        again=False,
    ),
    Fault(
        "analyze/symlink-broken-image",
        "an image that is a link to nothing",
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
        ("decomposed", "has its accents apart, as some disks write them", "Mu\u0308ller_002", True),
        ("with-spaces", "holds a space", "phantom 002", True),
        ("with-dots", "holds dots", "phantom.002.v1", True),
        ("named-like-a-channel", "is the name of an image", "t1.nii.gz", True),
        ("with-markup", "holds brackets", "002[red]", False),
        ("with-a-newline", "holds a line break", "phantom\n002", False),
        ("beginning-with-a-dash", "begins with a dash", "-rf", False),
        ("too-long", "is too long for a file made of it", "x" * 250, False),
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
        ("empty", "an empty dataset.json", fill, "cannot be read as JSON"),
        (
            "comments",
            "a comment in dataset.json",
            lambda path: edit_text(path, lambda text: text.replace("{", "{\n// phantoms", 1)),
            "cannot be read as JSON: Expecting property name enclosed in double quotes: line 2",
        ),
        (
            "trailing-comma",
            "a comma too many in dataset.json",
            lambda path: edit_text(path, lambda text: text.rstrip().removesuffix("}") + ",}"),
            "cannot be read as JSON",
        ),
        (
            "utf-16",
            "a dataset.json in UTF-16",
            lambda path: edit_text(path, str, "utf-16"),
            "cannot be read as JSON",
        ),
        (
            "a-list",
            "a dataset.json that holds a list",
            lambda path: fill(path, "[]"),
            "dataset.json: Input should be an object",
        ),
        (
            "duplicate-key",
            "a key given twice in dataset.json",
            lambda path: edit_text(path, lambda text: text.rstrip().removesuffix("}") + ', "labels": [0, 1]}'),
            "the key 'labels' is given twice",
        ),
        (
            "nan",
            "NaN in dataset.json",
            lambda path: edit_text(path, lambda text: text.rstrip().removesuffix("}") + ', "x": NaN}'),
            "NaN is not a number in JSON",
        ),
        (
            "unknown-key",
            "a misspelled key in dataset.json",
            lambda path: edit_text(path, lambda text: text.replace("test-data", "test-dat")),
            ("[value-invalid]", "'test-dat'", "'test-data'"),
        ),
        ("key-missing", "a key that dataset.json lacks", lambda path: edit_json(path, modality=None), "'modality': "),
        (
            "images-a-string",
            "channels given as a text",
            lambda path: edit_json(path, images="t1.nii.gz"),
            "'images': ",
        ),
        (
            "channel-a-string",
            "a channel given as a text, not a list",
            lambda path: edit_json(path, images={"t1": "t1.nii.gz"}),
            "'images.t1': ",
        ),
        (
            "channel-named-mask",
            "a channel called mask",
            lambda path: edit_json(path, images={"mask": ["t1.nii.gz"]}),
            ("[value-invalid]", "'mask'"),
        ),
        (
            "labels-strings",
            "labels given as texts",
            lambda path: edit_json(path, labels=[0, "1", "2"]),
            "'labels.1': ",
        ),
        (
            "labels-without-0",
            "labels without the background",
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
            "'labels.3': Input should be less than or equal to 255",
        ),
        (
            "class-unknown-label",
            "a class of a label that there is not",
            lambda path: edit_json(path, final_classes={"core": [5]}),
            ("[value-invalid]", "'final_classes'", "'core'", "5"),
        ),
        (
            "train-data-missing",
            "a folder of patients that is not there",
            lambda path: edit_json(path, **{"train-data": "trian"}),
            ("[folder-missing]", "'train-data'"),
        ),
        (
            "test-data-wrong",
            "a folder of test patients that is not there",
            lambda path: edit_json(path, **{"test-data": "tset"}),
            ("[folder-missing]", "'test-data'"),
        ),
        (
            "modality-wrong",
            "a modality that there is not",
            lambda path: edit_json(path, modality="mri"),
            "'modality': Input should be 'ct', 'mr' or 'other' (found 'mri')",
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
            "a fold that is no number",
            "id,fold\nphantom_001,one\n",
            "utf-8",
            ("[table-not-integer]", "'one'"),
        ),
        ("fold-beyond", "a fold that there is not", "id,fold\nphantom_001,7\n", "utf-8", "there are folds 0 to 1"),
        (
            "latin-1",
            "a table of patients that is not in UTF-8",
            "id,fold\nMüller,0\n",
            "latin-1",
            "Save it as CSV in UTF-8",
        ),
        ("dotdot", "an id that leads out of its folder", "id,fold\n../x,0\n", "utf-8", "patients.csv: the id '../x'"),
        (
            "unknown",
            "patients in the table that there are not",
            "id,fold\nfantom_001,0\n",
            "utf-8",
            "names fantom_001,",
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
    Fault("analyze/nfolds-1", "one fold", lambda box: ["--nfolds", "1"], "--nfolds: ", status=2),
    Fault(
        "analyze/nfolds-beyond-patients",
        "more folds than patients",
        lambda box: ["--nfolds", "9"],
        "nfolds is 9 but there are 4 training cases",
    ),
]

VERIFIED = [
    Fault(
        "analyze-verify/truncated-gz",
        "an image that is cut short, with --verify",
        lambda box: cut_short(box.image()),
        "Left out: case 'phantom_001': ",
        status=0,
        again=False,
    ),
    Fault(
        "analyze-verify/truncated-second-channel",
        "a second channel that is cut short, with --verify",
        lambda box: cut_short(box.image(channel="t2")),
        "Left out: case 'phantom_001': ",
        status=0,
        again=False,
    ),
    Fault(
        "analyze-verify/nan-voxels-second-channel",
        "a second channel with voxels that are NaN, with --verify",
        lambda box: put(box.image(channel="t2"), np.nan),
        "t2.nii.gz holds 64 NaN or infinite voxels",
        status=0,
        again=False,
    ),
    Fault(
        "analyze-verify/constant-image",
        "an image with one value throughout, with --verify",
        lambda box: change(box.image(), np.ones_like),
        "t1.nii.gz holds 1 in every voxel",
        status=0,
        again=False,
    ),
    Fault(
        "analyze-verify/mask-other-origin",
        "a mask of another origin than the image, with --verify",
        lambda box: move_grid(box.mask(), "origin"),
        "Left out: case 'phantom_001': the mask and t1 differ: origin (",
        status=0,
        again=False,
    ),
    Fault(
        "analyze-verify/empty-mask",
        "a mask of background alone, with --verify",
        lambda box: change(box.mask(), np.zeros_like),
        "Left out: case 'phantom_001': the mask holds background alone",
        status=0,
        again=False,
    ),
    Fault(
        "analyze-verify/unknown-label",
        "a label that dataset.json does not list in every mask, with --verify",
        lambda box: edit_json(box.study.data, labels=[0, 1], final_classes=None),
        "4 of 4 cases cannot be used, and nothing was written",
        again=False,
    ),
    Fault(
        "analyze-verify/too-few-left",
        "fewer patients than folds once the unusable are left out",
        lambda box: [cut_short(box.image(number)) for number in (1, 2, 3)] and None,
        "nfolds is 2 but there is 1 training case",
        again=False,
    ),
]

KEPT = [
    Fault(
        "analyze/results-exist",
        "results of an earlier analysis",
        lambda box: [],
        "config.json exists already",
        again=False,
    ),
    Fault(
        "analyze/overwrite-then-fails",
        "an image that is cut short, with --overwrite on an earlier analysis",
        lambda box: cut_short(box.image()) or ["--overwrite", "--nfolds", "2"],
        "1 of 4 cases cannot be used, and nothing was written",
        again=False,
    ),
    Fault(
        "analyze/update-then-fails",
        "an image that is cut short, with --update of an earlier analysis",
        lambda box: cut_short(box.image()) or ["--update"],
        "1 of 4 cases cannot be used, and nothing was written",
        again=False,
    ),
]

BROKEN = [
    Fault(
        "analyze/update-config-broken",
        "a config.json that is cut short, with --update",
        lambda box: cut_short(box.study.config) or ["--update"],
        "config.json cannot be read as JSON",
        again=False,
    ),
    Fault(
        "analyze/update-fingerprint-broken",
        "a fingerprint.json that is cut short, with --update",
        lambda box: cut_short(box.study.fingerprint) or ["--update"],
        "fingerprint.json cannot be read as JSON",
        again=False,
    ),
    Fault(
        "analyze/update-fingerprint-missing",
        "results of another program, with --update",
        lambda box: remove(box.study.fingerprint) or ["--update"],
        "its edits cannot be told from what was planned. Analyze with --overwrite",
        again=False,
    ),
    Fault(
        "analyze/update-paths-broken",
        "a train_paths.csv that is empty, with --update",
        lambda box: fill(box.study.train_paths) or ["--update"],
        "train_paths.csv cannot be read as a table",
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
def test_an_analysis_that_fails_keeps_the_earlier_one(analyzed: Sandbox, fault: Fault, sound: Path) -> None:
    meets(analyzed, "analyze", ["--data", analyzed.study.data], fault)
    names = [path.name for path in analyzed.study.results.iterdir() if path.is_file()]
    assert filecmp.cmpfiles(analyzed.study.results, sound / "results", names, shallow=False)[0] == names


@pytest.mark.parametrize("fault", BROKEN, ids=lambda fault: fault.key)
def test_analyze_upon_broken_results(analyzed: Sandbox, fault: Fault) -> None:
    meets(analyzed, "analyze", ["--data", analyzed.study.data], fault)
