"""A calibration, from the command that fits it to the volumes of new patients, and when it is stale."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from mist_dagster import cli
from mist_dagster.freshness.status import status
from mist_dagster.instance import addresses
from mist_dagster.instance.studies import register
from mist_ops.calibration.conformal import Interval
from mist_ops.calibration.held_out import Volume
from mist_ops.config import override, read_config, write_config
from mist_ops.dataset import read_paths, read_train_paths
from mist_ops.imaging.nifti import read_labels, write_labels
from mist_ops.imaging.vectors import read_values
from mist_ops.records.calibration import Calibration, read_calibration, write_calibration
from mist_ops.study import Study

from .browsing import get


@pytest.fixture
def calibrated(copied_study: Study) -> Study:
    """The finished study, calibrated, with made-up intervals, as six patients are too few for any."""
    study = copied_study
    assert cli.calibrate(["--results", str(study.results), "--numpy", str(study.numpy), "--device", "cpu"]) == 0
    found = read_calibration(study.calibration)
    volumes = {
        name: {
            "labels": known.labels,
            "interval": Interval(-0.5, 0.25, 0.01),
            "patients": {
                case_id: Volume(volume.truth, volume.predicted, 0.0, 1e-9) for case_id, volume in known.patients.items()
            },
        }
        for name, known in found.volumes.items()
    }
    write_calibration(study.calibration, Calibration.model_validate({**dict(found), "volumes": volumes}))
    return study


def table(study: Study, path: Path) -> Path:
    """A table of the study's test patient with absolute paths."""
    cases = read_paths(study.test_paths, read_config(study.config).dataset_info.images)
    names = list(cases[0].images)
    rows = [[case.id, *(str(case.images[name].resolve()) for name in names)] for case in cases]
    path.write_text("\n".join(",".join(row) for row in [["id", *names], *rows]))
    return path


def predict(study: Study, output: str, *flags: str) -> int:
    models = ["--models-dir", str(study.models), "--config", str(study.config), "--device", "cpu"]
    paths = table(study, Path("new.csv"))
    return cli.predict([*models, "--paths-csv", str(paths), "--output", output, *flags])


def test_a_calibration_is_applied_to_new_patients(calibrated: Study) -> None:
    study = calibrated
    assert predict(study, "plain", "--output-probs") == 0
    assert predict(study, "out", "--calibrated") == 0

    found, [mask] = read_calibration(study.calibration), list(Path("out/discrete").iterdir())
    assert mask.read_bytes() == (Path("plain/discrete") / mask.name).read_bytes()
    assert found.probabilities
    before, after = (
        np.stack(list(read_values(Path(folder) / "probabilities" / mask.name))) for folder in ("plain", "out")
    )
    np.testing.assert_allclose(after, found.probabilities.scaling(before), atol=1e-6)
    assert np.abs(after - before).max() > 0.01
    np.testing.assert_allclose(after.sum(axis=0), 1, atol=1e-5)

    labels, grid = read_labels(mask)
    with Path("out/volumes.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [row["class"] for row in rows] == list(found.volumes)
    for row in rows:
        volume = np.isin(labels, found.volumes[row["class"]].labels).sum() * np.prod(grid.spacing) / 1000
        assert float(row["volume_ml"]) == pytest.approx(volume, rel=1e-4)
        assert float(row["low_ml"]) == pytest.approx(max(0.0, (volume + 0.01) * np.exp(-0.5) - 0.01), rel=1e-4)
        assert float(row["high_ml"]) == pytest.approx((volume + 0.01) * np.exp(0.25) - 0.01, rel=1e-4)


def test_the_test_patients_of_a_study_are_calibrated_as_new_ones(calibrated: Study) -> None:
    study = register(calibrated.results, numpy=calibrated.numpy)
    where = ["--results", str(study.results), "--numpy", str(study.numpy), "--device", "cpu"]
    assert cli.calibrate([*where, "--tests"]) == 0
    assert predict(study, "out", "--calibrated") == 0

    assert study.calibrated_volumes.read_bytes() == Path("out/volumes.csv").read_bytes()
    for path in Path("out/probabilities").iterdir():
        case_id = path.name.removesuffix(".nii.gz")
        assert study.calibrated_probabilities(case_id).read_bytes() == path.read_bytes()
    assert not status(study).of("calibrate_tests")
    found = read_calibration(study.calibration)
    write_calibration(study.calibration, found.model_copy(update={"coverage": 0.8}))
    assert "the calibration changed" in status(study).of("calibrate_tests")["volumes.csv"]


def test_a_calibration_measures_the_masks_of_the_cross_validation(copied_study: Study) -> None:
    study = copied_study
    assert cli.calibrate(["--results", str(study.results), "--numpy", str(study.numpy), "--device", "cpu"]) == 0

    found, cases = read_calibration(study.calibration), read_train_paths(study.train_paths).cases
    assert found.models.keys() == {0, 1}
    for known in found.volumes.values():
        assert known.interval is None  # of six patients
        for case in cases:
            for path, volume in (
                (case.mask, known.patients[case.id].truth),
                (study.cv_prediction(case.id), known.patients[case.id].predicted),
            ):
                labels, grid = read_labels(path)
                expected = np.isin(labels, known.labels).sum() * np.prod(grid.spacing) / 1000
                assert volume == pytest.approx(expected)
    assert found.probabilities
    assert found.probabilities.losses[found.probabilities.kind] <= found.probabilities.losses["none"]
    assert study.figure("reliability").is_file()
    assert study.figure("volumes").is_file()


def test_it_is_stale_once_a_model_or_a_mask_changed(calibrated: Study) -> None:
    study = register(calibrated.results)
    assert not status(study).of("calibrate")

    [case, *_] = read_train_paths(study.train_paths).cases
    record = json.loads(study.prediction_record("train", case.id).read_text())
    labels, grid = read_labels(study.cv_prediction(case.id))
    write_labels(study.cv_prediction(case.id), np.zeros_like(labels), grid)
    assert "predict" in status(study).of("calibrate")["calibration.json"]

    study.prediction_record("train", case.id).write_text(json.dumps(record))
    study.calibration.unlink()
    assert not status(study).of("calibrate")  # only some users want it


def test_a_calibration_of_other_models_or_settings_is_refused(
    calibrated: Study, capfd: pytest.CaptureFixture[str]
) -> None:
    study = calibrated
    config = read_config(study.config)
    write_config(study.config, override(config, {"inference.inferer.params.patch_overlap": 0.25}))
    assert predict(study, "out", "--calibrated") == 1
    said = capfd.readouterr().err
    assert "[calibration-differs]" in said
    assert "patch_overlap was 0 and is 0.25" in said
    write_config(study.config, config)

    weights = torch.load(study.model(1), weights_only=True)
    name = next(iter(weights))
    torch.save({**weights, name: weights[name] + 1}, study.model(1))
    study.passport(1).unlink()  # of the former weights
    assert predict(study, "out", "--calibrated") == 1
    said = capfd.readouterr().err
    assert "[calibration-differs]" in said
    assert "fold 1" in said

    study.calibration.write_text("{}")
    assert predict(study, "out", "--calibrated") == 1
    assert "[calibration-invalid]" in capfd.readouterr().err
    study.calibration.unlink()
    assert predict(study, "out", "--calibrated") == 1
    assert "[calibration-missing]" in capfd.readouterr().err
    assert not Path("out").exists()


def test_intervals_are_not_those_of_postprocessed_masks(calibrated: Study, capfd: pytest.CaptureFixture[str]) -> None:
    Path("strategy.json").write_text("[]")
    assert predict(calibrated, "out", "--calibrated", "--postprocess-strategy", "strategy.json") == 1
    assert "[flags-contradict]" in capfd.readouterr().err


def test_a_patient_that_fails_does_not_count_and_costs_the_status(
    copied_study: Study, capfd: pytest.CaptureFixture[str]
) -> None:
    study = copied_study
    [case, *others] = read_train_paths(study.train_paths).cases
    study.image(case.id).write_bytes(b"no array")

    assert cli.calibrate(["--results", str(study.results), "--numpy", str(study.numpy), "--device", "cpu"]) == 1

    assert case.id in capfd.readouterr().err
    for known in read_calibration(study.calibration).volumes.values():
        assert known.patients.keys() == {other.id for other in others}


def test_a_study_without_models_is_not_calibrated(copied_study: Study, capfd: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(copied_study.models)
    assert cli.calibrate(["--results", str(copied_study.results), "--numpy", str(copied_study.numpy)]) == 1
    assert "[model-missing]" in capfd.readouterr().err


def test_the_page_shows_errors_intervals_and_volumes_outside(calibrated: Study) -> None:
    study = register(calibrated.results)
    shown = get(addresses.calibration(study))

    assert shown.status == 200
    found = read_calibration(study.calibration)
    assert found.probabilities
    for curve in (found.probabilities.before.top, found.probabilities.after.top):
        assert f"{curve.error:.4f}" in shown.text
    assert "-39 % to +28 %" in shown.text
    outside = sum(volume.inside is False for known in found.volumes.values() for volume in known.patients.values())
    assert shown.text.count(" outside</td>") == outside > 0
    for name in ("reliability", "volumes"):
        assert addresses.calibration_picture(study, name) in shown.text
        assert get(addresses.calibration_picture(study, name)).content == study.figure(name).read_bytes()
    assert get(addresses.calibration_picture(study, "scores")).status == 404


def test_the_page_of_a_study_that_is_not_calibrated_says_how_to(copied_study: Study) -> None:
    study = register(copied_study.results)
    assert "mist_calibrate" in get(addresses.calibration(study)).text
