"""The table of the queue, and the queue beside the verdicts of people."""

from __future__ import annotations

from pathlib import Path

import pytest
from expect import refuses

from mist_ops.errors import DatasetError
from mist_ops.evaluation.disagreement import Disagreement
from mist_ops.records.reviews import Review, read_reviews, write_review
from mist_ops.review.queue import Entry, read_queue, sort_queue, write_queue
from mist_ops.review.unlabeled import ranked

FIRST = Entry("007", 2, 12.5, (1.0, -2.5, 30.0), "abc", ('Dice 0.1, usually 0.9; "so"', "Missing."))
SECOND = Entry("b", 0, 0.0, None, "def", ())


def test_a_queue_is_read_as_it_was_written(tmp_path: Path) -> None:
    write_queue(tmp_path / "queue.csv", [FIRST, SECOND])
    assert read_queue(tmp_path / "queue.csv") == [FIRST, SECOND]


def test_a_queue_of_test_patients_has_no_folds(tmp_path: Path) -> None:
    found = {
        "calm": Disagreement({"organ": 0.95}, {"organ": (1.0, 1.1)}, (0.0, 0.0, 0.0)),
        "hard": Disagreement({"organ": 0.6, "part": 0.5}, {"organ": (1.0, 2.0), "part": (0.0, 0.3)}, (1.0, 2.0, 3.0)),
        "none": Disagreement({}, {}, None),
    }
    write_queue(tmp_path / "queue.csv", ranked(found))
    hard, calm, none = read_queue(tmp_path / "queue.csv")
    assert (hard.id, hard.fold, hard.score, hard.place) == ("hard", None, 45.0, (1.0, 2.0, 3.0))
    assert hard.reasons[0] == "part: Dice between the models 0.50, usually 0.50; volumes 0 to 0.3 ml."
    assert (calm.id, none.id, none.reasons) == ("calm", "none", ())


def test_a_queue_with_a_cell_that_is_no_number_is_refused(tmp_path: Path) -> None:
    (tmp_path / "queue.csv").write_text("id,fold,score\na,0,high\n")
    with refuses("queue-invalid", DatasetError, file=tmp_path / "queue.csv"):
        read_queue(tmp_path / "queue.csv")


@pytest.mark.parametrize(
    "review, where",
    [
        (None, {"open"}),
        (Review("007", "", "a note"), {"open"}),
        (Review("007", "good", "", "abc"), {"settled"}),
        (Review("007", "poor"), {"settled"}),  # of an earlier version, or written by hand
        (Review("007", "fix mask", "", "abc"), {"to_fix"}),
        (Review("007", "good", "", "old"), {"open"}),
        (Review("007", "fix mask", "", "old"), {"open", "corrected"}),
    ],
)
def test_a_verdict_holds_for_the_mask_that_it_was_given_on(review: Review | None, where: set[str]) -> None:
    found = sort_queue([FIRST], {"007": review} if review else {}, {"007": "abc"})
    assert {name for name in ("open", "settled", "to_fix", "corrected") if getattr(found, name)} == where


def test_comments_of_earlier_versions_are_kept_without_a_mask(tmp_path: Path) -> None:
    path = tmp_path / "reviews.csv"
    path.write_text("id,verdict,note\na,good,\n")
    write_review(path, Review("b", "fix mask", "", "abc"))
    assert read_reviews(path) == {"a": Review("a", "good"), "b": Review("b", "fix mask", "", "abc")}
