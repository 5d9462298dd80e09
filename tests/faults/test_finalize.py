"""``mist_finalize`` and ``mist_accept`` on finished studies with one fault each."""

from __future__ import annotations

import csv
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from .harness import Fault, Sandbox, cut_short, edit_text, fill, meets, remove


def rows(box: Sandbox) -> dict[str, list[str]]:
    with box.study.results_csv.open(encoding="utf-8", newline="") as stream:
        return {row[0]: row[1:] for row in csv.reader(stream)}


def scored(box: Sandbox) -> set[str]:
    return {case_id for case_id, cells in rows(box).items() if case_id.startswith("phantom") and all(cells)}


def is_tested(box: Sandbox) -> bool:
    return box.study.test_prediction("phantom_001").is_file()


def all_is_done(box: Sandbox) -> bool:
    return len(scored(box)) == 4 and is_tested(box)


def others_are_scored(box: Sandbox) -> bool:
    """Whether only the first patient has no scores."""
    others = {"phantom_002", "phantom_003", "phantom_004"}
    return scored(box) == others and not any(rows(box)["phantom_001"]) and is_tested(box)


def prediction(box: Sandbox) -> Path:
    return box.study.cv_prediction("phantom_001")


def unmade(breaks: Callable[[Sandbox], None]) -> Callable[[Sandbox], None]:
    """Break a study without scores and test predictions."""

    def change(box: Sandbox) -> None:
        box.study.results_csv.unlink()
        box.study.test_prediction("phantom_001").unlink()
        breaks(box)

    return change


def unpredictable(box: Sandbox) -> None:
    prediction(box).unlink()
    cut_short(box.study.image("phantom_001"))


def without_fold_1(box: Sandbox) -> None:
    remove(box.study.model(1))
    for case_id in ("phantom_001", "phantom_003"):
        remove(box.study.cv_prediction(case_id))


refused = partial(Fault, touches=False)

OF_FINALIZE = [
    Fault(
        "finalize/prediction-missing",
        "a missing cross-validation prediction",
        unmade(lambda box: remove(prediction(box))),
        "Scores:",
        status=0,
        others_done=all_is_done,
    ),
    Fault(
        "finalize/prediction-truncated",
        "a truncated cross-validation prediction",
        unmade(lambda box: cut_short(prediction(box))),
        "Scores:",
        status=0,
        others_done=all_is_done,
    ),
    Fault(
        "finalize/array-truncated",
        "truncated arrays of a patient that needs prediction",
        unmade(unpredictable),
        ("1 of ", "phantom_001"),
        others_done=others_are_scored,
    ),
    Fault(
        "finalize/mask-truncated",
        "a truncated mask of a patient",
        unmade(lambda box: cut_short(box.mask())),
        ("1 of 4 patients", "phantom_001"),
        others_done=others_are_scored,
    ),
    Fault(
        "finalize/test-image-truncated",
        "a truncated image of a test patient",
        unmade(lambda box: cut_short(box.folder / "data" / "test" / "phantom_001" / "t1.nii.gz")),
        "phantom_001",
        others_done=lambda box: len(scored(box)) == 4,
    ),
    Fault(
        "finalize/fold-missing",
        "a fold without a model",
        without_fold_1,
        "[folds-untrained]",
        others_done=lambda box: scored(box) == {"phantom_002", "phantom_004"},
    ),
    refused("finalize/no-model", "a study without models", lambda box: remove(box.study.models), "[model-missing]"),
    Fault(
        "finalize/weights-truncated",
        "truncated weights of a fold",
        unmade(lambda box: cut_short(box.study.model(0))),
        ("[weights-unreadable]", "fold_0.pt"),
    ),
    refused(
        "finalize/no-study",
        "a folder of results without a study",
        lambda box: remove(box.study.config),
        "[config-missing]",
    ),
    refused(
        "finalize/config-broken",
        "a truncated config.json",
        lambda box: cut_short(box.study.config),
        ("[json-invalid]", "config.json"),
    ),
    refused(
        "finalize/metric-unknown",
        "an unknown metric",
        lambda box: edit_text(box.study.config, lambda text: text.replace('"haus95"', '"haus59"')),
        ("[unknown-metric]", "'core'", "Did you mean 'haus95'?"),
    ),
    refused(
        "finalize/paths-missing",
        "a study without its table of patients",
        lambda box: remove(box.study.train_paths),
        "[table-missing]",
    ),
]


@pytest.mark.parametrize("fault", OF_FINALIZE, ids=lambda fault: fault.key)
def test_finalize(trained: Sandbox, fault: Fault) -> None:
    meets(trained, "finalize", ["--results", trained.study.results, "--device", "cpu"], fault)


@pytest.fixture
def measured(analyzed: Sandbox, sound: Path) -> Sandbox:
    """A sandbox with an analyzed study and its scores."""
    analyzed.study.results_csv.write_bytes((sound / "results" / "results.csv").read_bytes())
    return analyzed


def without_scores_of_one(box: Sandbox) -> None:
    empty = ",".join(["phantom_001", *[""] * len(rows(box)["phantom_001"])])
    text = box.study.results_csv.read_text().splitlines()
    fill(box.study.results_csv, "\n".join(empty if row.startswith("phantom_001,") else row for row in text) + "\n")


OF_ACCEPTANCE = [
    refused(
        "accept/no-results", "a study without scores", lambda box: remove(box.study.results_csv), "[scores-missing]"
    ),
    refused(
        "accept/results-empty",
        "an empty file in place of the scores",
        lambda box: fill(box.study.results_csv),
        "results.csv",
    ),
    refused(
        "accept/results-without-patients",
        "a table of scores without patients",
        lambda box: edit_text(box.study.results_csv, lambda text: text.splitlines()[0]),
        ("[scores-missing]", "results.csv"),
    ),
    refused(
        "accept/results-cut-short",
        "a truncated table of scores",
        lambda box: edit_text(box.study.results_csv, lambda text: text[:20]),
        ("[table-column-missing]", "results.csv"),
    ),
    refused(
        "accept/patient-failed",
        "a table of scores with a patient that failed",
        without_scores_of_one,
        ("[scores-missing]", "phantom_001"),
    ),
    refused(
        "accept/no-study",
        "a folder of results without a study",
        lambda box: remove(box.study.config),
        "[config-missing]",
    ),
]


FAULTS = [*OF_FINALIZE, *OF_ACCEPTANCE]


@pytest.mark.parametrize("fault", OF_ACCEPTANCE, ids=lambda fault: fault.key)
def test_accept(measured: Sandbox, fault: Fault) -> None:
    meets(measured, "accept", ["--results", measured.study.results], fault)
