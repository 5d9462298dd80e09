from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from expect import refuses

from mist_ops.errors import CaseError, DatasetError
from mist_ops.imaging.geometry import Geometry
from mist_ops.imaging.nifti import write_labels
from mist_ops.postprocessing.case import Prediction
from mist_ops.postprocessing.search import candidates, search
from mist_ops.types import LabelMap

GRID = Geometry((16, 16, 16), (1.0, 1.0, 1.0))


def truth() -> LabelMap:
    labels = np.zeros(GRID.size, dtype=np.uint8)
    labels[2:9, 2:9, 2:9] = 1
    return labels


def dice(prediction: Prediction, labels: LabelMap) -> float:
    if prediction.id == "bad":
        raise CaseError("bad", "it has no mask.", code="image-missing")
    return float(2 * ((labels == 1) & (truth() == 1)).sum() / ((labels == 1).sum() + (truth() == 1).sum()))


def predictions(folder: Path, cases: int, islands: bool, unlucky: bool = False) -> list[Prediction]:
    """Predictions equal to the truth, on request with a false island or without the first slices."""
    found = []
    for number in range(cases):
        labels = truth()
        if islands:
            labels[11:14, 11:14, number % 3 : number % 3 + 3] = 1
        if unlucky:
            labels[:4] = 0
        path = folder / f"p{number}.nii.gz"
        write_labels(path, labels, GRID)
        found.append(Prediction(f"p{number}", path))
    return found


@pytest.mark.parametrize("workers", [1, 2])
def test_a_step_that_helps_all_patients_is_kept_and_helps_held_out_patients(tmp_path: Path, workers: int) -> None:
    folds = {f"p{number}": number % 2 for number in range(20)}
    choice = search(predictions(tmp_path, 20, islands=True), dice, candidates([0, 1]), folds, workers)
    assert len(choice.strategy) == 1
    assert (choice.after, choice.held_out) == (1.0, 1.0)
    assert choice.before < 0.97
    kept = [trial for trial in choice.trials if trial.kept]
    assert [(trial.place, trial.better, trial.worse) for trial in kept] == [(1, 20, 0)]
    assert json.loads(json.dumps(choice.to_json()))["strategy"][0]["apply_to_labels"] == list(choice.strategy[0].labels)


def test_no_step_is_kept_if_none_helps(tmp_path: Path) -> None:
    choice = search(predictions(tmp_path, 8, islands=False), dice, candidates([0, 1]))
    assert (choice.strategy, choice.before, choice.after, choice.held_out) == ((), 1.0, 1.0, None)


def test_no_step_is_significant_with_too_few_patients(tmp_path: Path) -> None:
    choice = search(predictions(tmp_path, 3, islands=True), dice, candidates([0, 1]))
    assert choice.strategy == ()
    assert max(trial.after for trial in choice.trials) == 1.0


def test_a_patient_that_cannot_be_scored_is_excluded_and_named(tmp_path: Path) -> None:
    good = predictions(tmp_path, 3, islands=False)
    choice = search([*good, Prediction("bad", good[0].path)], dice, candidates([1]))
    assert choice.failures == {"bad": "Case 'bad': it has no mask. [image-missing]"}
    with refuses("predictions-unscored", DatasetError, names="1 prediction ", found=["bad"]):
        search([Prediction("bad", good[0].path)], dice, candidates([1]))
