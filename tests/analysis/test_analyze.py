from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest
from expect import refuses

from mist_ops.analysis.analyze import (
    analyze,
    find_leaks,
    fold_origins,
    kept_settings,
    read_fingerprint,
)
from mist_ops.analysis.plan import MEASURED
from mist_ops.boxes import read_boxes
from mist_ops.config import CtNormalization, edits, leaves, override, read_config, write_config
from mist_ops.dataset import read_paths, read_train_paths
from mist_ops.errors import ConfigError, DatasetError
from mist_ops.files import write_json
from mist_ops.imaging.nifti import read_geometry, write_labels
from mist_ops.study import Study
from mist_ops.types import Box

FOLD_0 = ["105", "170", "178", "220", "229", "289", "299", "334", "361", "376"]
FOLDS = {"training.nfolds": 3}


@pytest.fixture
def study(phantom_dataset: Path, tmp_path: Path) -> Study:
    return Study("phantoms", tmp_path / "numpy", tmp_path / "results", phantom_dataset)


def break_mask(study: Study, case_id: str) -> Path:
    """Put an unlisted label into a mask."""
    mask = study.data.parent / "train" / case_id / "mask.nii.gz"  # type: ignore[union-attr]
    grid = read_geometry(mask)
    write_labels(mask, np.full(grid.size, 7, dtype=np.uint8), grid)
    return mask


def edit(study: Study, **values: object) -> None:
    changed = {path.replace("__", "."): value for path, value in values.items()}
    write_config(study.config, override(read_config(study.config), changed))


def describe(study: Study, **values: object) -> None:
    description = json.loads(study.data.read_text())  # type: ignore[union-attr]
    write_json(study.data, {**description, **values})  # type: ignore[arg-type]


def written(study: Study) -> dict[str, bytes]:
    """The files of the results by their relative path."""
    files = [path for path in study.results.rglob("*") if path.is_file()]
    return {path.relative_to(study.results).as_posix(): path.read_bytes() for path in files}


def test_an_analysis_writes_config_folds_boxes_and_measurements(study: Study):
    measured = list(analyze(study, overrides=FOLDS))
    config, assignment = read_config(study.config), read_train_paths(study.train_paths)
    assert config.training.folds == [0, 1, 2]
    assert config.evaluation["whole_lesion"].labels == [1, 2]
    assert [outcome.item.id for outcome in measured] == [f"phantom_{k:03d}" for k in range(1, 7)]
    assert sorted(assignment.fold_of.values()) == [0, 0, 1, 1, 2, 2]
    assert list(read_boxes(study)) == [case.id for case in assignment.cases]
    assert [case.id for case in read_paths(study.test_paths, ["t1", "t2"])] == ["phantom_001"]
    assert read_fingerprint(study).plan == config
    assert sorted(written(study)) == [
        "config.json",
        "fg_bboxes.csv",
        "fingerprint.json",
        "records/dataset.json",
        "test_paths.csv",
        "train_paths.csv",
    ]


def test_fifty_hippocampi_are_planned_and_assigned_as_in_mist(shared: Path, tmp_path: Path):
    source = shared / "data" / "Task04_Hippocampus"
    for image in (source / "imagesTr").iterdir():
        patient = tmp_path / "train" / image.name.removesuffix(".nii.gz")
        patient.mkdir(parents=True)
        (patient / "MRI.nii.gz").symlink_to(image)
        (patient / "mask.nii.gz").symlink_to(source / "labelsTr" / image.name)
    described = {"task": "Hippocampus", "modality": "mr", "train-data": "train", "mask": ["mask"], "labels": [0, 1, 2]}
    write_json(tmp_path / "dataset.json", {**described, "images": {"MRI": ["MRI"]}})
    study = Study("hippocampus", tmp_path, tmp_path / "results", tmp_path / "dataset.json")
    list(analyze(study))
    config, assignment = read_config(study.config), read_train_paths(study.train_paths)
    assert config.spatial_config.model_dump() == {"patch_size": (32, 32, 32), "target_spacing": (1.0, 1.0, 1.0)}
    assert config.preprocessing.median_resampled_image_size == (35, 50, 35)
    assert not config.preprocessing.crop_to_foreground
    assert not config.preprocessing.normalize_with_nonzero_mask
    assert [case_id.removeprefix("hippocampus_") for case_id in assignment.held_out(0)] == FOLD_0
    assert read_boxes(study)["hippocampus_220"] == Box((0, 0, 0), (39, 45, 40))


def test_two_workers_write_the_same_files_as_one(study: Study):
    list(analyze(study, overrides=FOLDS))
    alone = written(study)
    list(analyze(study, overrides=FOLDS, workers=2, fresh=True))
    assert written(study) == alone


@pytest.mark.parametrize(
    "overrides, code, names",
    [
        ({"training.nfolds": 9}, "nfolds-invalid", "9"),
        ({**FOLDS, "training.folds": [3]}, "value-invalid", "fold 3"),
        ({**FOLDS, "model.architecture": "nnunot"}, "unknown-model", "'nnunet'"),
        ({**FOLDS, "training.epochs": -1}, "value-invalid", "training.epochs"),
    ],
)
def test_an_invalid_setting_is_refused_before_images_are_read(study: Study, overrides, code, names):
    with refuses(code, ConfigError, names=names):
        analyze(study, overrides=overrides)
    assert not study.results.exists()


def test_a_missing_test_folder_is_refused_before_images_are_read(study: Study):
    describe(study, **{"test-data": "nowhere"})
    with pytest.raises(DatasetError, match="nowhere"):
        analyze(study, overrides=FOLDS)


def test_all_unusable_cases_are_listed_and_an_earlier_analysis_is_kept(study: Study):
    list(analyze(study, overrides=FOLDS))
    before = written(study)
    break_mask(study, "phantom_002")
    break_mask(study, "phantom_005").unlink()
    (study.data.parent / "train" / "phantom_005" / "mask.nii.gz").write_bytes(b"")  # type: ignore[union-attr]
    measured = analyze(study)
    seen = list(itertools.islice(measured, 6))
    with refuses("cases-unusable", DatasetError, names="2 of 6 cases", found=["phantom_002", "phantom_005"]):
        next(measured)
    assert [outcome.error is None for outcome in seen] == [True, False, True, True, False, True]
    assert written(study) == before


def test_checked_cases_that_fail_are_excluded_and_recorded_with_the_reasons(study: Study):
    break_mask(study, "phantom_002")
    list(analyze(study, check=True, overrides=FOLDS))
    written = read_fingerprint(study)
    assert list(written.excluded) == ["phantom_002"]
    assert written.excluded["phantom_002"][0].endswith("[unknown-label]")
    assert "phantom_002" not in written.cases
    assert "phantom_002" not in read_train_paths(study.train_paths).fold_of


def test_when_every_case_fails_nothing_is_written(study: Study):
    for k in range(1, 7):
        break_mask(study, f"phantom_{k:03d}")
    with refuses("cases-unusable", DatasetError, names="6 of 6 cases"):
        list(analyze(study, check=True, overrides=FOLDS))
    assert not study.results.exists()


def test_edits_survive_repeated_analyses(study: Study):
    list(analyze(study, overrides=FOLDS))
    edit(study, training__epochs=7, spatial_config__target_spacing=[2.0, 2.0, 2.0])
    for _ in range(2):
        list(analyze(study, overrides={}))
        config, planned = read_config(study.config), read_fingerprint(study).plan
        assert (config.training.epochs, planned.training.epochs) == (7, 1000)
        assert config.spatial_config.target_spacing == (2.0, 2.0, 2.0)
        assert config.training.nfolds == 3
        # The sizes are planned for the edited spacing, so they do not count as edits.
        assert config.preprocessing == planned.preprocessing
    list(analyze(study, overrides=FOLDS, fresh=True))
    assert read_config(study.config) == read_fingerprint(study).plan


def test_a_flag_is_kept_as_an_edit_and_replaces_an_earlier_one(study: Study):
    list(analyze(study, overrides={**FOLDS, "training.epochs": 5}))
    list(analyze(study, overrides={"training.epochs": 6}))
    assert read_config(study.config).training.epochs == 6
    list(analyze(study))
    assert read_config(study.config).training.epochs == 6


def test_labels_and_channels_always_come_from_dataset_json(study: Study):
    list(analyze(study, overrides=FOLDS))
    edit(study, dataset_info__labels=[0, 1, 2, 3], model__params={"in_channels": 9, "out_channels": 4})
    list(analyze(study))
    config = read_config(study.config)
    assert config.dataset_info.labels == [0, 1, 2]
    assert config.model.params.model_dump() == {"in_channels": 2, "out_channels": 3}


def test_a_config_without_its_plan_is_not_overwritten(study: Study):
    list(analyze(study, overrides=FOLDS))
    study.fingerprint.unlink()
    with refuses("fingerprint-missing", ConfigError, names="--overwrite", file=study.fingerprint):
        analyze(study, overrides=FOLDS)
    list(analyze(study, overrides=FOLDS, fresh=True))


def test_the_table_of_test_cases_is_removed_with_the_test_data(study: Study):
    list(analyze(study, overrides=FOLDS))
    describe(study, **{"test-data": None})
    list(analyze(study))
    assert not study.test_paths.exists()


def test_an_interrupted_analysis_writes_nothing(study: Study):
    next(analyze(study, overrides=FOLDS))
    assert not study.results.exists()


def test_a_study_without_a_dataset_is_refused(tmp_path: Path):
    with refuses("dataset-unknown", ConfigError):
        analyze(Study("x", tmp_path, tmp_path))


def with_table(study: Study, text: str) -> None:
    (study.data.parent / "patients.csv").write_text(text)  # type: ignore[union-attr]
    describe(study, patients="patients.csv")


def test_a_table_of_patients_gives_folds_and_groups(study: Study):
    rows = [f"phantom_{k:03d},{k % 2},site {k % 2}" for k in range(1, 7)]
    with_table(study, "\n".join(["id,fold,group", *rows, "elsewhere,9,x"]))
    list(analyze(study))
    assignment = read_train_paths(study.train_paths)
    assert assignment.fold_of == {f"phantom_{k:03d}": k % 2 for k in range(1, 7)}
    assert assignment.group_of["phantom_001"] == "site 1"
    assert [list(case.images) for case in assignment.cases] == [["t1", "t2"]] * 6
    assert read_config(study.config).training.nfolds == 2
    assert set(fold_origins(study).values()) == {"table of patients"}


@pytest.mark.parametrize(
    "text, code",
    [
        ("id,age\nphantom_001,7\n", "table-column-missing"),
        ("id,fold\nphantom_001,-1\n", "table-not-integer"),
        ("id,fold\nphantom_001,7\n", "unknown-fold"),
        ("patient,fold\nphantom_001,7\n", "table-column-missing"),
    ],
)
def test_an_invalid_table_of_patients_is_refused(study: Study, text: str, code: str):
    with_table(study, text)
    with refuses(code, DatasetError):
        list(analyze(study, overrides=FOLDS))
    assert not study.results.exists()


def test_a_new_patient_goes_to_the_smallest_fold_and_no_other_is_moved(study: Study, tmp_path: Path):
    list(analyze(study, overrides={**FOLDS, "training.epochs": 5}))
    before = read_train_paths(study.train_paths).fold_of
    train = study.data.parent / "train"  # type: ignore[union-attr]
    shutil.copytree(train / "phantom_002", train / "phantom_x")
    list(analyze(study))
    after = read_train_paths(study.train_paths).fold_of
    assert {case_id: after[case_id] for case_id in before} == before
    assert (after["phantom_x"], read_config(study.config).training.epochs) == (0, 5)


def test_folds_edited_by_hand_are_kept_and_labeled_as_such(study: Study):
    list(analyze(study, overrides=FOLDS))
    moved, stays = read_train_paths(study.train_paths).held_out(0)
    study.train_paths.write_text(study.train_paths.read_text().replace(f"{moved},0,", f"{moved},2,"))
    for _ in range(2):
        list(analyze(study))
        assert read_train_paths(study.train_paths).fold_of[moved] == 2
        assert (fold_origins(study)[moved], fold_origins(study)[stays]) == ("edited by hand", "drawn")
    list(analyze(study, overrides=FOLDS, fresh=True))
    assert read_train_paths(study.train_paths).fold_of[moved] == 0


def test_a_group_in_two_folds_is_a_leak(study: Study):
    with_table(study, "id,group\nphantom_001,twins\nphantom_002,twins\n")
    list(analyze(study, overrides=FOLDS))
    assert find_leaks(study) == []
    fold = read_train_paths(study.train_paths).fold_of["phantom_001"]
    text = study.train_paths.read_text().replace(f"phantom_001,{fold},", f"phantom_001,{(fold + 1) % 3},")
    study.train_paths.write_text(text)
    assert "group 'twins'" in find_leaks(study)[0]


def add_patient(study: Study, case_id: str, spacing: tuple[float, float, float]) -> None:
    """Add a copy of a patient whose files have another spacing."""
    train = study.data.parent / "train"  # type: ignore[union-attr]
    shutil.copytree(train / "phantom_002", train / case_id)
    for path in (train / case_id).iterdir():
        image = nibabel.load(path)
        affine = image.affine @ np.diag([*np.divide(spacing, image.header.get_zooms()[:3]), 1.0])
        nibabel.save(nibabel.Nifti1Image(np.asanyarray(image.dataobj), affine), path)


def measured(study: Study) -> dict[str, object]:
    values = leaves(read_config(study.config).model_dump(mode="json"))
    return {path: values[path] for path in MEASURED}


@pytest.fixture
def grown(study: Study) -> Study:
    """An analyzed study to which so many coarser patients were added that a fresh plan would be another one."""
    list(analyze(study, overrides=FOLDS))
    for k in range(7):
        add_patient(study, f"coarse_{k}", (2.0, 2.0, 2.0))
    return study


def test_an_update_keeps_the_plan_and_reports_what_a_fresh_one_would_be(grown: Study):
    before = measured(grown)
    for _ in range(2):
        list(analyze(grown))
        assert measured(grown) == before
        assert len(read_train_paths(grown.train_paths).cases) == 13
        found = read_fingerprint(grown)
        assert found.alternatives["spatial_config.target_spacing"] == [2.0, 2.0, 2.0]
        assert found.alternatives["preprocessing.crop_to_foreground"] is False
    assert kept_settings(grown)[0] == (
        "target_spacing: kept 1.193, 1.193, 1.5375; a fresh analysis would choose 2, 2, 2 (67.6 % larger)"
    )
    alternatives = read_fingerprint(grown).alternatives
    list(analyze(grown, replan=True))
    assert measured(grown) == {**before, **alternatives}
    assert read_fingerprint(grown).alternatives == {}
    assert kept_settings(grown) == []


def test_a_kept_plan_is_no_edit(grown: Study):
    edit(grown, training__epochs=7)
    list(analyze(grown))
    config, planned = read_config(grown.config), read_fingerprint(grown).plan
    assert edits(planned, config) == {"training.epochs": 7}
    list(analyze(grown, replan=True))
    assert read_config(grown.config).spatial_config.target_spacing == (2.0, 2.0, 2.0)
    assert read_config(grown.config).training.epochs == 7


def test_sizes_follow_a_spacing_that_is_given(grown: Study):
    before = read_config(grown.config).preprocessing.median_resampled_image_size
    list(analyze(grown, overrides={"spatial_config.target_spacing": [3.0, 3.0, 3.0]}))
    size = read_config(grown.config).preprocessing.median_resampled_image_size
    assert max(size) < max(before)
    edit(grown, spatial_config__patch_size=[64, 64, 64])
    list(analyze(grown))
    assert read_config(grown.config).preprocessing.median_resampled_image_size == size
    assert read_config(grown.config).spatial_config.patch_size == (64, 64, 64)


def test_the_ct_window_is_kept_unless_the_modality_changes(study: Study):
    describe(study, modality="ct")
    list(analyze(study, overrides=FOLDS))
    before = read_config(study.config).preprocessing.ct_normalization
    add_patient(study, "phantom_007", (1.0, 1.0, 1.0))
    list(analyze(study))
    assert read_config(study.config).preprocessing.ct_normalization == before
    assert any(" HU " in line for line in kept_settings(study))
    describe(study, modality="mr")
    list(analyze(study))
    assert read_config(study.config).preprocessing.ct_normalization == CtNormalization()
    describe(study, modality="ct")
    list(analyze(study))
    after = read_config(study.config).preprocessing.ct_normalization
    assert after.window_min is not None
    assert after != before


def test_patients_excluded_before_stay_excluded_while_they_are_unusable(study: Study):
    mask = study.data.parent / "train" / "phantom_002" / "mask.nii.gz"  # type: ignore[union-attr]
    whole = mask.read_bytes()
    break_mask(study, "phantom_002")
    list(analyze(study, check=True, overrides=FOLDS))
    list(analyze(study))
    assert list(read_fingerprint(study).excluded) == ["phantom_002"]
    mask.write_bytes(whole)
    list(analyze(study))
    assert "phantom_002" in read_train_paths(study.train_paths).fold_of
