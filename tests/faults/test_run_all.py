"""``mist_run_all`` on existing results, and resumed after an interruption."""

from __future__ import annotations

from pathlib import Path

import pytest

from mist_ops.files import file_hash

from .harness import Arguments, Fault, Sandbox, cut_short, edit_json, meets, remove

FAULTS = [
    Fault(
        "run_all/results-exist",
        "existing results",
        lambda box: [],
        ("[output-exists]", "config.json", "--resume", "--overwrite"),
        touches=False,
    ),
    Fault(
        "run_all/resume-and-overwrite",
        "--resume with --overwrite",
        lambda box: ["--resume", "--overwrite"],
        ("[flags-contradict]", "--resume", "--overwrite"),
        touches=False,
    ),
    Fault(
        "run_all/config-newer-version",
        "config.json of a later version",
        lambda box: edit_json(box.study.config, mist_version="9.9", future=1) or ["--resume"],
        ("[unknown-key]", "9.9"),
        touches=False,
    ),
    Fault(
        "run_all/config-broken",
        "a truncated config.json",
        lambda box: cut_short(box.study.config) or ["--resume"],
        ("[json-invalid]", "config.json"),
        touches=False,
    ),
    Fault(
        "run_all/unknown-loss",
        "an unknown loss",
        lambda box: ["--overwrite", "--loss", "dicee"],
        "Unknown loss 'dicee'. Did you mean 'dice'?",  # pinned
        touches=False,
    ),
    Fault(
        "run_all/unknown-model",
        "an unknown model",
        lambda box: ["--overwrite", "--model", "nnunett"],
        ("[unknown-model]", "'nnunett'", "'nnunet'"),
        touches=False,
    ),
    Fault(
        "run_all/device-wrong",
        "a GPU that does not exist",
        lambda box: ["--overwrite", "--device", "99"],
        "99",
        touches=False,
    ),
    Fault(
        "run_all/fold-out-of-range",
        "a fold that does not exist",
        lambda box: ["--resume", "--folds", "5"],
        ("[unknown-fold]", "Fold 5", "0–1"),
        touches=False,
    ),
    Fault(
        "run_all/dataset-missing",
        "a missing dataset.json",
        lambda box: ["--overwrite", "--data", box.folder / "none.json"],
        "none.json",
        touches=False,
    ),
]


def command(box: Sandbox) -> Arguments:
    return ["--data", box.study.data or Path(), "--device", "cpu"]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.key)
def test_run_all(trained: Sandbox, fault: Fault) -> None:
    meets(trained, "run_all", command(trained), fault)


def resumes(box: Sandbox, sound: Path) -> None:
    """Finish one fold; the arrays equal those of an uninterrupted run."""
    ended = box.run("run_all", *command(box), "--resume", "--folds", "0")
    assert ended.status == 0, ended.said
    assert box.study.results_csv.exists()
    for path in box.study.arrays.iterdir():
        assert file_hash(path) == file_hash(sound / path.relative_to(box.folder))


def test_resumes_after_the_analysis(analyzed: Sandbox, sound: Path) -> None:
    resumes(analyzed, sound)


def test_resumes_with_missing_and_truncated_arrays(preprocessed: Sandbox, sound: Path) -> None:
    for locate in (preprocessed.study.geometry, preprocessed.study.image, preprocessed.study.label):
        remove(locate("phantom_003"))
    cut_short(preprocessed.study.image("phantom_004"))
    resumes(preprocessed, sound)


def test_resumes_without_predictions_and_scores(trained: Sandbox, sound: Path) -> None:
    before = file_hash(trained.study.model(0))
    for path in (trained.study.results / "predictions", trained.study.results_csv):
        remove(path)
    resumes(trained, sound)
    assert file_hash(trained.study.model(0)) == before
