"""Every state of a study with two folds, with every combination of flags of mist_train.

What the command decides for each fold is read from the stages that it runs; the tests below run them for real, once for
each outcome.
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
from mist_dagster.runtime.progress import LogProgress
from mist_ops.config import override, read_config, write_config
from mist_ops.dataset import read_train_paths
from mist_ops.errors import ConfigError
from mist_ops.files import file_hash
from mist_ops.records.prediction import read_prediction_record
from mist_ops.study import Study

from .harness import Sandbox, edit_section, remove, save, set_folds, voxels

UNTRAINED, PARTIAL, TRAINED, WITHOUT_CHECKPOINT = "untrained", "partial", "trained", "trained, no checkpoint"
RETRAINING = "trained, unfinished retraining"
TRAINS, RESUMES, KEEPS, REFUSES = "trains from the start", "resumes", "keeps", "refuses"

STATES = {
    "none trained": (UNTRAINED, UNTRAINED),
    "one trained": (TRAINED, UNTRAINED),
    "one partial": (PARTIAL, UNTRAINED),
    "one trained, one partial": (TRAINED, PARTIAL),
    "one in retraining": (RETRAINING, TRAINED),
    "all trained": (TRAINED, TRAINED),
    "all trained, one without a checkpoint": (WITHOUT_CHECKPOINT, TRAINED),
}
FOLDS: Sequence[list[int] | None] = (None, [0], [1], [1, 0], [0, 0])
FLAGS = {"no flag": {}, "--resume": {"resume": True}, "--overwrite": {"overwrite": True}}


def expected(states: Sequence[str], flag: str, folds: Sequence[int]) -> Mapping[int, str]:
    """What the manual says that the command does with each chosen fold."""
    if flag == "no flag" and any(states[fold] != UNTRAINED for fold in folds):
        return dict.fromkeys(folds, REFUSES)
    if flag != "--resume":
        return dict.fromkeys(folds, TRAINS)
    resumed = {UNTRAINED: TRAINS, PARTIAL: RESUMES, TRAINED: KEEPS, WITHOUT_CHECKPOINT: KEEPS, RETRAINING: RESUMES}
    return {fold: resumed[states[fold]] for fold in folds}


@dataclass(frozen=True)
class Recorder(Launcher):
    """Records the stages instead of running them; an evaluation copies a table of scores."""

    scores: Path = Path()
    stages: list[tuple[str, Mapping[str, Any], Sequence[str]]] = field(default_factory=list)

    def run_stage(
        self, study: Study, stage: str, config: Mapping[str, Any] | None = None, partitions: Sequence[str] | None = None
    ) -> None:
        self.stages.append((stage, config or {}, partitions or ()))
        if stage == "evaluate":
            shutil.copy(self.scores, study.results_csv)


def bring(study: Study, fold: int, state: str) -> None:
    """Return a fold of a finished study to a state."""
    study.attempt(fold).unlink(missing_ok=True)
    if state in (PARTIAL, RETRAINING):
        shutil.copy(study.checkpoint(fold), study.attempt(fold))
    removed = {
        UNTRAINED: (study.model(fold), study.passport(fold), study.checkpoint(fold)),
        PARTIAL: (study.model(fold), study.passport(fold), study.checkpoint(fold)),
        RETRAINING: (),
        TRAINED: (),
        WITHOUT_CHECKPOINT: (study.checkpoint(fold),),
    }
    for path in removed[state]:
        path.unlink()


@pytest.fixture
def recorder(trained: Sandbox, sound: Path) -> Iterator[Recorder]:
    with instance() as opened:
        yield Recorder(opened, LogProgress(), build_definitions, scores=sound / "results" / "results.csv")


def test_every_state_of_two_folds_with_every_combination_of_flags(recorder: Recorder, trained: Sandbox) -> None:
    files = {path: path.read_bytes() for path in trained.files() if {"models", "checkpoints"} & set(path.parts)}
    for name, states in STATES.items():
        for flag, chosen in FLAGS.items():
            for listed in FOLDS:
                for path, content in files.items():
                    path.write_bytes(content)
                for fold, state in enumerate(states):
                    bring(trained.study, fold, state)
                folds = sorted(set([0, 1] if listed is None else listed))
                found = decided(recorder, trained.study, TrainOptions(folds=listed, **chosen), folds)
                assert found == expected(states, flag, folds), (name, flag, listed)


def decided(recorder: Recorder, study: Study, options: TrainOptions, folds: Sequence[int]) -> Mapping[int, str]:
    """What the command does with each chosen fold."""
    recorder.stages.clear()
    files = [path for fold in (0, 1) for path in (study.model(fold), study.checkpoint(fold)) if path.exists()]
    refusal = None
    try:
        studies.train(recorder, options, {})
    except ConfigError as error:
        refusal = error.code
    if refusal:
        assert (refusal, recorder.stages) == ("output-exists", [])
        return dict.fromkeys(folds, REFUSES)
    assert all(path.exists() for path in files), "only a training may remove a model"
    resumed = {key: how["resume"] for stage, how, [*keys] in recorder.stages if stage == "train" for key in keys}
    assert resumed.keys() <= {f"fold_{fold}" for fold in folds}
    predicted = {case for stage, _, cases in recorder.stages if stage == "predict" for case in cases}
    assignment = read_train_paths(study.train_paths)
    assert predicted == {case for key in resumed for case in assignment.held_out(int(key[-1]))}
    found = {}
    for fold in folds:
        resumes = resumed.get(f"fold_{fold}")
        found[fold] = KEEPS if resumes is None else RESUMES if resumes and study.attempt(fold).exists() else TRAINS
    return found


def train(box: Sandbox, *arguments: str | Path) -> str:
    ended = box.run("train", "--device", "cpu", *arguments)
    assert ended.status == 0, ended.said
    return ended.said


def models_of(box: Sandbox, case_id: str, part: str = "train") -> Mapping[int, str]:
    """The hash of each fold's weights that predicted a patient."""
    record = read_prediction_record(box.study.prediction_record(part, case_id))
    return record.models if record else {}


def line_of(shown: str, *parts: str) -> bool:
    """Whether one line of the output names all parts."""
    return any(all(part in line for part in parts) for line in shown.splitlines())


def test_resuming_a_finished_study_changes_no_result(trained: Sandbox) -> None:
    trained.study.checkpoint(1).unlink()
    results = (*(trained.study.model(fold) for fold in (0, 1)), *sorted(trained.study.cv_predictions.iterdir()))
    before = {path: file_hash(path) for path in (*results, trained.study.results_csv)}
    shown = train(trained, "--resume")
    assert {path: file_hash(path) for path in before} == before
    assert "mist_plan --apply" not in shown


def test_a_fold_with_only_a_checkpoint_gets_the_same_weights(trained: Sandbox) -> None:
    before = file_hash(trained.study.model(0))
    for path in (trained.study.model(0), trained.study.passport(0)):
        path.unlink()
    train(trained, "--resume", "--folds", "0")
    assert file_hash(trained.study.model(0)) == before


def test_models_with_different_settings_are_reported_and_finalize_refuses_them(trained: Sandbox) -> None:
    before = {path: file_hash(path) for path in (trained.study.model(1), trained.study.checkpoint(1))}
    shown = train(trained, "--overwrite", "--folds", "0", "--epochs", "2")
    assert "mist_plan --apply" in shown
    assert line_of(shown, "fold 1:", "epochs was 1 and is 2")
    assert {path: file_hash(path) for path in before} == before
    ended = trained.run("finalize", "--device", "cpu")
    assert ended.status == 1
    assert line_of(ended.said, "fold 1", "[models-stale]")


def test_retraining_one_fold_reports_a_changed_mask_that_the_other_was_trained_with(trained: Sandbox) -> None:
    mask = trained.mask(1)
    labels = voxels(mask).copy()
    labels[0, 0, 0] = 1
    save(mask, labels)
    shown = train(trained, "--overwrite", "--folds", "1")
    assert line_of(shown, "fold 0:", "training", "phantom_001", "mask changed")
    assert line_of(shown, "fold 1:", "validation", "phantom_001", "mask changed")


def test_predictions_of_other_weights_are_redone(trained: Sandbox) -> None:
    other = file_hash(trained.study.model(1))
    shutil.copy(trained.study.model(1), trained.study.model(0))
    ended = trained.run("finalize", "--device", "cpu")
    assert ended.status == 1
    assert "fold_0.pt do not match the passport" in ended.said
    assert models_of(trained, "phantom_002") == models_of(trained, "phantom_004") == {0: other}
    assert models_of(trained, "phantom_001", "test") == {0: other, 1: other}


def test_a_model_predicts_no_patients_that_it_was_trained_with(trained: Sandbox) -> None:
    set_folds(trained, phantom_001=0, phantom_002=1)
    before = {path: file_hash(path) for path in trained.study.cv_predictions.iterdir()}
    ended = trained.run("finalize", "--device", "cpu")
    assert ended.status == 1
    for number in (1, 2):
        assert line_of(ended.said, f"Case 'phantom_00{number}'", "[model-saw-patient]")
    assert {path: file_hash(path) for path in trained.study.cv_predictions.iterdir()} == before


def test_models_are_not_used_on_arrays_of_other_settings(trained: Sandbox) -> None:
    before = trained.files()
    edit_section(trained.study.config, "preprocessing", normalize_with_nonzero_mask=True)
    ended = trained.run("finalize", "--device", "cpu")
    assert ended.status == 1
    assert line_of(ended.said, "preprocessing.normalize_with_nonzero_mask", "[training-mismatch]")
    # Held-out patients have current predictions by the models and arrays as they are, which may be scored again.
    changed = {path for path, content in trained.files().items() if before.get(path) != content}
    assert {path.name for path in changed if path.suffix in (".gz", ".npy", ".pt")} == set()
    assert trained.study.results_csv not in changed


def test_a_test_set_that_needs_an_untrained_fold_is_reported(trained: Sandbox) -> None:
    for path in (trained.study.model(1), trained.study.checkpoint(1)):
        path.unlink()
    shown = train(trained, "--resume", "--folds", "0")
    assert line_of(shown, "Test set", "fold 1")
    assert line_of(shown, "1 test patient (phantom_001)", "fold 1")


def test_files_of_removed_patients_are_reported_and_not_used(trained: Sandbox) -> None:
    remove(trained.patient(1))
    analyzed = trained.run("analyze", "--data", trained.study.data, "--nfolds", "2", "--overwrite")
    assert analyzed.status == 0
    assert line_of(analyzed.said, "Not used: 2 arrays and predictions", "phantom_001.npy")
    config = trained.study.config
    write_config(config, override(read_config(config), {"training.epochs": 1, "spatial_config.patch_size": [32] * 3}))
    shown = trained.run("status").said
    assert line_of(shown, "Not used: 2 arrays and predictions", "phantom_001.npy")
    assert line_of(shown, "fold", "phantom_001")
    refused = trained.run("train", "--resume", "--device", "cpu")
    assert refused.status == 1
    assert "[resume-mismatch]" in refused.said
