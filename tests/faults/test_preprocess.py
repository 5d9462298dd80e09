"""``mist_preprocess`` on an analyzed study with one fault each; where one patient is at fault, the others are done."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from .harness import (
    Fault,
    Sandbox,
    cut_short,
    edit_json,
    edit_rows,
    edit_section,
    edit_text,
    fill,
    leave_what_mist_writes,
    meets,
    move_grid,
    remove,
    save,
    voxels,
)

IDS = [f"phantom_{number:03}" for number in range(1, 5)]


def others_done(box: Sandbox) -> bool:
    """Whether all but the first patient are preprocessed, and of that one nothing is left."""
    first, *others = [box.study.geometry(case_id).is_file() for case_id in IDS]
    return all(others) and not first and not box.study.image(IDS[0]).exists()


def put(path: Path, value: float, dtype: type = np.float32) -> None:
    """Set some voxels in the middle of an image."""
    array = voxels(path).astype(dtype)
    array[8:12, 8:12, 8:12] = value
    save(path, array)


def edit_paths(box: Sandbox, **cells: str) -> None:
    """Change cells of the first patient in train_paths.csv."""
    edit_rows(box.study.train_paths, lambda rows: [row | cells if row["id"] == IDS[0] else row for row in rows])


def edit_boxes(box: Sandbox, **cells: str) -> None:
    """Have images cropped, and change cells of the first patient in fg_bboxes.csv."""
    edit_section(box.study.config, "preprocessing", crop_to_foreground=True)
    edit_rows(box.study.fg_bboxes, lambda rows: [row | cells if row["id"] == IDS[0] else row for row in rows])


def rename_in_tables(box: Sandbox, case_id: str) -> None:
    """Call the first patient otherwise in both tables."""
    edit_paths(box, id=case_id)
    edit_boxes(box, id=case_id)


def other_scan(box: Sandbox) -> None:
    """Put a scan of another size in the place of the first patient's, where images are cropped."""
    edit_boxes(box)
    for name in ("t1", "t2", "mask"):
        path = box.patient() / f"{name}.nii.gz"
        save(path, np.pad(voxels(path), ((0, 6), (0, 0), (0, 0))))


def text_of_config(change: Callable[[str], str]) -> Callable[[Sandbox], None]:
    """Changes the text of config.json."""
    return lambda box: edit_text(box.study.config, change)


PATIENT = [
    Fault(
        f"preprocess/{key}",
        words,
        breaks,
        says,
        others_done=others_done,
        again=key == "corrupted-image",
    )
    for key, words, breaks, says in [
        (
            "corrupted-image",
            "an image that was cut short since the analysis",
            lambda box: cut_short(box.image()),
            "Case 'phantom_001': ",
        ),
        (
            "truncated-second-channel",
            "a second channel that is cut short",
            lambda box: cut_short(box.image(channel="t2")),
            "t2.nii.gz cannot be read as a NIfTI image",
        ),
        (
            "image-missing",
            "an image that was removed since the analysis",
            lambda box: remove(box.image()),
            "There is no file",
        ),
        (
            "channel-other-size",
            "a second channel of another size",
            lambda box: move_grid(box.image(channel="t2"), "size"),
            "lies on another grid than",
        ),
        (
            "mask-other-size",
            "a mask of another size",
            lambda box: move_grid(box.mask(), "size"),
            "lies on another grid than",
        ),
        (
            "mask-other-origin",
            "a mask of another origin",
            lambda box: move_grid(box.mask(), "origin"),
            "origin (",
        ),
        (
            "unknown-label",
            "a label that is not listed, in a mask edited since the analysis",
            lambda box: put(box.mask(), 7, np.uint8),
            "The mask holds labels [7]; listed are [0, 1, 2]",
        ),
        (
            "fractional-labels",
            "a mask that was interpolated since the analysis",
            lambda box: put(box.mask(), 0.4),
            "holds the value 0.4. Labels must be whole",
        ),
        (
            "nan-voxels",
            "an image with voxels that are NaN",
            lambda box: put(box.image(), np.nan),
            "holds 64 NaN or infinite voxels",
        ),
        (
            "nan-voxels-second-channel",
            "a second channel with voxels that are NaN",
            lambda box: put(box.image(channel="t2"), np.nan),
            "t2.nii.gz holds 64 NaN or infinite voxels",
        ),
        (
            "image-other-size",
            "a scan of another size than the one that was analyzed, where images are cropped",
            other_scan,
            "when it was analyzed",
        ),
        (
            "box-beyond-image",
            "a foreground box that reaches out of its image",
            lambda box: edit_boxes(box, x_end="99"),
            "does not fit",
        ),
        (
            "box-reversed",
            "a foreground box that ends before it begins",
            lambda box: edit_boxes(box, x_start="9", x_end="3"),
            "does not fit",
        ),
        (
            "paths-cell-empty",
            "a cell of a channel that is empty",
            lambda box: edit_paths(box, t2=""),
            "it lacks the channels ['t2']",
        ),
        (
            "paths-elsewhere",
            "a path in the table that leads nowhere",
            lambda box: edit_paths(box, t1="/nowhere/t1.nii.gz"),
            "There is no file /nowhere/t1.nii.gz",
        ),
        (
            "paths-to-a-folder",
            "a path in the table that is a folder",
            lambda box: edit_paths(box, t1=str(box.folder)),
            "There is no file",
        ),
    ]
]

TABLES = [
    Fault(f"preprocess/{key}", words, breaks, says, again=key == "paths-missing")
    for key, words, breaks, says in [
        (
            "paths-missing",
            "a train_paths.csv that is not there",
            lambda box: remove(box.study.train_paths),
            "train_paths.csv. Restore it",
        ),
        (
            "paths-empty",
            "an empty train_paths.csv",
            lambda box: fill(box.study.train_paths),
            "train_paths.csv cannot be read as a table",
        ),
        (
            "paths-header-only",
            "a train_paths.csv without patients",
            lambda box: edit_text(box.study.train_paths, lambda text: text.partition("\n")[0] + "\n"),
            "train_paths.csv lists no patient",
        ),
        (
            "paths-semicolon",
            "a train_paths.csv that a spreadsheet saved with semicolons",
            lambda box: edit_text(box.study.train_paths, lambda text: text.replace(",", ";")),
            "train_paths.csv lacks the columns ['id', 'fold', 'mask']",
        ),
        (
            "paths-latin-1",
            "a train_paths.csv that is not in UTF-8",
            lambda box: edit_text(
                box.study.train_paths, lambda text: text.replace(IDS[0], "Müller"), encoding="latin-1"
            ),
            "train_paths.csv cannot be read as a table",
        ),
        (
            "paths-id-twice",
            "a patient twice in train_paths.csv",
            lambda box: edit_paths(box, id=IDS[1]),
            "the id 'phantom_002' is given twice",
        ),
        (
            "paths-id-dotdot",
            "an id in train_paths.csv that leads out of its folder",
            lambda box: rename_in_tables(box, "../x"),
            "train_paths.csv: the id '../x' cannot name a file",
        ),
        (
            "paths-id-absolute",
            "an id in train_paths.csv that is an absolute path",
            lambda box: rename_in_tables(box, str(box.folder / "elsewhere")),
            "cannot name a file",
        ),
        (
            "paths-id-long",
            "an id of 300 letters in train_paths.csv",
            lambda box: rename_in_tables(box, "x" * 300),
            "cannot name a file",
        ),
        (
            "paths-fold-wrong",
            "a fold in train_paths.csv that is no number",
            lambda box: edit_paths(box, fold="one"),
            "the column 'fold' must hold whole numbers, found 'one'",
        ),
        (
            "paths-line-too-long",
            "a row of train_paths.csv with a cell too many",
            lambda box: edit_text(box.study.train_paths, lambda text: text.rstrip("\n") + ",more\n"),
            "has a row with more cells than columns (line 5)",
        ),
        (
            "boxes-missing",
            "a fg_bboxes.csv that is not there",
            lambda box: remove(box.study.fg_bboxes),
            "fg_bboxes.csv",
        ),
        (
            "boxes-no-number",
            "an edge in fg_bboxes.csv that is no number",
            lambda box: edit_boxes(box, x_end="wide"),
            "must hold whole numbers, found 'wide'",
        ),
        (
            "boxes-cell-empty",
            "an edge that fg_bboxes.csv lacks",
            lambda box: edit_boxes(box, x_end=""),
            "column 'x_end' is empty",
        ),
    ]
]

SETTINGS = [
    Fault(f"preprocess/{key}", words, breaks, says, again=key == "config-broken")
    for key, words, breaks, says in [
        (
            "config-broken",
            "a config.json that is cut short",
            lambda box: cut_short(box.study.config),
            ("[json-invalid]", "config.json"),
        ),
        ("config-empty", "an empty config.json", lambda box: fill(box.study.config), ("[json-invalid]", "config.json")),
        (
            "config-missing",
            "no config.json",
            lambda box: remove(box.study.config),
            "Run mist_analyze first",
        ),
        (
            "config-unknown-key",
            "a misspelled key in config.json",
            text_of_config(lambda text: text.replace("crop_to_foreground", "crop_to_foregroud")),
            ("[unknown-key]", "'preprocessing.crop_to_foregroud'", "'crop_to_foreground'"),
        ),
        (
            "config-duplicate-key",
            "a key given twice in config.json",
            text_of_config(lambda text: text.replace('"skip"', '"skip": true, "skip"')),
            ("[json-invalid]", "duplicate key 'skip'"),
        ),
        (
            "config-wrong-type",
            "a setting of another type in config.json",
            lambda box: edit_section(box.study.config, "spatial_config", target_spacing="1.0"),
            ("[value-invalid]", "'spatial_config.target_spacing'"),
        ),
        (
            "config-spacing-zero",
            "a target spacing of zero",
            lambda box: edit_section(box.study.config, "spatial_config", target_spacing=[0.0, 1.0, 1.0]),
            ("[value-invalid]", "'spatial_config.target_spacing.0'"),
        ),
        (
            "config-key-missing",
            "a config.json without a setting that there is no default for",
            lambda box: edit_section(box.study.config, "spatial_config", patch_size=None),
            ("[value-invalid]", "'spatial_config.patch_size'"),
        ),
        (
            "config-later-version",
            "a config.json with a setting of a later version",
            lambda box: edit_json(box.study.config, mist_version="9.9.0", hospital={}),
            ("[unknown-key]", "9.9.0"),
        ),
    ]
]

ACCEPTED = [
    Fault(f"preprocess/{key}", words, breaks, says, status=0, again=False)
    for key, words, breaks, says in [
        (
            "paths-bom",
            "a byte-order mark before train_paths.csv",
            lambda box: edit_text(box.study.train_paths, lambda text: "\ufeff" + text),
            "4 of 4 patients were to do",
        ),
        (
            "paths-crlf",
            "a train_paths.csv with the line ends of Windows",
            lambda box: edit_text(box.study.train_paths, lambda text: text.replace("\n", "\r\n")),
            "4 of 4 patients were to do",
        ),
        (
            "ids-001-and-01",
            "ids that differ in their leading zeros alone",
            lambda box: (
                [
                    edit_rows(table, lambda rows: [row | {"id": "0" * n + "1"} for n, row in enumerate(rows)])
                    for table in (box.study.train_paths, box.study.fg_bboxes)
                ]
                and None
            ),
            "4 of 4 patients were to do",
        ),
        (
            "config-earlier-version",
            "a config.json of MIST, which lacks what is new",
            leave_what_mist_writes,
            "4 of 4 patients were to do",
        ),
        (
            "config-newer-version",
            "a config.json of a later version, without anything new",
            lambda box: edit_json(box.study.config, mist_version="9.9"),
            "4 of 4 patients were to do",
        ),
        (
            "fingerprint-missing",
            "no fingerprint.json",
            lambda box: remove(box.study.fingerprint),
            "4 of 4 patients were to do",
        ),
        (
            "fingerprint-broken",
            "a fingerprint.json that is cut short",
            lambda box: cut_short(box.study.fingerprint),
            "4 of 4 patients were to do",
        ),
    ]
]

PREPROCESSED = [
    Fault(f"preprocess/{key}", words, breaks, says, status=status, again=False)
    for key, words, breaks, says, status in [
        (
            "numpy-exists",
            "arrays of other settings",
            lambda box: edit_section(box.study.config, "spatial_config", target_spacing=[1.3, 1.3, 1.3]),
            "holds arrays of 4 patients that were made from other files or settings",
            1,
        ),
        (
            "image-replaced",
            "arrays of another image",
            lambda box: put(box.image(), 0),
            "holds arrays of 1 patients that were made from other files or settings",
            1,
        ),
        (
            "arrays-of-mist",
            "arrays of MIST",
            leave_what_mist_writes,
            "or by another program (phantom_001, phantom_002, phantom_003, phantom_004). Give --overwrite",
            1,
        ),
        (
            "arrays-of-mist-replaced",
            "arrays of MIST, with --overwrite",
            lambda box: leave_what_mist_writes(box) or ["--overwrite"],
            "4 of 4 patients were to do",
            0,
        ),
        (
            "array-truncated",
            "an array that is cut short",
            lambda box: cut_short(box.study.image(IDS[0])),
            "1 of 4 patients were to do",
            0,
        ),
        (
            "array-missing",
            "an array that is not there",
            lambda box: remove(box.study.label(IDS[0])),
            "1 of 4 patients were to do",
            0,
        ),
        (
            "record-broken",
            "a record of a patient's geometry that is cut short",
            lambda box: cut_short(box.study.geometry(IDS[0])),
            "holds arrays of 1 patients",
            1,
        ),
    ]
]

ANALYZED = [*PATIENT, *TABLES, *SETTINGS, *ACCEPTED]
FAULTS = [*ANALYZED, *PREPROCESSED]


@pytest.mark.parametrize("fault", ANALYZED, ids=lambda fault: fault.key)
def test_preprocess(analyzed: Sandbox, fault: Fault) -> None:
    meets(analyzed, "preprocess", [], fault)


@pytest.mark.parametrize("fault", PREPROCESSED, ids=lambda fault: fault.key)
def test_preprocess_again(preprocessed: Sandbox, fault: Fault) -> None:
    meets(preprocessed, "preprocess", [], fault)
