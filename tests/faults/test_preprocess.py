"""``mist_preprocess`` on an analyzed study with one fault each; a fault of one patient does not stop the others."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nibabel as nib
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
    """Whether all patients except the first are preprocessed, and the first left no files."""
    first, *others = [box.study.geometry(case_id).is_file() for case_id in IDS]
    return all(others) and not first and not box.study.image(IDS[0]).exists()


def put(path: Path, value: float, dtype: type = np.float32) -> None:
    """Set some voxels in the middle of an image."""
    array = voxels(path).astype(dtype)
    array[8:12, 8:12, 8:12] = value
    save(path, array)


def lose_a_lesion(box: Sandbox) -> None:
    """Leave a single voxel of label 2 in a mask, which the samples of the target spacing miss."""
    array = np.minimum(voxels(box.mask()), 1)
    spacing = nib.load(box.mask()).header.get_zooms()
    array[tuple(size // 2 | 1 for size in array.shape)] = 2
    save(box.mask(), array)
    edit_section(box.study.config, "spatial_config", target_spacing=[2.0 * max(map(float, spacing))] * 3)


def edit_paths(box: Sandbox, **cells: str) -> None:
    """Change cells of the first patient in train_paths.csv."""
    edit_rows(box.study.train_paths, lambda rows: [row | cells if row["id"] == IDS[0] else row for row in rows])


def edit_boxes(box: Sandbox, **cells: str) -> None:
    """Turn on cropping, and change cells of the first patient in fg_bboxes.csv."""
    edit_section(box.study.config, "preprocessing", crop_to_foreground=True)
    edit_rows(box.study.fg_bboxes, lambda rows: [row | cells if row["id"] == IDS[0] else row for row in rows])


def rename_in_tables(box: Sandbox, case_id: str) -> None:
    """Rename the first patient in both tables."""
    edit_paths(box, id=case_id)
    edit_boxes(box, id=case_id)


def other_scan(box: Sandbox) -> None:
    """Turn on cropping, and replace the first patient's scan by one of another size."""
    edit_boxes(box)
    for name in ("t1", "t2", "mask"):
        path = box.patient() / f"{name}.nii.gz"
        save(path, np.pad(voxels(path), ((0, 6), (0, 0), (0, 0))))


def text_of_config(change: Callable[[str], str]) -> Callable[[Sandbox], None]:
    """Change the text of config.json."""
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
            "an image truncated since the analysis",
            lambda box: cut_short(box.image()),
            ("[image-unreadable]", "Case 'phantom_001': "),
        ),
        (
            "truncated-second-channel",
            "a truncated second channel",
            lambda box: cut_short(box.image(channel="t2")),
            ("[image-unreadable]", "t2.nii.gz"),
        ),
        (
            "image-missing",
            "an image removed since the analysis",
            lambda box: remove(box.image()),
            ("[image-missing]", "phantom_001/t1.nii.gz"),
        ),
        (
            "channel-other-size",
            "a second channel of another size",
            lambda box: move_grid(box.image(channel="t2"), "size"),
            ("[grid-mismatch]", "phantom_001", "size ("),
        ),
        (
            "mask-other-size",
            "a mask of another size",
            lambda box: move_grid(box.mask(), "size"),
            ("[grid-mismatch]", "phantom_001", "size ("),
        ),
        (
            "mask-other-origin",
            "a mask of another origin",
            lambda box: move_grid(box.mask(), "origin"),
            ("[grid-mismatch]", "mask.nii.gz", "origin ("),
        ),
        (
            "unknown-label",
            "an unlisted label in a mask edited since the analysis",
            lambda box: put(box.mask(), 7, np.uint8),
            ("[unknown-label]", "phantom_001", "7", "0, 1, 2"),
        ),
        (
            "fractional-labels",
            "a mask interpolated since the analysis",
            lambda box: put(box.mask(), 0.4),
            ("[labels-not-integer]", "mask.nii.gz", "0.4"),
        ),
        (
            "nan-voxels",
            "an image with NaN voxels",
            lambda box: put(box.image(), np.nan),
            ("[image-not-finite]", "t1.nii.gz", "64"),
        ),
        (
            "nan-voxels-second-channel",
            "a second channel with NaN voxels",
            lambda box: put(box.image(channel="t2"), np.nan),
            ("[image-not-finite]", "t2.nii.gz", "64"),
        ),
        (
            "image-other-size",
            "a scan of another size than in the analysis, with cropping",
            other_scan,
            ("[image-changed]", "phantom_001"),
        ),
        (
            "box-beyond-image",
            "a foreground box that exceeds its image",
            lambda box: edit_boxes(box, x_end="99"),
            ("[box-mismatch]", "phantom_001"),
        ),
        (
            "box-reversed",
            "a foreground box with its end before its start",
            lambda box: edit_boxes(box, x_start="9", x_end="3"),
            ("[box-mismatch]", "phantom_001"),
        ),
        (
            "paths-cell-empty",
            "an empty cell of a channel",
            lambda box: edit_paths(box, t2=""),
            ("[channel-missing]", "phantom_001", "t2"),
        ),
        (
            "paths-elsewhere",
            "a path in the table that does not exist",
            lambda box: edit_paths(box, t1="/nowhere/t1.nii.gz"),
            ("[image-missing]", "/nowhere/t1.nii.gz"),
        ),
        (
            "paths-to-a-folder",
            "a path in the table that is a folder",
            lambda box: edit_paths(box, t1=str(box.folder)),
            "[image-missing]",
        ),
    ]
]

TABLES = [
    Fault(f"preprocess/{key}", words, breaks, says, again=key == "paths-missing")
    for key, words, breaks, says in [
        (
            "paths-missing",
            "a missing train_paths.csv",
            lambda box: remove(box.study.train_paths),
            ("[file-missing]", "train_paths.csv"),
        ),
        (
            "paths-empty",
            "an empty train_paths.csv",
            lambda box: fill(box.study.train_paths),
            ("[table-unreadable]", "train_paths.csv"),
        ),
        (
            "paths-header-only",
            "a train_paths.csv without patients",
            lambda box: edit_text(box.study.train_paths, lambda text: text.partition("\n")[0] + "\n"),
            ("[table-empty]", "train_paths.csv"),
        ),
        (
            "paths-latin-1",
            "a train_paths.csv that is not in UTF-8",
            lambda box: edit_text(
                box.study.train_paths, lambda text: text.replace(IDS[0], "Müller"), encoding="latin-1"
            ),
            ("[table-unreadable]", "train_paths.csv"),
        ),
        (
            "paths-id-twice",
            "a duplicate patient in train_paths.csv",
            lambda box: edit_paths(box, id=IDS[1]),
            ("[patient-duplicate]", "train_paths.csv", "phantom_002"),
        ),
        (
            "paths-id-dotdot",
            "an id in train_paths.csv with a path outside its folder",
            lambda box: rename_in_tables(box, "../x"),
            ("[id-unsafe]", "train_paths.csv", "'../x'"),
        ),
        (
            "paths-id-absolute",
            "an id in train_paths.csv that is an absolute path",
            lambda box: rename_in_tables(box, str(box.folder / "elsewhere")),
            "[id-unsafe]",
        ),
        (
            "paths-id-long",
            "an id of 300 letters in train_paths.csv",
            lambda box: rename_in_tables(box, "x" * 300),
            "[id-unsafe]",
        ),
        (
            "paths-fold-wrong",
            "a fold in train_paths.csv that is not a number",
            lambda box: edit_paths(box, fold="one"),
            ("[table-not-integer]", "train_paths.csv", "fold", "'one'"),
        ),
        (
            "paths-line-too-long",
            "a row of train_paths.csv with an extra column",
            lambda box: edit_text(box.study.train_paths, lambda text: text.rstrip("\n") + ",more\n"),
            ("[table-extra-column]", "train_paths.csv", "line 5"),
        ),
        (
            "boxes-missing",
            "a missing fg_bboxes.csv",
            lambda box: remove(box.study.fg_bboxes),
            "fg_bboxes.csv",
        ),
        (
            "boxes-no-number",
            "an edge in fg_bboxes.csv that is not a number",
            lambda box: edit_boxes(box, x_end="wide"),
            ("[table-not-integer]", "fg_bboxes.csv", "'wide'"),
        ),
        (
            "boxes-cell-empty",
            "an edge missing from fg_bboxes.csv",
            lambda box: edit_boxes(box, x_end=""),
            ("[table-cell-empty]", "x_end"),
        ),
    ]
]

SETTINGS = [
    Fault(f"preprocess/{key}", words, breaks, says, again=key == "config-broken")
    for key, words, breaks, says in [
        (
            "config-broken",
            "a truncated config.json",
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
            "a duplicate key in config.json",
            text_of_config(lambda text: text.replace('"skip"', '"skip": true, "skip"')),
            ("[json-invalid]", "duplicate key 'skip'"),
        ),
        (
            "config-wrong-type",
            "a setting of the wrong type in config.json",
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
            "a config.json without a required setting",
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
            "label-vanishes",
            "a lesion that is too small for the target spacing",
            lose_a_lesion,
            ("label 2 is lost in 1 patient (phantom_001)", "preprocessing.keep_small_labels"),
        ),
        (
            "intensities-1e30",
            "voxels of 1e30 in an image, and another in units of 1e20",
            lambda box: put(box.image(), 1e30) or save(box.image(2), voxels(box.image(2)) * np.float32(1e20)),
            "4 of 4 patients",
        ),
        (
            "paths-bom",
            "a byte-order mark before train_paths.csv",
            lambda box: edit_text(box.study.train_paths, lambda text: "\ufeff" + text),
            "4 of 4 patients",
        ),
        (
            "paths-semicolon",
            "a train_paths.csv with semicolons, saved by a spreadsheet",
            lambda box: edit_text(box.study.train_paths, lambda text: text.replace(",", ";")),
            "4 of 4 patients",
        ),
        (
            "paths-crlf",
            "a train_paths.csv with CRLF line endings",
            lambda box: edit_text(box.study.train_paths, lambda text: text.replace("\n", "\r\n")),
            "4 of 4 patients",
        ),
        (
            "ids-001-and-01",
            "ids that differ only in leading zeros",
            lambda box: (
                [
                    edit_rows(table, lambda rows: [row | {"id": "0" * n + "1"} for n, row in enumerate(rows)])
                    for table in (box.study.train_paths, box.study.fg_bboxes)
                ]
                and None
            ),
            "4 of 4 patients",
        ),
        (
            "config-earlier-version",
            "a config.json of MIST, without newer settings",
            leave_what_mist_writes,
            "4 of 4 patients",
        ),
        (
            "config-newer-version",
            "a config.json of a later version, without new settings",
            lambda box: edit_json(box.study.config, mist_version="9.9"),
            "4 of 4 patients",
        ),
        (
            "fingerprint-missing",
            "no fingerprint.json",
            lambda box: remove(box.study.fingerprint),
            "4 of 4 patients",
        ),
        (
            "fingerprint-broken",
            "a truncated fingerprint.json",
            lambda box: cut_short(box.study.fingerprint),
            "4 of 4 patients",
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
            ("[arrays-differ]", "4 patients"),
            1,
        ),
        (
            "image-replaced",
            "arrays of another image",
            lambda box: put(box.image(), 0),
            ("[arrays-differ]", "1 patient ", IDS[0]),
            1,
        ),
        (
            "arrays-of-mist",
            "arrays of MIST",
            leave_what_mist_writes,
            ("[arrays-differ]", ", ".join(IDS), "--overwrite"),
            1,
        ),
        (
            "arrays-of-mist-replaced",
            "arrays of MIST, with --overwrite",
            lambda box: leave_what_mist_writes(box) or ["--overwrite"],
            "4 of 4 patients",
            0,
        ),
        (
            "array-truncated",
            "a truncated array",
            lambda box: cut_short(box.study.image(IDS[0])),
            "1 of 4 patients",
            0,
        ),
        (
            "array-missing",
            "a missing array",
            lambda box: remove(box.study.label(IDS[0])),
            "1 of 4 patients",
            0,
        ),
        (
            "record-broken",
            "a truncated record of a patient's arrays",
            lambda box: cut_short(box.study.geometry(IDS[0])),
            ("[arrays-differ]", "1 patient ", IDS[0]),
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
