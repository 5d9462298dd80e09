from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from mist_ops.errors import ConfigError
from mist_ops.postprocessing.strategy import describe, parse, read_strategy, to_json, write_strategy
from mist_ops.registry import TRANSFORMS

GOOD: dict[str, Any] = {
    "transform": "remove_small_objects",
    "apply_to_labels": [1, 2],
    "per_label": False,
    "kwargs": {"small_object_threshold": 5},
}


@pytest.mark.parametrize(
    "change, words",
    [
        ({"transform": "remove_smal_objects"}, "Did you mean 'remove_small_objects'"),
        ({"kwargs": {"small_object_treshold": 5}}, "Did you mean 'small_object_threshold'"),
        ({"kwargs": {"small_object_threshold": None}}, "'small_object_threshold' must be an integer"),
        ({"kwargs": {"small_object_threshold": -1}}, "must be at least 0"),
        ({"kwargs": {"small_object_threshold": 5, "small_object_volume_mm3": 5.0}}, "say the same in two ways"),
        ({"apply_to_labels": [0, 1]}, r"'apply_to_labels' is \[0, 1\]"),
        ({"apply_to_labels": [-1, 1]}, r"'apply_to_labels' is \[-1, 1\]"),
        ({"apply_to_labels": []}, "at least 1 item"),
        ({"apply_to_labels": [True]}, "must be an integer"),
        ({"per_label": 1}, "must be true or false"),
        ({"extra": 1}, "unknown key 'extra'"),
        ({"transform": "replace_small_objects_with_label", "kwargs": {}}, "'per_label' must be true"),
    ],
)
def test_every_mistake_in_a_step_is_named(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=f"(?s)step 2 of 2.*{words}"):
        parse([GOOD, {**GOOD, **change}], "strategy.json")


def test_all_mistakes_are_named_at_once() -> None:
    with pytest.raises(ConfigError, match=r"(?s)step 1 of 2.*step 2 of 2"):
        parse([{**GOOD, "per_label": "no"}, {**GOOD, "apply_to_labels": [0]}], "strategy.json")


def test_a_strategy_survives_being_written_and_read(tmp_path: Path) -> None:
    strategy = parse([GOOD, {**GOOD, "apply_to_labels": [-1]}], "here")
    write_strategy(tmp_path / "strategy.json", strategy)
    assert read_strategy(tmp_path / "strategy.json") == strategy
    assert to_json(strategy)[0] == GOOD


def test_an_empty_strategy_is_one_and_a_missing_file_is_not(tmp_path: Path) -> None:
    (tmp_path / "s.json").write_text("[]")
    assert read_strategy(tmp_path / "s.json") == ()
    with pytest.raises(ConfigError, match=r"There is no .*none\.json"):
        read_strategy(tmp_path / "none.json")


def test_a_step_that_can_change_nothing_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        parse([{**GOOD, "transform": "fill_holes_with_label", "kwargs": {}}], "s.json")
    assert "changes nothing" in caplog.text


def test_every_transform_is_described_with_its_parameters() -> None:
    described = json.loads(json.dumps(describe()))
    assert list(described) == list(TRANSFORMS)
    threshold = described["remove_small_objects"]["kwargs"]["small_object_threshold"]
    assert (threshold["default"], threshold["minimum"]) == (64, 0)
    assert described["replace_small_objects_with_label"]["per_label"] == "required"
