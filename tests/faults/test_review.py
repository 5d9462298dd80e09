"""``mist_review`` on finished studies with one fault each."""

from __future__ import annotations

from functools import partial

import pytest

from mist_ops.review.queue import read_queue

from .harness import Arguments, Fault, Sandbox, cut_short, edit_text, fill, meets, move_grid, remove, save, voxels

EVERYONE = {f"phantom_{number:03}" for number in (1, 2, 3, 4)}


def ranked(box: Sandbox) -> set[str]:
    return {entry.id for entry in read_queue(box.study.review_queue)}


def others_ranked(box: Sandbox) -> bool:
    """Whether only the first patient is not in the queue."""
    return ranked(box) == EVERYONE - {"phantom_001"}


def with_invalid_verdict(box: Sandbox) -> None:
    fill(box.study.reviews, "id,verdict,note,mask\nphantom_001,splendid,,\n")


def with_edited_queue(box: Sandbox) -> None:
    """Edit the queue so that a cell is not a number."""
    assert box.run("review", *reviewed(box)).status == 0
    edit_text(box.study.review_queue, lambda text: text.replace("phantom_001,", "phantom_001,x", 1))


def without_test_patients(box: Sandbox) -> Arguments:
    remove(box.study.test_paths)
    return ["--tests"]


def without_test_prediction(box: Sandbox) -> Arguments:
    remove(box.study.test_prediction("phantom_001"))
    return ["--tests"]


def reviewed(box: Sandbox) -> Arguments:
    return ["--results", box.study.results, "--numpy", box.study.numpy]


refused = partial(Fault, touches=False, again=False)
# The status of the study takes note of the times of its files, which are copies.
inspected = partial(Fault, again=False)

FAULTS = [
    Fault(
        "review/mask-truncated",
        "a truncated mask of a patient",
        lambda box: cut_short(box.mask()),
        ("1 of 4 patients", "phantom_001"),
        others_done=others_ranked,
    ),
    Fault(
        "review/prediction-truncated",
        "a truncated cross-validation prediction",
        lambda box: cut_short(box.study.cv_prediction("phantom_001")),
        ("1 of 4 patients", "phantom_001"),
        others_done=others_ranked,
        again=False,
    ),
    Fault(
        "review/prediction-of-another-size",
        "a cross-validation prediction of another size",
        lambda box: move_grid(box.study.cv_prediction("phantom_001"), "size"),
        ("1 of 4 patients", "phantom_001"),
        others_done=others_ranked,
        again=False,
    ),
    Fault(
        "review/prediction-missing",
        "a missing cross-validation prediction",
        lambda box: remove(box.study.cv_prediction("phantom_001")),
        "3 to review",
        status=0,
        others_done=others_ranked,
        again=False,
    ),
    Fault(
        "review/prediction-empty",
        "a cross-validation prediction without any label",
        lambda box: save(box.study.cv_prediction("phantom_001"), 0 * voxels(box.study.cv_prediction("phantom_001"))),
        "4 to review",
        status=0,
        others_done=lambda box: ranked(box) == EVERYONE,
        again=False,
    ),
    inspected(
        "review/no-predictions",
        "a study without cross-validation predictions",
        lambda box: remove(box.study.cv_predictions),
        "[predictions-missing]",
    ),
    inspected(
        "review/no-test-patients",
        "--tests in a study without test patients",
        without_test_patients,
        ("[predictions-missing]", "there are none"),
    ),
    inspected(
        "review/test-prediction-missing",
        "--tests without the prediction of a test patient",
        without_test_prediction,
        ("[predictions-missing]", "phantom_001", "mist_finalize"),
    ),
    inspected(
        "review/verdict-unknown",
        "a table of comments with an unknown verdict",
        with_invalid_verdict,
        ("[review-invalid]", "splendid", "fix mask"),
    ),
    refused(
        "review/queue-edited",
        "a cell of the queue that is not a number",
        with_edited_queue,
        ("[queue-invalid]", "review_queue.csv"),
    ),
    refused(
        "review/no-study",
        "a folder of results without a study",
        lambda box: remove(box.study.config),
        "[config-missing]",
    ),
    refused(
        "review/config-broken",
        "a truncated config.json",
        lambda box: cut_short(box.study.config),
        ("[json-invalid]", "config.json"),
    ),
    refused(
        "review/paths-missing",
        "a study without its table of patients",
        lambda box: remove(box.study.train_paths),
        "[table-missing]",
    ),
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.key)
def test_review(trained: Sandbox, fault: Fault) -> None:
    meets(trained, "review", reviewed(trained), fault)
