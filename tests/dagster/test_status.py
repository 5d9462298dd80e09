"""What is stale after an edit, and that only this is rebuilt."""

import gzip
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from mist_dagster import cli
from mist_dagster.definitions import build_definitions
from mist_dagster.freshness.status import report, status
from mist_dagster.instance.home import instance
from mist_dagster.instance.studies import register
from mist_dagster.provenance import asset_key
from mist_dagster.stages import check_keys, tracked
from mist_ops.analysis.folds import make_fold
from mist_ops.config import STEP_VERSIONS, override, read_config, write_config
from mist_ops.dataset import read_train_paths
from mist_ops.imaging.nifti import read_labels, write_labels
from mist_ops.records.passport import read_passport
from mist_ops.study import Study
from mist_ops.training.attempts import Progress, discard, write_progress
from mist_ops.training.plan import read_arrays, run_settings

from .staleness import StaleStatus, staleness


@pytest.fixture
def edited(copied_study: Study, tmp_path: Path) -> tuple[Study, str]:
    """A study with a mask of its own for one patient of fold 1, in which a voxel changed."""
    assignment = read_train_paths(copied_study.train_paths)
    case = next(case for case in assignment.cases if assignment.fold_of[case.id] == 1)
    mask = tmp_path / "mask.nii.gz"
    shutil.copy2(str(case.mask), mask)
    table = copied_study.train_paths
    table.write_text(table.read_text().replace(os.path.relpath(case.mask, table.parent), str(mask)))
    labels, geometry = read_labels(mask)
    labels[tuple(np.argwhere(labels == 0)[0])] = 1
    write_labels(mask, labels, geometry)
    return copied_study, case.id


def test_a_study_that_nobody_touched_is_current(copied_study: Study, capfd: pytest.CaptureFixture[str]) -> None:
    assert status(copied_study).current
    where = ["--results", str(copied_study.results), "--numpy", str(copied_study.numpy)]
    assert cli.status(where) == 0
    assert "Everything is current." in capfd.readouterr().err


def test_an_edited_mask_reaches_its_arrays_the_folds_that_saw_it_and_what_follows(edited: tuple[Study, str]) -> None:
    study, patient = edited
    found = status(study)
    assert found.of("preprocess") == {patient: "its mask changed"}
    assert found.of("train") == {
        "fold_0": f"1 patient in its training set ({patient}): its mask changed",
        # Without --val-percent, the patients that a fold holds out select its weights.
        "fold_1": f"1 patient in its validation set ({patient}): its mask changed",
    }
    assert set(found.of("predict")) == {case.id for case in read_train_paths(study.train_paths).cases}
    assert set(found.of("test").values()) == {"folds 0, 1 need training"}
    assert found.of("evaluate")
    assert found.hours["train"] > 0
    text = "\n".join(report(found))
    assert f"Preprocess 1 patient ({patient}): its mask changed." in text  # pinned
    assert f"Train fold 0: 1 patient in its training set ({patient}): its mask changed." in text  # pinned


def test_a_plan_makes_just_that_again(edited: tuple[Study, str]) -> None:
    study, patient = edited
    others = [study.image(case.id) for case in read_train_paths(study.train_paths).cases if case.id != patient]
    before = {path: path.stat().st_mtime_ns for path in others}
    where = ["--results", str(study.results), "--numpy", str(study.numpy)]
    assert cli.plan(where) == 0
    assert not status(study).current
    assert cli.plan([*where, "--apply", "--device", "cpu"]) == 0
    assert list(report(status(study))) == ["Everything is current."]
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_a_plan_leaves_a_fold_alone_that_nothing_reached(copied_study: Study) -> None:
    study = copied_study
    weights, when = study.model(0).read_bytes(), study.model(0).stat().st_mtime_ns
    study.model(1).unlink()
    assert cli.plan(["--results", str(study.results), "--numpy", str(study.numpy), "--apply", "--device", "cpu"]) == 0
    assert study.model(1).exists()
    assert (study.model(0).read_bytes(), study.model(0).stat().st_mtime_ns) == (weights, when)
    assert status(study).current


def test_settings_reach_just_the_stages_that_read_them(copied_study: Study) -> None:
    study, config = copied_study, read_config(copied_study.config)
    write_config(study.config, override(config, {"inference.tta.enabled": True}))
    found = status(study)
    assert (found.of("preprocess"), found.of("train")) == ({}, {})
    assert set(found.of("predict").values()) == {"tta.enabled was false and is true"}
    write_config(study.config, override(config, {"training.epochs": 3}))
    found = status(study)
    assert found.of("preprocess") == {}
    assert set(found.of("train").values()) == {"epochs was 1 and is 3"}


def test_a_file_that_was_only_touched_makes_nothing_stale_and_other_metrics_do(copied_study: Study) -> None:
    study, config = copied_study, read_config(copied_study.config)
    for path in (study.config, *study.cv_predictions.iterdir()):
        path.touch()
    assert status(study).current
    write_config(study.config, override(config, {"evaluation": {"all": {"labels": [1, 2], "metrics": {"iou": {}}}}}))
    found = status(study)
    assert found.of("predict") == {}
    assert found.of("evaluate")["results.csv"].startswith("evaluation.")


def test_a_new_version_of_a_step_reaches_what_it_made_and_what_follows(
    copied_study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = copied_study
    monkeypatch.setitem(STEP_VERSIONS, "evaluation", 2)
    assert (status(study).of("predict"), status(study).of("evaluate")) == (
        {},
        {"results.csv": "the evaluation code changed from version 1 to 2"},
    )
    monkeypatch.setitem(STEP_VERSIONS, "prediction", 2)
    assert set(status(study).of("predict").values()) == {"the prediction code changed from version 1 to 2"}
    monkeypatch.setitem(STEP_VERSIONS, "training", 2)
    found = status(study)
    assert found.of("preprocess") == {}
    assert found.of("train")["fold_0"].startswith("The training code changed from version 1 to 2")
    monkeypatch.setitem(STEP_VERSIONS, "preprocessing", 2)
    assert set(status(study).of("preprocess").values()) == {"the preprocessing code changed from version 1 to 2"}


def test_what_is_missing_is_told(copied_study: Study) -> None:
    study = copied_study
    held_out = read_train_paths(study.train_paths).held_out(0)
    study.model(1).unlink()
    study.cv_prediction(held_out[0]).unlink()
    found = status(study)
    assert found.of("train") == {"fold_1": "it has no model"}
    assert found.of("predict")[held_out[0]] == "it is not predicted"


def test_the_checks_in_the_ui_say_what_the_command_says(edited: tuple[Study, str]) -> None:
    study, patient = edited
    with instance() as opened:
        build_definitions([study]).resolve_job_def(f"{study.key}__status").execute_in_process(instance=opened)
        latest = opened.event_log_storage.get_latest_asset_check_execution_by_key(check_keys(study))
    found = {key.asset_key.path[-1]: record.evaluation for key, record in latest.items()}
    assert {name: made.passed for name, made in found.items() if made} == {
        # A missing optional artifact is not stale.
        stage.target: stage.name == "analyze" or (stage.optional and stage.name != "choose_postprocessing")
        for stage in tracked()
    }
    [row] = found["preprocessed_case"].metadata["artifacts"].records
    assert row.data == {"artifact": patient, "because": "its mask changed"}
    assert found["fold_model"].metadata["stale"].value == 2
    assert found["fold_model"].metadata["estimated time"].value == "less than 1 min"


def test_estimates_scale_with_epochs_and_patients_and_claim_nothing_that_was_not_measured(
    copied_study: Study, capfd: pytest.CaptureFixture[str]
) -> None:
    study, config = copied_study, read_config(copied_study.config)
    where = ["--results", str(study.results), "--numpy", str(study.numpy)]

    def hours(changes: dict[str, object]) -> dict[str, float]:
        write_config(study.config, override(config, changes))
        with instance() as opened:
            return dict(status(register(study.results), opened).hours)

    ten, twenty = hours({"training.epochs": 10}), hours({"training.epochs": 20})
    assert twenty["train"] / ten["train"] == pytest.approx(2)
    steps = config.training.min_steps_per_epoch
    longer = hours({"training.epochs": 10, "training.min_steps_per_epoch": 100 * steps})
    assert 1 < longer["train"] / ten["train"] < 100  # the validation takes as long as before
    seconds = sum(read_passport(study.model(fold)).seconds for fold in (0, 1))
    assert ten["train"] == pytest.approx(10 * seconds / 3600, rel=1e-6)
    fold = make_fold(read_train_paths(study.train_paths), 0, config.training.val_percent, config.training.seed)
    changed = override(config, {"training.epochs": 10})
    done = Progress(epochs=8, settings=run_settings(study, changed, fold), arrays=read_arrays(changed))
    study.attempt(0).touch()
    write_progress(study, 0, done)
    assert hours({"training.epochs": 10})["train"] < 0.65 * ten["train"]  # 2 epochs of one fold, 10 of the other
    discard(study, 0)
    assert hours({"training.epochs": 10}) == pytest.approx(ten)
    assert hours({"training.epochs": 10, "model.architecture": "mednext-small"}) == {}
    assert ten.keys() == {"train"}  # nothing else has run in this home

    write_config(study.config, config)
    assert cli.preprocess([*where, "--overwrite"]) == 0
    ids = [case.id for case in read_train_paths(study.train_paths).cases]
    found = {}
    for number in (1, 3):
        for case_id in ids[:number]:
            study.image(case_id).unlink(missing_ok=True)
        found[number] = hours({})["preprocess"]
    assert found[3] == pytest.approx(3 * found[1])
    capfd.readouterr()
    assert cli.status(where) == 0
    shown = capfd.readouterr().err
    assert "Estimated time: less than 1 min (not yet measured: predicting, evaluating" in shown


def test_a_job_makes_just_that_again(copied_study: Study) -> None:
    study = copied_study
    kept = study.model(0).stat().st_mtime_ns
    study.model(1).unlink()
    job = build_definitions([study]).resolve_job_def(f"{study.key}__make_current")
    with instance() as opened:
        config = {"ops": {f"{study.key}__rebuild_stale": {"config": {"device": "cpu"}}}}
        assert job.execute_in_process(instance=opened, run_config=config).success
        runs = list(opened.get_runs())
        stages = [run.tags["mist/stage"] for run in runs]
        events = [entry.dagster_event for entry in opened.all_logs(runs[-1].run_id)]
        linked = [event.engine_event_data.metadata.get("run") for event in events if event and event.is_engine_event]
        checked = opened.event_log_storage.get_latest_asset_check_execution_by_key(check_keys(study))
    assert status(study).current
    assert study.model(0).stat().st_mtime_ns == kept
    # The latest first. The same weights give the same predictions, so the strategy of postprocessing stays current.
    assert stages == ["status", "test", "observe_tests", "evaluate", "predict", "train", "make_current"]
    assert [link.run_id for link in linked if link] == [run.run_id for run in runs[-2::-1]]
    assert {record.status.value for record in checked.values()} == {"SUCCEEDED"}


def test_a_job_makes_a_part_of_that_again(copied_study: Study) -> None:
    """As ``mist_finalize --submit`` and ``mist_run_all --submit`` ask it to."""
    study = copied_study
    held_out = read_train_paths(study.train_paths).held_out(1)
    for path in (study.model(0), study.passport(0), *map(study.cv_prediction, held_out[:2]), study.results_csv):
        path.unlink()
    before = study.model(1).stat().st_mtime_ns

    def run(**config: object) -> None:
        job = build_definitions([study]).resolve_job_def(f"{study.key}__make_current")
        with instance() as opened:
            given = {"ops": {f"{study.key}__rebuild_stale": {"config": {"device": "cpu", **config}}}}
            assert job.execute_in_process(instance=opened, run_config=given).success

    run(stages=["predict"], patients=list(held_out[:1]))
    assert study.cv_prediction(held_out[0]).is_file()
    assert not study.cv_prediction(held_out[1]).exists()
    run(stages=["train"], seeds=[read_config(study.config).training.seed + 1])
    assert not study.model(0).exists()
    run(stages=["train"], folds=[1], overwrite=True)
    assert not study.model(0).exists()
    assert study.model(1).stat().st_mtime_ns > before
    assert not study.results_csv.exists()


def test_what_tools_made_of_scores_is_told_of_and_made_again_in_order(
    copied_study: Study, capfd: pytest.CaptureFixture[str]
) -> None:
    study, where = copied_study, ["--results", str(copied_study.results), "--numpy", str(copied_study.numpy)]
    config = ["--config", str(study.config), "--paths-csv", str(study.evaluation_paths)]
    shutil.copy(study.results_csv, "other.csv")
    assert cli.evaluate([*config, "--output-csv", "again.csv"]) == 0
    assert cli.rank(["--results", "again.csv", "other.csv", "--output-csv", "ranks.csv"]) == 0
    capfd.readouterr()
    assert cli.status(where) == 0
    assert "Everything is current." in capfd.readouterr().err
    settings = override(read_config(study.config), {"evaluation": {"all": {"labels": [1, 2], "metrics": {"dice": {}}}}})
    write_config(study.config, settings)
    Path("other.csv").write_text("id,all_dice\n" + "".join(f"{row},0.5\n" for row in sorted(scored(study))))
    assert cli.status(where) == 0
    said = capfd.readouterr().err
    assert f"Rebuild {Path('again.csv').resolve()}: config.json changed." in said
    assert f"Rebuild {Path('ranks.csv').resolve()}: again.csv needs a rebuild." in said
    assert cli.plan([*where, "--apply"]) == 0
    assert "all_dice" in Path("ranks.csv").with_name("again.csv").read_text()
    capfd.readouterr()
    assert cli.status(where) == 0
    assert "Everything is current." in capfd.readouterr().err


def scored(study: Study) -> list[str]:
    return [case.id for case in read_train_paths(study.train_paths).cases]


def test_a_new_patient_is_told_of_taken_in_and_nobody_else_moves(
    finished: Study, home: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(finished.data.parent, tmp_path / "data")
    where = ["--results", str(tmp_path / "results")]
    data = ["--data", str(tmp_path / "data" / "dataset.json"), *where]
    assert cli.analyze([*data, "--nfolds", "2"]) == 0
    before = read_train_paths(tmp_path / "results" / "train_paths.csv").fold_of
    train = tmp_path / "data" / "train"
    shutil.copytree(train / "phantom_002", train / "phantom_new")
    assert cli.status(where) == 0
    assert "Analyze 1 new patient (phantom_new)" in capfd.readouterr().err
    assert cli.analyze([*data, "--update", "--overwrite"]) == 1
    assert cli.analyze([*data, "--replan"]) == 1
    assert "[flags-contradict]" in capfd.readouterr().err
    assert cli.analyze(data) == 1
    assert "[output-exists]" in capfd.readouterr().err
    assert cli.analyze([*data, "--update"]) == 0
    after = read_train_paths(tmp_path / "results" / "train_paths.csv").fold_of
    assert after == {**before, "phantom_new": 0}


def test_arrays_that_come_out_the_same_leave_what_was_made_from_them_current(
    copied_study: Study, tmp_path: Path
) -> None:
    """The same voxels in a file with other bytes: one patient is preprocessed, and no fold is trained."""
    study = register(copied_study.results, numpy=copied_study.numpy, data=copied_study.data)
    where = ["--results", str(study.results), "--numpy", str(study.numpy)]
    assert cli.status([*where, "--rebuild"]) == 0
    case = read_train_paths(study.train_paths).cases[0]
    scan = tmp_path / "scan.nii.gz"
    scan.write_bytes(gzip.compress(gzip.decompress(case.images["t1"].read_bytes()), compresslevel=1))
    table = study.train_paths
    table.write_text(table.read_text().replace(os.path.relpath(case.images["t1"], table.parent), str(scan)))
    found = status(study)
    assert found.of("preprocess") == {case.id: "its t1 changed"}
    assert set(found.of("train")) == {"fold_0", "fold_1"}  # until the arrays are known
    models = [study.model(fold).stat().st_mtime_ns for fold in (0, 1)]
    assert cli.plan([*where, "--apply", "--device", "cpu"]) == 0
    assert [study.model(fold).stat().st_mtime_ns for fold in (0, 1)] == models
    assert status(study).current
    with instance() as records:
        badges = staleness(study, records)
        for asset, partition in (
            *(("fold_model", f"fold_{fold}") for fold in (0, 1)),
            ("preprocessed_case", case.id),
            ("cv_prediction", case.id),
        ):
            assert badges.get_status(asset_key(study, asset), partition) == StaleStatus.FRESH, asset
