"""``mist_train`` on every state of a study with two folds, with every combination of --resume, --overwrite and --folds.

The decision for each fold is read from the stages that are run; each outcome is then checked on one study.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from mist_dagster.cli import studies
from mist_dagster.cli.options import TrainOptions
from mist_dagster.definitions import build_definitions
from mist_dagster.instance.home import instance
from mist_dagster.launch import Launcher
from mist_dagster.partitions import fold_key
from mist_dagster.runtime.progress import LogProgress
from mist_ops.config import override, read_config, write_config
from mist_ops.errors import ConfigError
from mist_ops.files import file_hash
from mist_ops.records.prediction import read_prediction_record
from mist_ops.study import Study

from .harness import Sandbox, edit_section, remove, save, set_folds, voxels

UNTRAINED, BEGUN, TRAINED, WITHOUT_CHECKPOINT = "untrained", "begun", "trained", "trained, its checkpoint removed"
FROM_SCRATCH, RESUMED, KEPT, REFUSED = "trained from scratch", "resumed", "kept as it is", "refused"

STATES = {
    "none trained": (UNTRAINED, UNTRAINED),
    "one trained": (TRAINED, UNTRAINED),
    "one begun": (BEGUN, UNTRAINED),
    "one trained, one begun": (TRAINED, BEGUN),
    "all trained": (TRAINED, TRAINED),
    "all trained, one checkpoint removed": (WITHOUT_CHECKPOINT, TRAINED),
}
FOLDS: Sequence[list[int] | None] = (None, [0], [1], [1, 0], [0, 0])
FLAGS = {"no flag": {}, "--resume": {"resume": True}, "--overwrite": {"overwrite": True}}


def expected(states: Sequence[str], flag: str, folds: Sequence[int]) -> Mapping[int, str]:
    """The outcome for each requested fold, as the manual has it."""
    if flag == "no flag" and any(states[fold] != UNTRAINED for fold in folds):
        return dict.fromkeys(folds, REFUSED)
    if flag != "--resume":
        return dict.fromkeys(folds, FROM_SCRATCH)
    resumed = {UNTRAINED: FROM_SCRATCH, BEGUN: RESUMED, TRAINED: KEPT, WITHOUT_CHECKPOINT: KEPT}
    return {fold: resumed[states[fold]] for fold in folds}


@dataclass(frozen=True)
class Recording(Launcher):
    """Records the stages instead of running them, but writes a table of scores for the evaluation."""

    scores: Path = Path()
    stages: list[tuple[str, Mapping[str, Any], Sequence[str]]] = field(default_factory=list)

    def run_stage(
        self, study: Study, stage: str, config: Mapping[str, Any] | None = None, partitions: Sequence[str] | None = None
    ) -> None:
        self.stages.append((stage, config or {}, partitions or ()))
        if stage == "evaluate":
            shutil.copy(self.scores, study.results_csv)


def bring(study: Study, fold: int, state: str) -> None:
    """Bring a fold of a finished study to a state."""
    removed = {
        UNTRAINED: (study.model(fold), study.passport(fold), study.checkpoint(fold)),
        BEGUN: (study.model(fold), study.passport(fold)),
        TRAINED: (),
        WITHOUT_CHECKPOINT: (study.checkpoint(fold),),
    }
    for path in removed[state]:
        path.unlink()


@pytest.fixture
def recording(trained: Sandbox, sound: Path) -> Iterator[Recording]:
    with instance() as opened:
        yield Recording(opened, LogProgress(), build_definitions, sound / "results" / "results.csv")


def test_every_state_and_flag_has_its_outcome(recording: Recording, trained: Sandbox, tmp_path: Path) -> None:
    kept = {path: path.read_bytes() for path in trained.files() if {"models", "checkpoints"} & set(path.parts)}
    for name, states in STATES.items():
        for flag, chosen in FLAGS.items():
            for requested in FOLDS:
                for path, content in kept.items():
                    path.write_bytes(content)
                for fold, state in enumerate(states):
                    bring(trained.study, fold, state)
                folds = sorted(set([0, 1] if requested is None else requested))
                found = decided(recording, trained.study, TrainOptions(folds=requested, **chosen))
                assert found == expected(states, flag, folds), (name, flag, requested)


def decided(recording: Recording, study: Study, options: TrainOptions) -> Mapping[int, str]:
    """The outcome for each fold."""
    recording.stages.clear()
    present = {
        path for path in (study.model(0), study.model(1), study.checkpoint(0), study.checkpoint(1)) if path.exists()
    }
    try:
        studies.train(recording, options, {})
    except ConfigError:
        folds = sorted(set(options.folds or [0, 1]))
        assert recording.stages == []
        return dict.fromkeys(folds, REFUSED)
    assert all(path.exists() for path in present), "only a training may remove a model"
    trained = {key: how["resume"] for stage, how, keys in recording.stages if stage == "train" for key in keys}
    found = {}
    for fold in options.folds or (0, 1):
        resumed = trained.get(fold_key(fold))
        begun = study.checkpoint(fold) in present
        found[fold] = KEPT if resumed is None else RESUMED if resumed and begun else FROM_SCRATCH
    return found


def train(box: Sandbox, *arguments: str | Path) -> str:
    ended = box.run("train", "--device", "cpu", *arguments)
    assert ended.status == 0, ended.said
    return ended.said


def made_by(box: Sandbox, case_id: str, part: str = "train") -> Mapping[int, str]:
    record = read_prediction_record(box.study.prediction_record(part, case_id))
    return record.models if record else {}


def test_resuming_a_finished_study_changes_no_result(trained: Sandbox) -> None:
    trained.study.checkpoint(1).unlink()
    results = (*(trained.study.model(fold) for fold in (0, 1)), *sorted(trained.study.cv_predictions.iterdir()))
    before = {path: file_hash(path) for path in (*results, trained.study.results_csv)}
    said = train(trained, "--resume")
    assert {path: file_hash(path) for path in before} == before
    assert "may not belong together" not in said


def test_a_fold_with_only_a_checkpoint_gets_the_same_weights(trained: Sandbox) -> None:
    before = file_hash(trained.study.model(0))
    for path in (trained.study.model(0), trained.study.passport(0)):
        path.unlink()
    train(trained, "--resume", "--folds", "0")
    assert file_hash(trained.study.model(0)) == before


def test_models_with_different_settings_are_reported(trained: Sandbox) -> None:
    before = {path: file_hash(path) for path in (trained.study.model(1), trained.study.checkpoint(1))}
    said = train(trained, "--overwrite", "--folds", "0", "--epochs", "2")
    assert "may not belong together" in said
    assert "Train fold 1: Settings changed: training.epochs was 1 and is now 2" in said
    assert {path: file_hash(path) for path in before} == before
    ended = trained.run("finalize", "--device", "cpu")
    assert ended.status == 1
    assert "[models-stale]" in ended.said


def test_a_changed_mask_is_reported_when_one_fold_is_retrained(trained: Sandbox) -> None:
    mask = trained.mask(1)
    labels = voxels(mask).copy()
    labels[0, 0, 0] = 1
    save(mask, labels)
    said = " ".join(train(trained, "--overwrite", "--folds", "1").split())
    assert "Train fold 0: 1 patient in its training set (phantom_001): its mask changed" in said
    assert "Train fold 1: 1 patient in its validation set (phantom_001): its mask changed" in said


def test_predictions_of_other_weights_are_rebuilt(trained: Sandbox) -> None:
    other = file_hash(trained.study.model(1))
    shutil.copy(trained.study.model(1), trained.study.model(0))
    ended = trained.run("finalize", "--device", "cpu")
    assert ended.status == 1
    assert "fold_0.pt do not match the passport" in ended.said
    assert made_by(trained, "phantom_002") == made_by(trained, "phantom_004") == {0: other}
    assert made_by(trained, "phantom_001", "test") == {0: other, 1: other}


def test_no_patient_is_predicted_by_a_model_trained_with_it(trained: Sandbox) -> None:
    set_folds(trained, phantom_001=0, phantom_002=1)
    ended = trained.run("finalize", "--device", "cpu")
    assert ended.status == 1
    for number in (1, 2):
        assert f"Case 'phantom_00{number}'" in ended.said
    assert "[model-saw-patient]" in ended.said
    assert sorted(path.name for path in trained.study.cv_predictions.iterdir()) == [
        "phantom_003.nii.gz",
        "phantom_004.nii.gz",
    ]


def test_models_are_not_used_with_other_preprocessing(trained: Sandbox) -> None:
    before = trained.files()
    edit_section(trained.study.config, "preprocessing", normalize_with_nonzero_mask=True)
    ended = trained.run("finalize", "--device", "cpu")
    assert ended.status == 1
    assert "[training-mismatch]" in ended.said
    changed = {path.name for path, content in trained.files().items() if before.get(path) != content}
    assert changed == {"config.json"}


def test_the_test_set_is_not_predicted_while_a_fold_has_no_model(trained: Sandbox) -> None:
    for path in (trained.study.model(1), trained.study.checkpoint(1)):
        path.unlink()
    said = " ".join(train(trained, "--resume", "--folds", "0").split())
    assert "Test set not predicted: fold 1 not trained" in said
    assert "Predict 1 test patient (phantom_001): fold 1 needs training" in said


def test_arrays_and_predictions_of_removed_patients_are_reported_and_not_used(trained: Sandbox) -> None:
    remove(trained.patient(1))
    analyzed = trained.run("analyze", "--data", trained.study.data, "--nfolds", "2", "--overwrite")
    assert analyzed.status == 0
    assert "Not used: 2 arrays and predictions of patients who are not in this study" in analyzed.said
    config = trained.study.config
    write_config(config, override(read_config(config), {"training.epochs": 1, "spatial_config.patch_size": [32] * 3}))
    status = " ".join(trained.run("status").said.split())
    assert "Not used: 2 arrays and predictions of patients who are not in this study" in status
    assert "removed: phantom_001" in status
    refused = trained.run("train", "--resume", "--device", "cpu")
    assert refused.status == 1
    assert "[resume-mismatch]" in refused.said
