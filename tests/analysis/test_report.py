from __future__ import annotations

import json
from pathlib import Path

import pytest
from expect import refuses

from mist_ops.analysis.analyze import analyze
from mist_ops.analysis.dump import DataDump
from mist_ops.analysis.report import data_dump
from mist_ops.conversion.msd import convert_msd
from mist_ops.errors import DatasetError
from mist_ops.study import Study

# Of MIST 2.3.0, from the same 50 patients; it finds the same numbers wherever it does not draw samples.
HIPPOCAMPUS = {
    "1": {
        "voxel_count": {"mean": 1653.0, "std": 295.93, "min": 1067, "median": 1633.0, "max": 2482},
        "mean_volume_fraction_of_foreground_pct": 51.6153,
        "mean_volume_fraction_of_image_pct": 2.6474,
        "presence_rate_pct": 100.0,
        "size_category": "large",
        "shape": {
            "linearity": 0.519,
            "planarity": 0.3282,
            "sphericity": 0.1528,
            "shape_class": "tubular",
            "compactness": 0.1392,
            "skeleton_ratio": 0.0083,
        },
    },
    "2": {
        "voxel_count": {"mean": 1549.54, "std": 222.2, "min": 1059, "median": 1559.5, "max": 1956},
        "mean_volume_fraction_of_foreground_pct": 48.3847,
        "mean_volume_fraction_of_image_pct": 2.4817,
        "presence_rate_pct": 100.0,
        "size_category": "large",
        "shape": {
            "linearity": 0.8218,
            "planarity": 0.1224,
            "sphericity": 0.0559,
            "shape_class": "tubular",
            "compactness": 0.0887,
            "skeleton_ratio": 0.0172,
        },
    },
}
INTENSITY = {
    "mean": 23208.0273,
    "std": 64163.8398,
    "p01": 36.0,
    "p05": 47.0,
    "p25": 280.4677,
    "p50": 388.7453,
    "p75": 532.7842,
    "p95": 191504.8438,
    "p99": 271298.5312,
}
FRACTION = {"mean": 0.0516, "std": 0.0064, "min": 0.0377, "p25": 0.0466, "median": 0.0522, "p75": 0.0551, "max": 0.0673}


def analyzed(data: Path, folder: Path) -> Study:
    study = Study("toy", folder / "numpy", folder / "results", data)
    list(analyze(study, overrides={"training.nfolds": 3}))
    return study


def read(study: Study) -> dict:
    return json.loads(study.data_dump.read_text())


def test_fifty_hippocampi_have_the_statistics_of_mist(shared: Path, tmp_path: Path):
    list(convert_msd(shared / "data" / "Task04_Hippocampus", tmp_path / "data"))
    study = analyzed(tmp_path / "data" / "dataset.json", tmp_path)
    assert not [outcome for outcome in data_dump(study) if outcome.error]
    dump = read(study)
    assert dump["label_statistics"]["per_label"] == HIPPOCAMPUS
    assert dump["label_statistics"]["class_imbalance"]["imbalance_ratio"] == 1.07
    assert dump["image_statistics"]["intensity"]["foreground_fraction"] == FRACTION
    # MIST takes the mean in single precision, and we the percentiles in 16 bits.
    assert dump["image_statistics"]["intensity"]["per_channel"]["MRI"] == pytest.approx(INTENSITY, rel=2**-16)
    openings = ["Low foreground", "Label 1 is sparse", "Label 2 is sparse", "Label 1 is elong", "Label 2 is elong"]
    assert [said.startswith(opening) for said, opening in zip(dump["observations"], openings, strict=True)] == [
        True
    ] * 5


def test_the_files_are_the_same_for_any_number_of_workers(phantom_dataset: Path, tmp_path: Path):
    study = analyzed(phantom_dataset, tmp_path)
    list(data_dump(study))
    alone = study.data_dump.read_bytes(), study.data_dump_md.read_bytes()
    outcomes = list(data_dump(study, workers=2))
    assert (study.data_dump.read_bytes(), study.data_dump_md.read_bytes()) == alone
    assert json.loads(alone[0]) == json.loads(DataDump.model_validate_json(alone[0]).model_dump_json())
    assert all(outcome.result is not None and not outcome.result.intensities for outcome in outcomes)


def test_a_case_that_cannot_be_measured_is_excluded(phantom_dataset: Path, tmp_path: Path):
    study = analyzed(phantom_dataset, tmp_path)
    (phantom_dataset.parent / "train" / "phantom_002" / "mask.nii.gz").write_bytes(b"")
    failed = [outcome.item.id for outcome in data_dump(study) if outcome.error]
    assert failed == ["phantom_002"]
    dump = read(study)
    assert (dump["dataset_summary"]["num_patients"], list(dump["dataset_summary"]["excluded_patients"])) == (5, failed)
    assert "Patient phantom_002" in study.data_dump_md.read_text(encoding="utf-8")


def test_without_any_case_nothing_is_written(phantom_dataset: Path, tmp_path: Path):
    study = analyzed(phantom_dataset, tmp_path)
    for mask in phantom_dataset.parent.glob("train/*/mask.nii.gz"):
        mask.unlink()
    with refuses("cases-unusable", DatasetError, names="phantom_001"):
        list(data_dump(study))
    assert not study.data_dump.exists()
    assert not study.data_dump_md.exists()


def test_a_study_that_was_not_analyzed_is_refused(tmp_path: Path):
    with refuses("config-missing"):
        data_dump(Study("toy", tmp_path, tmp_path))
