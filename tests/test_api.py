from __future__ import annotations

import doctest
import inspect
import logging
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from expect import refuses

import mist_ops
from mist_ops.dataset import read_train_paths
from mist_ops.evaluation.table import Pair, write_pairs
from mist_ops.phantoms import write_phantoms
from mist_ops.tables import write_rows


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> mist_ops.Study:
    """The study that the example of the package makes: four patients, two folds, the first of them trained."""
    folder = tmp_path_factory.mktemp("example")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert doctest.testmod(mist_ops, raise_on_error=True).attempted > 10
        return mist_ops.open_study("results", numpy="numpy")


@pytest.fixture
def study(example: mist_ops.Study, tmp_path: Path) -> mist_ops.Study:
    """A copy of it to change."""
    folder = example.results.parent
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    return mist_ops.open_study(tmp_path / "results", numpy=tmp_path / "numpy")


@pytest.fixture
def images(example: mist_ops.Study) -> dict[str, dict[str, Path]]:
    """The images of a patient, as of a new one."""
    case = read_train_paths(example.train_paths).cases[0]
    return {"new": dict(case.images)}


def test_importing_the_package_loads_nothing() -> None:
    code = "import mist_ops, sys; print(*sorted({'torch', 'pandas', 'nibabel', 'numpy'} & set(sys.modules)))"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.split() == []


def test_every_name_is_there_and_described() -> None:
    assert set(mist_ops.__all__) <= set(dir(mist_ops))
    for name in mist_ops.__all__:
        assert inspect.getdoc(getattr(mist_ops, name)), name


def test_another_name_is_no_attribute() -> None:
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        mist_ops.trian  # noqa: B018


def test_the_dataset_of_an_analyzed_study_is_found(example: mist_ops.Study) -> None:
    assert example.data == example.results.parent / "data" / "dataset.json"


def test_a_folder_without_a_study_needs_a_dataset(tmp_path: Path) -> None:
    with refuses("config-missing", file=tmp_path / "config.json"):
        mist_ops.open_study(tmp_path)


def test_an_analysis_keeps_edits_and_folds_unless_fresh(study: mist_ops.Study) -> None:
    again = mist_ops.analyze(study)
    assert again.config.model.architecture == "nnunet-pocket"
    assert again.folds == read_train_paths(study.train_paths).fold_of
    assert mist_ops.analyze(study, {"training.nfolds": 2}, fresh=True).config.model.architecture == "nnunet"


def test_an_unknown_name_leaves_the_settings_as_they_are(study: mist_ops.Study) -> None:
    before = study.config.read_bytes()
    with refuses("unknown-loss", found="dise"):
        mist_ops.configure(study, {"training.loss.name": "dise"})
    assert study.config.read_bytes() == before


def test_a_patient_that_fails_is_in_the_result_and_the_others_are_done(
    study: mist_ops.Study, caplog: pytest.LogCaptureFixture
) -> None:
    first, *others = read_train_paths(study.train_paths).cases
    assert first.mask
    first.mask.write_bytes(b"no image")
    found = mist_ops.preprocess(study, overwrite=True)
    assert set(found.done) == {case.id for case in others}
    assert found.failures.keys() == {first.id}
    assert [record.levelno for record in caplog.records if first.id in record.getMessage()] == [logging.WARNING]
    with refuses(found.failures[first.id].code, names=first.id, case=first.id, found=[first.id]):
        found.raise_for_failures()


def test_current_arrays_are_skipped_and_those_of_other_settings_are_kept(study: mist_ops.Study) -> None:
    assert len(mist_ops.preprocess(study).current) == 4
    mist_ops.configure(study, {"spatial_config.target_spacing": [2.0, 2.0, 2.0]})
    with refuses("arrays-differ", file=study.numpy):
        mist_ops.preprocess(study)
    assert len(mist_ops.preprocess(study, overwrite=True).done) == 4


def test_a_trained_fold_is_kept(example: mist_ops.Study) -> None:
    with refuses("output-exists", found=0):
        mist_ops.train(example, 0)
    with refuses("unknown-fold", found=2, expected=[0, 1]):
        mist_ops.train(example, 2)


def test_resuming_a_current_model_returns_it(study: mist_ops.Study) -> None:
    study.checkpoint(0).unlink()
    before = study.model(0).stat().st_mtime_ns
    assert len(mist_ops.train(study, 0, resume=True).history) == 1
    assert study.model(0).stat().st_mtime_ns == before


def test_a_fold_resumes_with_more_epochs(study: mist_ops.Study) -> None:
    mist_ops.configure(study, {"training.epochs": 2})
    steps: list[mist_ops.Progress] = []
    passport = mist_ops.train(study, 0, device="cpu", resume=True, progress=steps.append)
    assert [(step.done, step.total, step.epoch) for step in steps] == [(2, 2, passport.history[1])]


def test_current_predictions_are_skipped(example: mist_ops.Study) -> None:
    found = mist_ops.predict(example, device="cpu")
    assert (len(found.done), len(found.current)) == (0, 2)


def test_predictions_need_models(study: mist_ops.Study) -> None:
    with refuses("model-missing", found=[1]):
        mist_ops.predict(study, [0, 1])
    study.model(0).unlink()
    with refuses("model-missing", found=[0, 1]):
        mist_ops.predict(study)


def test_test_predictions_need_test_patients_and_all_models(study: mist_ops.Study) -> None:
    with refuses("test-data-missing", file=study.test_paths):
        mist_ops.predict_tests(study)
    shutil.copy(study.train_paths, study.test_paths)
    with refuses("model-missing", found=[1]):
        mist_ops.predict_tests(study)


def test_scores_need_predictions(study: mist_ops.Study) -> None:
    shutil.rmtree(study.cv_predictions)
    with refuses("predictions-missing"):
        mist_ops.evaluate(study)


def test_scores_are_tables(example: mist_ops.Study) -> None:
    scores = mist_ops.evaluate(example)
    written = pd.read_csv(example.results_csv, index_col="id")
    pd.testing.assert_frame_equal(scores.table, written.loc[scores.table.index], check_exact=False)
    assert scores.summary.loc["core_dice", "mean"] == pytest.approx(scores.table["core_dice"].mean())
    assert len(scores.missing) == 2


def test_new_images_are_predicted_from_paths_or_a_table(
    example: mist_ops.Study, images: dict[str, dict[str, Path]], tmp_path: Path
) -> None:
    write_rows([{"id": case_id, **paths} for case_id, paths in images.items()], tmp_path / "new.csv")
    for patients, output in ((images, tmp_path / "a"), (tmp_path / "new.csv", tmp_path / "b")):
        assert mist_ops.predict_files(example, patients, output, device="cpu").done == ("new",)
    assert (tmp_path / "a" / "new.nii.gz").read_bytes() == (tmp_path / "b" / "new.nii.gz").read_bytes()


def test_a_new_patient_without_a_channel_fails_alone(
    example: mist_ops.Study, images: dict[str, dict[str, Path]], tmp_path: Path
) -> None:
    patients = {"half": {"t1": images["new"]["t1"]}, **images}
    found = mist_ops.predict_files(example, patients, tmp_path / "masks", device="cpu")
    assert found.done == ("new",)
    assert found.failures.keys() == {"half"}


def test_any_masks_are_scored_and_ranked(example: mist_ops.Study, tmp_path: Path) -> None:
    cases = [case for case in read_train_paths(example.train_paths).cases if example.cv_prediction(case.id).exists()]
    perfect = {case.id: (case.mask, case.mask) for case in cases}
    scores = mist_ops.evaluate_files(example, perfect, tmp_path / "perfect.csv")
    assert (scores.table["core_dice"] == 1).all()
    pairs = [Pair(case.id, case.mask, example.cv_prediction(case.id)) for case in cases]
    write_pairs(tmp_path / "pairs.csv", pairs)
    mist_ops.evaluate_files(example, tmp_path / "pairs.csv", tmp_path / "predicted.csv")
    tables = {"perfect": tmp_path / "perfect.csv", "predicted": tmp_path / "predicted.csv"}
    ranked = mist_ops.rank(tables, tmp_path / "ranking.csv")
    assert list(ranked.summary["strategy"]) == ["perfect", "predicted"]
    assert (tmp_path / "ranking.png").is_file()
    by_study = mist_ops.rank([tmp_path / "perfect.csv", replace(example, results=example.results)])
    assert list(by_study.summary["strategy"]) == ["perfect", "results"]


def test_progress_is_a_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    study = mist_ops.open_study(tmp_path / "results", data=write_phantoms(tmp_path, patients=2, size=(24, 26, 22)))
    mist_ops.analyze(study, {"training.nfolds": 2}, progress=print)
    assert capsys.readouterr().out.splitlines() == ["Analyzing 1: phantom_001", "Analyzing 2: phantom_002"]
