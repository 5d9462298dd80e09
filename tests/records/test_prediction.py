from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from training.small_study import small_config

from mist_ops.config import STEP_VERSIONS, override
from mist_ops.records.prediction import NOT_RECORDED, Origin, read_prediction_record, recording, why_stale
from mist_ops.steps import old_digest

CONFIG = small_config()
OTHER = override(CONFIG, {"inference.inferer.params.patch_overlap": 0.25})


@pytest.fixture
def made(tmp_path: Path) -> tuple[Path, Path, Origin]:
    """A record, its mask, and what that was predicted from: two folds and an image."""
    record, mask, image = tmp_path / "records" / "a.json", tmp_path / "a.nii.gz", tmp_path / "t1.nii.gz"
    image.write_text("voxels")
    origin = Origin({0: "aa", 1: "bb"}, CONFIG, images={"t1": image})
    with recording(record, mask, origin):
        mask.write_text("labels")
    return record, mask, origin


def test_a_prediction_is_current_while_its_inputs_are_the_same(made: tuple[Path, Path, Origin]) -> None:
    assert why_stale(*made) == []


def test_the_keys_on_disk_are_stable(made: tuple[Path, Path, Origin]) -> None:
    content = json.loads(made[0].read_text())
    assert list(content) == ["models", "settings", "version", "arrays", "images", "mask", "stamps", "guard"]
    assert content["models"] == {"0": "aa", "1": "bb"}


def test_every_change_has_a_reason(made: tuple[Path, Path, Origin], monkeypatch: pytest.MonkeyPatch) -> None:
    record, mask, origin = made
    reasons = {
        "fold 1 was retrained": replace(origin, models={0: "aa", 1: "cc"}),
        "other folds predict it now (0)": replace(origin, models={0: "aa"}),
        "patch_overlap was 0.5 and is 0.25": replace(origin, config=OTHER),
        "its arrays changed": replace(origin, arrays="dd"),
        "an image changed": replace(origin, images={"t2": origin.images["t1"]}),
    }
    assert [why_stale(record, mask, now) for now in reasons.values()] == [[reason] for reason in reasons]
    monkeypatch.setitem(STEP_VERSIONS, "test_prediction", 2)
    assert why_stale(record, mask, origin) == ["the prediction code changed from version 1 to 2"]


def test_a_new_time_alone_does_not_make_a_prediction_stale(made: tuple[Path, Path, Origin]) -> None:
    record, mask, origin = made
    for path in (mask, origin.images["t1"]):
        os.utime(path, (0, 0))
    assert why_stale(record, mask, origin) == []
    origin.images["t1"].write_text("other")
    os.utime(origin.images["t1"], (0, 0))  # older than the prediction, as after a clock that was set back
    assert why_stale(record, mask, origin) == ["an image changed"]


def test_a_changed_mask_and_a_missing_one_have_different_reasons(made: tuple[Path, Path, Origin]) -> None:
    record, mask, origin = made
    mask.write_text("half")
    assert why_stale(record, mask, origin) == ["its mask changed"]
    mask.unlink()
    assert why_stale(record, mask, origin) == ["it is not predicted"]


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"models": 3}'])
def test_a_prediction_without_a_usable_record_is_stale(made: tuple[Path, Path, Origin], content: str) -> None:
    record, mask, origin = made
    record.write_text(content)
    assert why_stale(record, mask, origin) == [NOT_RECORDED]
    assert read_prediction_record(record) is None


def test_a_prediction_that_fails_keeps_the_earlier_one(made: tuple[Path, Path, Origin]) -> None:
    record, mask, origin = made
    before = record.read_bytes(), mask.read_bytes()
    with pytest.raises(OSError, match="full"), recording(record, mask, origin):
        raise OSError("the disk is full")
    assert (record.read_bytes(), mask.read_bytes()) == before


def test_a_digest_of_an_earlier_version_is_replaced_by_the_settings(made: tuple[Path, Path, Origin]) -> None:
    record, mask, origin = made
    whole = json.loads(record.read_text())
    record.write_text(json.dumps({**whole, "settings": old_digest(CONFIG, "test_prediction")}))
    assert "not on record" in str(why_stale(record, mask, replace(origin, config=OTHER)))
    assert why_stale(record, mask, origin) == []
    assert json.loads(record.read_text()) == whole
