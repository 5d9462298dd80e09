from __future__ import annotations

from pathlib import Path

import pytest

from mist_ops.files import write_json
from mist_ops.records.scores import ScoreInputs, read_score_inputs

SCORED = ScoreInputs(settings="s", masks={"007": "m", "a": None}, predictions={"007": "p", "a": "q"})


def test_inputs_are_read_back_from_the_summary(tmp_path: Path) -> None:
    write_json(tmp_path / "summary.json", {"patients": {}, "inputs": SCORED.model_dump()})
    assert read_score_inputs(tmp_path / "summary.json") == SCORED


@pytest.mark.parametrize("content", [None, "{", '{"patients": {}}', '{"inputs": {"settings": "s"}}'])
def test_a_summary_without_readable_inputs_gives_none(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "summary.json").write_text(content)
    assert read_score_inputs(tmp_path / "summary.json") is None


def test_unchanged_inputs_have_no_changes() -> None:
    assert list(SCORED.changes(SCORED, ["007", "a"])) == []


@pytest.mark.parametrize(
    "now, patients, changes",
    [
        ({"settings": "t"}, ["007", "a"], ["the settings of evaluation"]),
        ({"version": 2}, ["007", "a"], ["the version of evaluation"]),
        ({}, ["007", "b"], ["the patients"]),
        ({"masks": {"007": "n", "a": None}}, ["007", "a"], ["the mask of 007"]),
        ({"predictions": {"007": "p"}}, ["007", "a"], ["the prediction of a"]),
        ({"masks": {"b": "m"}, "predictions": {}}, ["007", "a", "b"], ["the mask of b"]),
    ],
)
def test_changes_name_what_differs(now: dict[str, object], patients: list[str], changes: list[str]) -> None:
    assert list(SCORED.changes(SCORED.model_copy(update=now), patients)) == changes
