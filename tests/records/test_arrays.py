"""Records of preprocessed arrays, and when the arrays are stale."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from expect import refuses
from records.passports import passport
from training.small_study import small_config

from mist_ops.config import STEP_VERSIONS, StudyConfig, override
from mist_ops.dataset import Case
from mist_ops.errors import CaseError
from mist_ops.files import file_hash, stamp, write_array, write_json
from mist_ops.imaging.geometry import CaseGeometry, Geometry
from mist_ops.imaging.header import GridHeader
from mist_ops.records.arrays import (
    CORRUPTED,
    NO_DISTANCES,
    NOT_PREPROCESSED,
    Inputs,
    case_content,
    changed_arrays,
    input_hashes,
    read_record,
    stale_arrays,
    write_record,
)
from mist_ops.records.passport import write_passport
from mist_ops.steps import old_digest, settings
from mist_ops.study import Study
from mist_ops.types import Box

GRID = Geometry((12, 14, 10), (1.0, 0.1, 2 / 3), (5.0, 6.0, -7e-9), (0.0, 0.6, -0.8, 0.0, 0.8, 0.6, 1.0, 0.0, 0.0))
GRIDS = CaseGeometry(GRID, Box((1, 2, 3), (4, 5, 6)), GRID.canonical()[0])


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return Study("study", tmp_path / "numpy", tmp_path / "results")


@pytest.fixture
def case(tmp_path: Path) -> Case:
    for name in ("t1", "mask"):
        (tmp_path / f"{name}.nii.gz").write_text(name)
    return Case("007", {"t1": tmp_path / "t1.nii.gz"}, tmp_path / "mask.nii.gz")


CONFIG = small_config()
DISTANCES = override(CONFIG, {"preprocessing.compute_dtms": True})


def why_stale(study: Study, case: Case, config: StudyConfig = CONFIG) -> str | None:
    return stale_arrays(study, config, [case]).get(case.id)


def write(study: Study, case: Case, geometry: CaseGeometry = GRIDS) -> str:
    arrays = {"image": study.image(case.id), "label": study.label(case.id)}
    for number, path in enumerate(arrays.values()):
        write_array(path, np.full((2, 2, 2), number))
    return write_record(study.geometry(case.id), arrays, Inputs.of(case), geometry, CONFIG, labels=[0, 1]).content


def test_a_record_has_a_fixed_format(study: Study, case: Case) -> None:
    content = write(study, case)
    arrays = {"image": study.image(case.id), "label": study.label(case.id)}
    grids = {"original": GRID, "box": GRIDS.box, "preprocessed": GRIDS.preprocessed}
    expected = {
        **{name: {key: value and list(value) for key, value in vars(grid).items()} for name, grid in grids.items()},
        "inputs": input_hashes(study, case),
        "settings": settings(CONFIG, "preprocessing"),
        "labels": [0, 1],
        "volumes": {},
        "foreground": None,
        "version": STEP_VERSIONS["preprocessing"],
        "content": content,
        "arrays": {name: file_hash(path) for name, path in arrays.items()},
        "stamps": {
            "inputs": {"t1": stamp(case.images["t1"]), "mask": stamp(case.mask or Path())},
            "arrays": {name: stamp(path) for name, path in arrays.items()},
        },
    }
    assert study.geometry(case.id).read_text() == json.dumps(expected, indent=2)


@pytest.mark.parametrize("geometry", [GRIDS, CaseGeometry(GRID, None, GRID)])
def test_a_geometry_survives_its_record(study: Study, case: Case, geometry: CaseGeometry) -> None:
    content = write(study, case, geometry)
    assert read_record(study, case.id).geometry == geometry
    assert read_record(study, case.id).content == case_content(study, case.id) == content


def test_a_record_keeps_the_header_of_the_scan(study: Study, case: Case) -> None:
    row = (0.5, 0.0, 0.0, 1.0)
    header = GridHeader(1, (row, row, row), 2, (0.1, 0.2, 0.3), (4.0, 5.0, 6.0), (-1.0, 1.0, 2.0, 3.0), 11, 57)
    write(study, case, replace(GRIDS, original=replace(GRID, header=header)))
    assert read_record(study, case.id).original.header == header
    path = study.geometry(case.id)
    path.write_text(path.read_text().replace('"sform_code": 1', '"sform_code": 100000'))
    with refuses("record-invalid", CaseError, file=path):
        read_record(study, case.id)


@pytest.mark.parametrize("changed", ["t1", "mask"])
def test_arrays_are_stale_after_a_file_changes(study: Study, case: Case, changed: str) -> None:
    assert why_stale(study, case) == NOT_PREPROCESSED
    write(study, case)
    assert why_stale(study, case) is None
    (study.numpy.parent / f"{changed}.nii.gz").write_text("another")
    assert changed in str(why_stale(study, case))


def test_arrays_are_stale_after_settings_or_the_version_change(study: Study, case: Case) -> None:
    write(study, case)
    finer = override(CONFIG, {"spatial_config.target_spacing": [1, 1, 0.8]})
    assert why_stale(study, case, finer) == "target_spacing was 1, 1, 1 and is 1, 1, 0.8"
    record = json.loads(study.geometry(case.id).read_text())
    write_json(study.geometry(case.id), {**record, "version": 0})
    assert "version" in str(why_stale(study, case))


def test_arrays_without_required_distance_maps_are_stale(study: Study, case: Case) -> None:
    write(study, case)
    assert why_stale(study, case, DISTANCES) == NO_DISTANCES


def test_truncated_and_altered_arrays_are_stale(study: Study, case: Case) -> None:
    write(study, case)
    for locate in (study.image, study.label):
        path = locate("007")
        whole = path.read_bytes()
        for other in (whole[:-1], whole[:-1] + bytes([whole[-1] ^ 1]), b""):
            path.write_bytes(other)
            assert why_stale(study, case) == CORRUPTED
        path.write_bytes(whole)
    assert why_stale(study, case) is None


def test_files_are_read_only_if_their_times_differ_from_the_recorded_ones(study: Study, case: Case) -> None:
    write(study, case)
    hashes, record = input_hashes(study, case), json.loads(study.geometry("007").read_text())
    write_json(study.geometry("007"), {**record, "inputs": {**hashes, "t1": "recorded"}})
    assert input_hashes(study, case)["t1"] == "recorded"
    case.images["t1"].touch()
    assert input_hashes(study, case) == hashes


def test_touched_files_are_current_and_their_new_times_are_recorded(study: Study, case: Case) -> None:
    write(study, case)
    before = json.loads(study.geometry("007").read_text())
    for path in (case.images["t1"], study.image("007")):
        path.touch()
    assert why_stale(study, case) is None
    after = json.loads(study.geometry("007").read_text())
    assert after["stamps"]["inputs"]["t1"] == stamp(case.images["t1"])
    assert after["stamps"]["arrays"]["image"] == stamp(study.image("007"))
    assert {**after, "stamps": before["stamps"]} == before


def test_a_record_without_stamps_and_version_is_read(study: Study, case: Case) -> None:
    write(study, case)
    record = json.loads(study.geometry("007").read_text())
    del record["stamps"], record["version"]
    write_json(study.geometry("007"), record)
    assert read_record(study, "007").version == 1
    why = why_stale(study, case)
    assert why is None if STEP_VERSIONS["preprocessing"] == 1 else "version" in str(why)


def test_a_missing_or_corrupted_record_is_refused(study: Study, case: Case) -> None:
    path = study.geometry("007")
    path.unlink(missing_ok=True)
    with refuses("not-preprocessed", CaseError, case="007", file=path):
        read_record(study, "007")
    write(study, case)
    path.write_text("{}")
    with refuses("record-invalid", CaseError, case="007", file=path):
        read_record(study, "007")
    assert case_content(study, "007")


@pytest.mark.parametrize(
    "changes",
    [
        {"preprocessing.median_resampled_image_size": [1, 2, 3]},
        {"preprocessing.ct_normalization.window_min": -100.0},
        {"preprocessing.normalize_dtms": False},
        {"dataset_info.labels": [0, 1, 2, 3]},
        {"dataset_info.labels": [0, 1]},
        {"dataset_info.modality": "other"},
        {"training.epochs": 7},
    ],
)
def test_settings_that_the_arrays_do_not_depend_on_leave_them_current(
    study: Study, case: Case, changes: dict[str, object]
) -> None:
    write(study, case)
    assert why_stale(study, case, override(CONFIG, changes)) is None


def test_a_change_names_the_arrays_that_it_concerns(study: Study, case: Case) -> None:
    write(study, case)

    def concerned(config: StudyConfig) -> set[str]:
        return set(changed_arrays(study, config, [case])[case.id].arrays)

    assert concerned(DISTANCES) == {"dtm"}
    assert concerned(override(CONFIG, {"dataset_info.labels": [0, 2, 1]})) == {"label", "dtm"}
    assert concerned(override(CONFIG, {"dataset_info.modality": "ct"})) == {"image"}
    (study.numpy.parent / "mask.nii.gz").write_text("another")
    assert concerned(CONFIG) == {"label", "dtm"}


def test_a_case_without_files_is_reported(study: Study, case: Case) -> None:
    write(study, case)
    (study.numpy.parent / "mask.nii.gz").unlink()
    assert why_stale(study, case) == "its mask is missing"
    case.images["t1"].unlink()
    assert why_stale(study, case) == "its files are missing"


def test_a_digest_of_an_earlier_version_is_replaced_by_the_settings(study: Study, case: Case) -> None:
    write(study, case)
    path = study.geometry(case.id)
    whole = json.loads(path.read_text())
    older = {name: value for name, value in whole.items() if name not in ("arrays", "labels", "foreground")}
    write_json(path, {**older, "settings": old_digest(CONFIG, "preprocessing")})
    assert "not on record" in str(why_stale(study, case, override(CONFIG, {"dataset_info.labels": [0, 2]})))
    assert why_stale(study, case, DISTANCES) == NO_DISTANCES
    assert why_stale(study, case) is None
    assert json.loads(path.read_text()) == {**older, "settings": whole["settings"]}


def test_a_passport_has_the_settings_of_a_digest_of_an_earlier_version(study: Study, case: Case) -> None:
    write(study, case)
    path = study.geometry(case.id)
    older = {name: value for name, value in json.loads(path.read_text()).items() if name not in ("arrays", "labels")}
    write_json(path, {**older, "settings": old_digest(CONFIG, "preprocessing")})
    median = override(CONFIG, {"preprocessing.median_resampled_image_size": [9, 9, 9]})
    assert "not on record" in str(why_stale(study, case, median))
    write_passport(study.passport(0), passport(config=CONFIG.model_dump(mode="json")))
    finer = override(median, {"spatial_config.target_spacing": [1.0, 1.0, 0.8]})
    assert why_stale(study, case, finer) == "target_spacing was 1, 1, 1 and is 1, 1, 0.8"
    assert why_stale(study, case, median) is None
    study.passport(0).unlink()
    assert why_stale(study, case, finer) == "target_spacing was 1, 1, 1 and is 1, 1, 0.8"  # it is on record now
