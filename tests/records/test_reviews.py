"""Comments on patients, which survive every run."""

from __future__ import annotations

from pathlib import Path

import pytest
from expect import refuses

from mist_ops.errors import ConfigError, DatasetError
from mist_ops.records.reviews import MOST_CHARACTERS, Review, read_reviews, write_review


def test_comments_are_read_as_they_were_written(tmp_path: Path) -> None:
    path = tmp_path / "reviews.csv"
    assert read_reviews(path) == {}
    first = Review("007", "poor", 'a "note", with\ntwo lines; =1+1 and é')
    second = Review("b", "", " NA ")
    write_review(path, first)
    write_review(path, second)
    assert read_reviews(path) == {"007": first, "b": Review("b", "", "NA")}
    write_review(path, Review("007", "good"))
    assert read_reviews(path)["007"] == Review("007", "good", "")
    for case_id in ("007", "b"):
        write_review(path, Review(case_id))
    assert not path.exists()


@pytest.mark.parametrize("note", ["a\0b", "a\x1bb", "a\rb", "a\x7fb", "a\u2028b"])
def test_characters_that_break_a_table_are_replaced(tmp_path: Path, note: str) -> None:
    path = tmp_path / "reviews.csv"
    write_review(path, Review("a", "", note))
    assert read_reviews(path)["a"].note.split() == ["a", "b"]


def test_a_comment_that_is_not_valid_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    path = tmp_path / "reviews.csv"
    for review in (Review("a", "perfect"), Review("a", "good", "x" * (MOST_CHARACTERS + 1))):
        with refuses("review-invalid", ConfigError):
            write_review(path, review)
    with refuses("id-unsafe", DatasetError):
        write_review(path, Review("../a", "good"))
    assert not path.exists()


def test_an_edited_table_with_an_unknown_verdict_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "reviews.csv"
    path.write_text("id,verdict,note\na,perfect,\n")
    with refuses("review-invalid", DatasetError, case="a", found="perfect"):
        read_reviews(path)
    with refuses("review-invalid", DatasetError):
        write_review(path, Review("b", "good"))
    assert path.read_text() == "id,verdict,note\na,perfect,\n"
