"""What a person keeps is current until something else changes, is shown with its reason, and can be undone."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from expect import refuses

from mist_dagster import cli
from mist_dagster.definitions import build_definitions
from mist_dagster.freshness.keep import Choice, keep, undo
from mist_dagster.freshness.status import Status, as_json, report, status
from mist_dagster.instance.home import instance
from mist_dagster.instance.studies import register
from mist_dagster.launch import Launcher
from mist_dagster.provenance import asset_key
from mist_dagster.runtime.progress import LogProgress
from mist_dagster.stages import tracked
from mist_dagster.stages.settings import adopt_config
from mist_ops.config import override, read_config, write_config
from mist_ops.dataset import read_train_paths
from mist_ops.errors import ConfigError
from mist_ops.imaging.nifti import read_labels, write_labels
from mist_ops.records.kept import read_kept
from mist_ops.records.passport import read_passport
from mist_ops.study import Study

from .staleness import StaleStatus, staleness

REASON = "the loss had converged"


def change(study: Study, **settings: object) -> None:
    write_config(
        study.config,
        override(read_config(study.config), {name.replace("__", "."): value for name, value in settings.items()}),
    )


def kept(study: Study, choice: Choice, reason: str = REASON) -> Status:
    with instance() as records:
        keep(Launcher(records, LogProgress(), build_definitions), study, choice, reason)
    return status(study)


def undone(study: Study, choice: Choice) -> Status:
    with instance() as records:
        undo(Launcher(records, LogProgress(), build_definitions), study, choice)
    return status(study)


def edit_mask(study: Study, folder: Path, patient: str, voxel: int) -> None:
    """Give a patient a mask of its own, and change one of its voxels."""
    case = next(case for case in read_train_paths(study.train_paths).cases if case.id == patient)
    mask = folder / "mask.nii.gz"
    if case.mask != mask:
        shutil.copy2(str(case.mask), mask)
        table = study.train_paths
        table.write_text(table.read_text().replace(os.path.relpath(str(case.mask), table.parent), str(mask)))
    labels, geometry = read_labels(mask)
    labels[tuple(np.argwhere(labels == 0)[voxel])] = 1
    write_labels(mask, labels, geometry)


def test_a_change_that_is_kept_makes_nothing_stale_and_is_shown(copied_study: Study) -> None:
    study = copied_study
    change(study, training__epochs=2)
    assert set(status(study).stale) == {"train", "predict", "evaluate", "choose_postprocessing", "test"}
    found = kept(study, Choice(change="epochs"))
    assert found.current
    assert set(found.kept) == {"train"}  # what follows is current, and not kept itself
    assert REASON in found.kept["train"]["fold_0"]
    text = "\n".join(report(found))
    assert f"{REASON} (epochs was 1 and is 2)" in text
    assert REASON in json.dumps(as_json(found)["kept"])
    [noted] = read_passport(study.model(0)).kept
    assert REASON in noted


def test_it_is_undone(copied_study: Study) -> None:
    study = copied_study
    change(study, training__epochs=2)
    stale = status(study).stale
    kept(study, Choice(change="epochs"))
    found = undone(study, Choice(artifacts=["fold_1"]))
    assert set(found.stale["train"]) == {"fold_1"}
    assert read_passport(study.model(1)).kept == ()
    assert read_passport(study.model(0)).kept
    assert undone(study, Choice(change="epochs")).stale == stale
    assert not study.kept.exists()


def test_another_change_is_reported_alone(copied_study: Study) -> None:
    study = copied_study
    change(study, training__epochs=2)
    kept(study, Choice(stage="train"))
    change(study, training__seed=7)
    found = status(study)
    assert set(found.stale["train"].values()) == {"seed was 42 and is 7"}
    assert found.kept["train"]  # and it is said that there is more
    change(study, training__epochs=3, training__seed=42)
    assert set(status(study).stale["train"].values()) == {"epochs was 1 and is 3"}


def test_a_file_that_changes_again_is_stale_again(copied_study: Study, tmp_path: Path) -> None:
    study = copied_study
    patient = read_train_paths(study.train_paths).cases[0].id
    edit_mask(study, tmp_path, patient, 0)
    assert status(study).of("preprocess") == {patient: "its mask changed"}
    found = kept(study, Choice(change="mask"), "a voxel at the border")
    assert not found.of("preprocess")
    assert not found.of("train")
    assert set(found.kept) == {"preprocess", "evaluate", "choose_postprocessing"}
    assert found.current
    edit_mask(study, tmp_path, patient, 1)
    found = status(study)
    assert found.of("preprocess") == {patient: "its mask changed"}
    assert found.of("train")
    assert found.of("evaluate")
    assert not found.kept


def test_a_second_reason_of_an_artifact_is_not_kept_with_the_first(copied_study: Study, tmp_path: Path) -> None:
    study = copied_study
    patient = read_train_paths(study.train_paths).cases[0].id
    edit_mask(study, tmp_path, patient, 0)
    change(study, spatial_config__target_spacing=[1.0, 1.0, 0.8])
    both = status(study).of("preprocess")[patient]
    assert "its mask changed; target_spacing was " in both
    found = kept(study, Choice("preprocess", change="mask"))
    assert found.of("preprocess")[patient] == both.removeprefix("its mask changed; ")


def test_predictions_and_scores_are_kept(copied_study: Study) -> None:
    study = copied_study
    change(study, inference__inferer__params__patch_overlap=0.25)
    assert set(status(study).stale) == {"predict", "evaluate", "choose_postprocessing", "test"}
    found = kept(study, Choice(change="patch_overlap"))
    assert found.current
    assert set(found.kept) == {"predict", "test"}
    study.cv_prediction(next(iter(found.kept["predict"]))).unlink()
    assert list(status(study).of("predict").values()) == ["it is not predicted"]


def test_a_model_that_is_trained_again_is_not_kept_any_more(copied_study: Study) -> None:
    study = copied_study
    change(study, training__epochs=2)
    kept(study, Choice("train"))
    where = ["--results", str(study.results), "--numpy", str(study.numpy), "--device", "cpu"]
    assert cli.train([*where, "--resume"]) == 0  # does nothing
    assert len(read_passport(study.model(0)).history) == 1
    assert cli.train([*where, "--overwrite", "--folds", "0"]) == 0
    assert len(read_passport(study.model(0)).history) == 2
    assert read_passport(study.model(0)).kept == ()
    assert list(status(study).kept["train"]) == ["fold_1"]


def test_the_ui_agrees(copied_study: Study) -> None:
    study = copied_study
    study = register(study.results, numpy=study.numpy, data=study.data)
    where = ["--results", str(study.results), "--numpy", str(study.numpy)]
    assert cli.status([*where, "--rebuild"]) == 0
    change(study, training__epochs=2)
    with instance() as records:
        adopt_config(records, study, read_config(study.config), "edited")
        assert staleness(study, records).get_status(asset_key(study, "fold_model"), "fold_0") == StaleStatus.STALE
    assert cli.keep([*where, "--change", "epochs", "--reason", REASON]) == 0
    with instance() as records:
        fold = asset_key(study, "fold_model")
        badges = staleness(study, records)
        assert badges.get_status(fold, "fold_0") == StaleStatus.FRESH
        job = build_definitions([study]).resolve_job_def(f"{study.key}__what_if")
        config = {"ops": {f"{study.key}__what_if_op": {"config": {"changes": ["training.epochs=5"]}}}}
        result = job.execute_in_process(instance=records, run_config=config)
        [output] = [event for event in result.all_events if event.is_successful_output]
        answer = output.event_specific_data.metadata["answer"].value
        assert "epochs was 1 and is 5" in answer
        job = build_definitions([study]).resolve_job_def(f"{study.key}__keep")
        config = {"ops": {f"{study.key}__keep_op": {"config": {"undo": True, "change": "epochs"}}}}
        assert job.execute_in_process(instance=records, run_config=config).success
    assert status(study).of("train")


def test_what_cannot_be_kept_is_refused(copied_study: Study, capfd: pytest.CaptureFixture[str]) -> None:
    study = copied_study
    where = ["--results", str(study.results), "--numpy", str(study.numpy)]
    with refuses("nothing-to-keep", ConfigError):  # everything is current
        kept(study, Choice(change="epochs"))
    study.model(0).unlink()
    with refuses("nothing-to-keep", ConfigError):
        kept(study, Choice("train"))
    with refuses("nothing-to-keep", ConfigError):  # its predictions wait for it
        kept(study, Choice("predict"))
    with refuses("nothing-to-keep", ConfigError):
        undone(study, Choice("predict"))
    assert read_kept(study.kept) == ()
    assert cli.keep([*where, "--change", "epochs"]) == 1
    assert "[reason-missing]" in capfd.readouterr().err
    assert cli.keep([*where, "--reason", REASON]) == 1
    assert "[flags-incomplete]" in capfd.readouterr().err
    study.kept.parent.mkdir(exist_ok=True)
    study.kept.write_text("[3]")
    assert cli.status(where) == 1
    assert "[kept-invalid]" in capfd.readouterr().err


def test_the_stages_of_the_flag_are_those_that_can_be_stale() -> None:
    field = cli.options.KeepOptions.model_fields["stage"]
    assert all(f"'{stage.name}'" in str(field.annotation) for stage in tracked() if stage.name != "analyze")


def test_the_passport_says_why_a_model_was_kept(copied_study: Study, capsys: pytest.CaptureFixture[str]) -> None:
    study = copied_study
    change(study, training__epochs=2)
    kept(study, Choice("train", ["fold_0"]))
    assert cli.passport(["verify", str(study.model(0)), "--numpy", str(study.numpy)]) == 1
    printed = capsys.readouterr().out
    assert "epochs was 1 and is 2." in printed
    assert REASON in printed
