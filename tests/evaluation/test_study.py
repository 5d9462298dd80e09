from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from mist_ops.analysis.analyze import analyze
from mist_ops.evaluation.study import StudyEvaluation, open_evaluation
from mist_ops.evaluation.table import summary_path
from mist_ops.files import file_hash, file_hashes
from mist_ops.records.scores import read_score_inputs
from mist_ops.steps import settings
from mist_ops.study import Study


@pytest.fixture
def study(phantom_dataset: Path, tmp_path: Path) -> Study:
    """An analyzed study of six patients: two with their masks as predictions, and a model for the last one's fold."""
    study = Study("phantoms", numpy=tmp_path / "numpy", results=tmp_path / "results", data=phantom_dataset)
    list(analyze(study, overrides={"training.nfolds": 3}))
    study.cv_predictions.mkdir(parents=True)
    assignment = open_evaluation(study).assignment
    for case in assignment.cases[:2]:
        assert case.mask
        shutil.copy(case.mask, study.cv_prediction(case.id))
    study.models.mkdir()
    study.model(assignment.fold_of[assignment.cases[-1].id]).touch()
    return study


def evaluated(study: Study) -> StudyEvaluation:
    task = open_evaluation(study)
    rows = {outcome.item.id: outcome.result for outcome in task.score() if outcome.result}
    task.write(rows, {}, file_hashes(task.inputs))
    return task


def test_expected_are_predicted_patients_and_those_of_a_fold_with_a_model(study: Study) -> None:
    task = open_evaluation(study)
    fold_of = task.assignment.fold_of
    predicted = [case.id for case in task.assignment.cases[:2]]
    held_out = [case_id for case_id in fold_of if fold_of[case_id] == fold_of[task.assignment.cases[-1].id]]
    assert [pair.id for pair in task.pairs] == predicted
    assert {pair.id for pair in task.expected} == {*predicted, *held_out}


def test_an_expected_patient_without_a_prediction_is_a_failure_of_the_summary(study: Study) -> None:
    task = evaluated(study)
    unpredicted = {pair.id for pair in task.expected} - {pair.id for pair in task.pairs}
    summary = json.loads(summary_path(study.results_csv).read_text())
    assert unpredicted
    assert summary["failures"].keys() == unpredicted
    assert summary["patients"]["scored"] == 2


def test_the_summary_records_the_inputs_by_id(study: Study) -> None:
    task = evaluated(study)
    inputs = read_score_inputs(summary_path(study.results_csv))
    assert inputs is not None
    assert inputs.settings == settings(task.config, "evaluation")
    assert inputs.masks == inputs.predictions == {pair.id: file_hash(pair.mask) for pair in task.pairs}


def test_patients_without_scores_are_reported_missing(study: Study) -> None:
    task = open_evaluation(study)
    written = task.write({}, {}, {"masks": {}, "predictions": {}})
    assert written.missing == [case.id for case in task.assignment.cases]
    assert written.plot.startswith(b"\x89PNG")
