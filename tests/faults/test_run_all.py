"""``mist_run_all`` begun anew, gone on with after an interruption, and on results that it should not touch."""

from __future__ import annotations

from pathlib import Path

import pytest

from mist_ops.files import file_hash

from .harness import Arguments, Fault, Sandbox, cut_short, edit_json, meets, remove

FAULTS = [
    Fault(
        "run_all/results-exist",
        "results that are there already",
        lambda box: [],
        "exists already. Give --resume to go on with it, --overwrite to begin anew",
        touches=False,
    ),
    Fault(
        "run_all/resume-and-overwrite",
        "--resume with --overwrite",
        lambda box: ["--resume", "--overwrite"],
        "Give one of them",
        touches=False,
    ),
    Fault(
        "run_all/config-newer-version",
        "results of a later version",
        lambda box: edit_json(box.study.config, mist_version="9.9", future=1) or ["--resume"],
        ("[unknown-key]", "9.9"),
        touches=False,
    ),
    Fault(
        "run_all/config-broken",
        "a config.json that is cut short",
        lambda box: cut_short(box.study.config) or ["--resume"],
        ("[json-invalid]", "config.json"),
        touches=False,
    ),
    Fault(
        "run_all/unknown-loss",
        "a loss that there is not, before anything is analyzed",
        lambda box: ["--overwrite", "--loss", "dicee"],
        "Unknown loss 'dicee'. Did you mean 'dice'?",
        touches=False,
    ),
    Fault(
        "run_all/unknown-model",
        "a model that there is not, before anything is analyzed",
        lambda box: ["--overwrite", "--model", "nnunett"],
        "Unknown model 'nnunett'. Did you mean 'nnunet'?",
        touches=False,
    ),
    Fault(
        "run_all/device-wrong",
        "a GPU that is not there, before anything is analyzed",
        lambda box: ["--overwrite", "--device", "99"],
        "Device '99' was asked for, but this machine has",
        touches=False,
    ),
    Fault(
        "run_all/fold-out-of-range",
        "a fold that there is not",
        lambda box: ["--resume", "--folds", "5"],
        "There are no folds 5. This study has folds 0 to 1",
        touches=False,
    ),
    Fault(
        "run_all/dataset-missing",
        "a dataset.json that is missing",
        lambda box: ["--overwrite", "--data", box.folder / "none.json"],
        "There is no",
        touches=False,
    ),
]


def command(box: Sandbox) -> Arguments:
    return ["--data", box.study.data or Path(), "--device", "cpu"]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.key)
def test_run_all(trained: Sandbox, fault: Fault) -> None:
    meets(trained, "run_all", command(trained), fault)


def goes_on(box: Sandbox, sound: Path) -> None:
    """One fold is done from where the study is, with the arrays of one that was never interrupted."""
    ended = box.run("run_all", *command(box), "--resume", "--folds", "0")
    assert ended.status == 0, ended.said
    assert box.study.results_csv.exists()
    for path in box.study.arrays.iterdir():
        assert file_hash(path) == file_hash(sound / path.relative_to(box.folder))


def test_a_run_that_ended_after_the_analysis_goes_on(analyzed: Sandbox, sound: Path) -> None:
    goes_on(analyzed, sound)


def test_a_run_that_ended_half_way_through_preprocessing_goes_on(preprocessed: Sandbox, sound: Path) -> None:
    for locate in (preprocessed.study.geometry, preprocessed.study.image, preprocessed.study.label):
        remove(locate("phantom_003"))
    cut_short(preprocessed.study.image("phantom_004"))
    goes_on(preprocessed, sound)


def test_a_run_that_ended_before_the_predictions_goes_on(trained: Sandbox, sound: Path) -> None:
    before = file_hash(trained.study.model(0))
    for path in (trained.study.results / "predictions", trained.study.results_csv):
        remove(path)
    goes_on(trained, sound)
    assert file_hash(trained.study.model(0)) == before
