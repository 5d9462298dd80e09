from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from expect import refuses

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
    "change, names",
    [
        ({"transform": "remove_smal_objects"}, "'remove_small_objects'"),
        ({"kwargs": {"small_object_treshold": 5}}, "'small_object_threshold'"),
        ({"kwargs": {"small_object_threshold": None}}, "'small_object_threshold'"),
        ({"kwargs": {"small_object_threshold": -1}}, "-1"),
        ({"kwargs": {"small_object_threshold": 5, "small_object_volume_mm3": 5.0}}, "'small_object_volume_mm3'"),
        ({"apply_to_labels": [0, 1]}, "'apply_to_labels' holds 0, 1"),
        ({"apply_to_labels": [-1, 1]}, "'apply_to_labels' holds -1, 1"),
        ({"apply_to_labels": []}, "'apply_to_labels'"),
        ({"apply_to_labels": [True]}, "'apply_to_labels.0'"),
        ({"per_label": 1}, "'per_label'"),
        ({"extra": 1}, "'extra'"),
        ({"transform": "replace_small_objects_with_label", "kwargs": {}}, "'per_label' must be true"),
    ],
)
def test_a_mistake_in_a_step_is_named(change: dict[str, Any], names: str) -> None:
    with refuses("strategy-invalid", ConfigError, names=names, file="strategy.json") as caught:
        parse([GOOD, {**GOOD, **change}], "strategy.json")
    assert "step 2 of 2" in caught.value.message


def test_all_mistakes_are_reported_at_once() -> None:
    with refuses("strategy-invalid", ConfigError, names="step 1 of 2") as caught:
        parse([{**GOOD, "per_label": "no"}, {**GOOD, "apply_to_labels": [0]}], "strategy.json")
    assert "step 2 of 2" in caught.value.message


def test_a_strategy_is_read_back_as_written(tmp_path: Path) -> None:
    strategy = parse([GOOD, {**GOOD, "apply_to_labels": [-1]}], "here")
    write_strategy(tmp_path / "strategy.json", strategy)
    assert read_strategy(tmp_path / "strategy.json") == strategy
    assert to_json(strategy)[0] == GOOD


def test_an_empty_strategy_is_valid_and_a_missing_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "s.json").write_text("[]")
    assert read_strategy(tmp_path / "s.json") == ()
    with refuses("file-missing", ConfigError, file=tmp_path / "none.json"):
        read_strategy(tmp_path / "none.json")


def test_a_step_that_changes_nothing_logs_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        parse([{**GOOD, "transform": "fill_holes_with_label", "kwargs": {}}], "s.json")
    assert "s.json: step 1 (fill_holes_with_label)" in caplog.text


def test_every_transform_is_described_with_its_parameters() -> None:
    described = json.loads(json.dumps(describe()))
    assert list(described) == list(TRANSFORMS)
    threshold = described["remove_small_objects"]["kwargs"]["small_object_threshold"]
    assert (threshold["default"], threshold["minimum"]) == (64, 0)
    assert described["replace_small_objects_with_label"]["per_label"] == "required"
