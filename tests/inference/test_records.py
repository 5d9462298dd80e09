from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from mist_ops.config import STEP_VERSIONS
from mist_ops.inference.records import Origin, read_mask_hash, recording, why_outdated


@pytest.fixture
def made(tmp_path: Path) -> tuple[Path, Path, Origin]:
    """A record, the mask that it is of, and what that was made with: two folds and an image."""
    record, mask, image = tmp_path / "records" / "a.json", tmp_path / "a.nii.gz", tmp_path / "t1.nii.gz"
    image.write_text("voxels")
    origin = Origin({0: "aa", 1: "bb"}, "settings", images={"t1": image})
    with recording(record, mask, origin):
        mask.write_text("labels")
    return record, mask, origin


def test_a_prediction_is_current_while_all_that_it_was_made_with_is_the_same(made: tuple[Path, Path, Origin]) -> None:
    assert why_outdated(*made) is None


def test_each_reason_is_told(made: tuple[Path, Path, Origin], monkeypatch: pytest.MonkeyPatch) -> None:
    record, mask, origin = made
    reasons = {
        "fold 1 was trained since": replace(origin, models={0: "aa", 1: "cc"}),
        "other folds predict it": replace(origin, models={0: "aa"}),
        "the settings of prediction changed": replace(origin, settings="others"),
        "its arrays changed": replace(origin, arrays="dd"),
        "an image changed since": replace(origin, images={}),
    }
    assert {why_outdated(record, mask, now) for now in reasons.values()} == set(reasons)
    monkeypatch.setitem(STEP_VERSIONS, "prediction", 2)
    assert why_outdated(record, mask, origin) == "prediction is of version 2 now, and was of 1"


def test_times_decide_nothing_but_what_is_read(made: tuple[Path, Path, Origin]) -> None:
    record, mask, origin = made
    for path in (mask, origin.images["t1"]):
        os.utime(path, (0, 0))
    assert why_outdated(record, mask, origin) is None
    origin.images["t1"].write_text("other")
    os.utime(origin.images["t1"], (0, 0))  # older than the prediction, as after a clock that was set back
    assert why_outdated(record, mask, origin) == "an image changed since"


def test_an_altered_mask_is_told_from_one_that_is_not_there(made: tuple[Path, Path, Origin]) -> None:
    record, mask, origin = made
    mask.write_text("half")
    assert why_outdated(record, mask, origin) == "its mask was altered"
    mask.unlink()
    assert why_outdated(record, mask, origin) == "it is not predicted"


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"models": 3}'])
def test_a_prediction_without_a_usable_record_is_made_again(made: tuple[Path, Path, Origin], content: str) -> None:
    record, mask, origin = made
    record.write_text(content)
    assert why_outdated(record, mask, origin) == "what it was made with is not on record"
    assert read_mask_hash(record) is None


def test_a_prediction_that_fails_leaves_no_record(made: tuple[Path, Path, Origin]) -> None:
    record, mask, origin = made
    with pytest.raises(OSError, match="full"), recording(record, mask, origin):
        raise OSError("the disk is full")
    assert not record.exists()
