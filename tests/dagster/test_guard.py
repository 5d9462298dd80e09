"""The guard of a study, from the command to the reports beside new masks."""

import csv
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

import mist_ops
from mist_dagster import cli
from mist_dagster.freshness.status import status
from mist_dagster.instance import addresses
from mist_dagster.instance.home import instance
from mist_dagster.instance.studies import register
from mist_dagster.provenance import asset_key
from mist_ops.config import override, read_config, write_config
from mist_ops.dataset import Case, read_paths, read_train_paths
from mist_ops.files import file_hash, read_object, write_json
from mist_ops.imaging.nifti import read_image, write_image
from mist_ops.records.guard import read_guard, read_report
from mist_ops.records.prediction import read_prediction_record
from mist_ops.study import Study, guard_report

from .browsing import get

ALIKE, ODD = "phantom_900", "phantom_901"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, finished: Study) -> Iterator[Study]:
    """The finished study in a home of its own, with a guard."""
    folder = tmp_path_factory.mktemp("guarded")
    for name in ("results", "numpy"):
        shutil.copytree(finished.results.parent / name, folder / name)
    (folder / "data").symlink_to(finished.data.parent)  # type: ignore[union-attr]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DAGSTER_HOME", str(folder / "dagster_home"))
        assert (
            cli.guard(["--results", str(folder / "results"), "--study", "guarded", "--damages", "2", "--device", "cpu"])
            == 0
        )
        yield register(folder / "results", numpy=folder / "numpy")


@pytest.fixture
def guarded(built: Study, home: Path, tmp_path: Path) -> Study:
    """A copy of it that a test may change."""
    for name in ("results", "numpy"):
        shutil.copytree(built.results.parent / name, tmp_path / name)
    (tmp_path / "data").symlink_to((built.results.parent / "data").resolve())
    return register(tmp_path / "results", numpy=tmp_path / "numpy")


@pytest.fixture
def new(guarded: Study, tmp_path: Path) -> list[str]:
    """Two new patients, one like the others and one with bright and dark exchanged; the flags that predict them."""
    case = read_paths(guarded.test_paths, read_config(guarded.config).dataset_info.images)[0]
    odd: dict[str, Path] = {}
    for name, path in case.images.items():
        image, grid = read_image(path)
        odd[name] = tmp_path / f"odd_{name}.nii.gz"
        write_image(odd[name], image.max() - image, replace(grid, spacing=(3.0, 1.0, 1.0), header=None))
    with (tmp_path / "new.csv").open("w", newline="") as stream:
        rows = csv.writer(stream)
        rows.writerow(["id", *case.images])
        rows.writerow([ALIKE, *case.images.values()])
        rows.writerow([ODD, *odd.values()])
    models = ["--models-dir", str(guarded.models), "--config", str(guarded.config), "--device", "cpu"]
    return [*models, "--paths-csv", str(tmp_path / "new.csv"), "--output", str(tmp_path / "masks")]


def test_the_guard_knows_its_weights_and_every_patient(built: Study) -> None:
    guard = read_guard(built.guard)
    assert guard.models == {fold: file_hash(built.model(fold)) for fold in (0, 1)}
    assert guard.patients.keys() == read_train_paths(built.train_paths).fold_of.keys()
    assert sum(planted.scans for planted in guard.planted.values()) <= 2 * len(guard.patients)
    assert guard.planted["flipped left-right"].scans >= 1
    for patient in guard.patients.values():
        assert patient.dice.keys() == patient.expected.keys() == read_config(built.config).evaluation.keys()
        assert all(0 <= value <= 1 for value in (*patient.dice.values(), *patient.expected.values()))


def test_test_patients_that_were_predicted_before_get_a_report(built: Study, finished: Study) -> None:
    case = read_paths(built.test_paths, read_config(built.config).dataset_info.images)[0]
    report = read_report(guard_report(built.test_prediction(case.id)))
    record = read_prediction_record(built.prediction_record("test", case.id))
    assert report
    assert record
    assert record.guard == report.guard == file_hash(built.guard)
    assert record.models == report.models
    assert built.test_prediction(case.id).read_bytes() == finished.test_prediction(case.id).read_bytes()


def test_predictions_report_beside_each_mask_whether_the_scan_is_like_training(
    guarded: Study, new: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert cli.predict(new) == 0
    alike, odd = (read_report(tmp_path / f"masks/{case_id}.guard.json") for case_id in (ALIKE, ODD))
    assert alike
    assert odd
    assert (alike.verdict.like, odd.verdict.like) == (True, False)
    assert alike.verdict.reasons == ()
    assert any("modality or sequence" in reason for reason in odd.verdict.reasons)
    for expected in alike.verdict.dice.values():
        assert 0 <= expected.low <= expected.dice <= expected.high <= 1
    printed = capfd.readouterr().err
    assert f"'{ODD}'" in printed
    assert f"'{ALIKE}'" not in printed
    assert {path.name for path in (tmp_path / "masks").glob("*.nii.gz")} == {f"{ALIKE}.nii.gz", f"{ODD}.nii.gz"}


def test_a_strict_prediction_refuses_a_scan_and_predicts_the_others(
    guarded: Study, new: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert cli.predict([*new, "--strict", "--output-probs"]) == 1
    assert "[scan-unlike-training]" in capfd.readouterr().err
    assert {path.name for path in (tmp_path / "masks/discrete").iterdir()} == {
        f"{ALIKE}.nii.gz",
        f"{ALIKE}.guard.json",
        f"{ODD}.guard.json",
    }
    assert {path.name for path in (tmp_path / "masks/probabilities").iterdir()} == {f"{ALIKE}.nii.gz"}


def test_the_api_reports_and_refuses_as_the_command_does(guarded: Study, new: list[str], tmp_path: Path) -> None:
    done = mist_ops.predict_files(guarded, tmp_path / "new.csv", tmp_path / "masks", device="cpu", strict=True)
    assert (list(done.done), list(done.failures)) == ([ALIKE], [ODD])
    assert {path.name for path in (tmp_path / "masks").iterdir()} == {
        f"{ALIKE}.nii.gz",
        f"{ALIKE}.guard.json",
        f"{ODD}.guard.json",
    }


def test_a_mask_is_the_same_with_and_without_a_guard_whose_report_goes_with_it(
    guarded: Study, new: list[str], tmp_path: Path
) -> None:
    assert cli.predict(new) == 0
    mask = tmp_path / f"masks/{ALIKE}.nii.gz"
    before = mask.read_bytes()
    guarded.guard.unlink()
    assert cli.predict(new) == 0
    assert mask.read_bytes() == before
    assert not list((tmp_path / "masks").glob("*.guard.json"))


@pytest.mark.parametrize(
    "change, code",
    [
        (Path.unlink, "guard-missing"),
        (lambda path: write_json(path, {**read_object(path), "models": {"0": "other"}}), "guard-stale"),
        (lambda path: write_json(path, {**read_object(path), "version": 0}), "guard-version"),
        (lambda path: path.write_text("{"), "json-invalid"),
    ],
)
def test_a_guard_that_cannot_be_used_is_refused_with_strict_and_else_a_warning(
    guarded: Study, new: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str], change: object, code: str
) -> None:
    change(guarded.guard)  # type: ignore[operator]
    assert cli.predict([*new, "--strict"]) == 1
    assert f"[{code}]" in capfd.readouterr().err
    assert not (tmp_path / "masks").exists()
    assert cli.predict(new) == 0
    assert ("no report of the guard" in capfd.readouterr().err) == (code != "guard-missing")
    assert not list((tmp_path / "masks").glob("*.guard.json"))


def test_the_guard_is_stale_when_settings_or_weights_change_and_no_mask_is_when_it_is_built_again(
    guarded: Study, capfd: pytest.CaptureFixture[str]
) -> None:
    with instance() as records:
        assert "guard" not in status(guarded, records).stale
        write_json(guarded.guard, read_object(guarded.guard))
        assert "test" not in status(guarded, records).stale
        write_config(guarded.config, override(read_config(guarded.config), {"inference.tta.enabled": True}))
        assert "tta" in status(guarded, records).stale["guard"]["guard.json"]


def test_the_verification_of_a_model_reports_whether_the_guard_belongs_to_it(
    guarded: Study, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["verify", str(guarded.model(0)), "--numpy", str(guarded.numpy)]
    assert cli.passport(command) == 0
    assert f"{guarded.guard} belongs to the model." in capsys.readouterr().out
    write_json(guarded.guard, {**read_object(guarded.guard), "models": {"0": "other"}})
    assert cli.passport(command) == 0
    assert "belongs to other weights" in capsys.readouterr().out


def test_the_guard_needs_the_models_of_all_folds(guarded: Study, capfd: pytest.CaptureFixture[str]) -> None:
    before = guarded.guard.read_bytes()
    guarded.model(1).unlink()
    assert cli.guard(["--results", str(guarded.results)]) == 1
    assert "[model-missing]" in capfd.readouterr().err
    assert guarded.guard.read_bytes() == before


def test_a_patient_that_cannot_be_measured_is_named_and_the_guard_is_kept(
    guarded: Study, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    before = guarded.guard.read_bytes()
    (tmp_path / "data").unlink()
    shutil.copytree(guarded_data(guarded), tmp_path / "data")
    case = read_train_paths(guarded.train_paths).cases[0]
    next(iter(case.images.values())).write_bytes(b"no image")
    assert cli.guard(["--results", str(guarded.results), "--damages", "0", "--device", "cpu"]) == 1
    assert f"'{case.id}'" in capfd.readouterr().err
    assert guarded.guard.read_bytes() == before


def guarded_data(study: Study) -> Path:
    case: Case = read_train_paths(study.train_paths).cases[0]
    assert case.mask
    return case.mask.resolve().parents[2]


def test_the_page_shows_what_the_guard_reached_and_its_reports(built: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(built.results.parent / "dagster_home"))
    page = get(addresses.guard(built))
    assert page.status == 200
    guard = read_guard(built.guard)
    for case_id in guard.patients:
        assert addresses.patient(built, case_id) in page.text
    for kind in guard.planted:
        assert kind in page.text
    for case in read_paths(built.test_paths, read_config(built.config).dataset_info.images):
        assert case.id in page.text
    assert addresses.guard(built) in get(addresses.home(built)).text


def test_a_study_without_a_guard_has_a_page_that_names_the_command(
    finished: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(finished.results.parent / "dagster_home"))
    page = get(addresses.guard(finished))
    assert (page.status, "mist_guard" in page.text) == (200, True)


def test_the_asset_is_materialized_with_its_summary(built: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(built.results.parent / "dagster_home"))
    with instance() as records:
        event = records.get_latest_materialization_event(asset_key(built, "guard"))
    assert event
    assert event.asset_materialization
    shown = event.asset_materialization.metadata
    assert shown["patients"].value == len(read_guard(built.guard).patients)
    assert json.dumps(str(shown["summary"].value))
