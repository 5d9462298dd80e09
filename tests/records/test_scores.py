from __future__ import annotations

from pathlib import Path

import pytest
from training.small_study import small_config

from mist_ops.config import override
from mist_ops.files import write_json
from mist_ops.records.scores import ScoreInputs, read_score_inputs
from mist_ops.steps import old_digest, settings

CONFIG = small_config()
SCORED = ScoreInputs(
    settings=settings(CONFIG, "evaluation"), masks={"007": "m", "a": None}, predictions={"007": "p", "a": "q"}
)


def test_inputs_are_read_back_from_the_summary(tmp_path: Path) -> None:
    write_json(tmp_path / "summary.json", {"patients": {}, "inputs": SCORED.model_dump()})
    assert read_score_inputs(tmp_path / "summary.json") == SCORED


@pytest.mark.parametrize("content", [None, "{", '{"patients": {}}', '{"inputs": {"settings": "s"}}'])
def test_a_summary_without_readable_inputs_gives_none(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "summary.json").write_text(content)
    assert read_score_inputs(tmp_path / "summary.json") is None


def test_unchanged_inputs_have_no_changes() -> None:
    assert list(SCORED.changes(SCORED, CONFIG, ["007", "a"])) == []


@pytest.mark.parametrize(
    "now, patients, changes",
    [
        ({"version": 2}, ["007", "a"], ["the evaluation code changed from version 1 to 2"]),
        ({"masks": {"007": "m"}}, ["007", "b"], ["a is gone"]),
        ({"masks": {"007": "n", "a": None}}, ["007", "a"], ["the mask of 007 changed"]),
        ({"masks": {"007": "n", "a": "n"}}, ["007", "a"], ["the masks of 007, a changed"]),
        ({"predictions": {"007": "p"}}, ["007", "a"], ["the prediction of a changed"]),
        ({"masks": {"b": "m"}, "predictions": {}}, ["007", "a", "b"], ["b was added"]),
    ],
)
def test_changes_name_what_differs(now: dict[str, object], patients: list[str], changes: list[str]) -> None:
    assert list(SCORED.changes(SCORED.model_copy(update=now), CONFIG, patients)) == changes


def test_settings_are_named_with_both_values_and_an_older_digest_is_still_compared() -> None:
    changed = override(CONFIG, {"dataset_info.task": "other"})
    assert list(SCORED.changes(SCORED, changed, ["007", "a"])) == ["task was boxes and is other"]
    older = SCORED.model_copy(update={"settings": old_digest(CONFIG, "evaluation")})
    assert list(older.changes(SCORED, changed, ["007", "a"])) == []  # the task was not part of it
    assert "not on record" in " ".join(
        SCORED.model_copy(update={"settings": "s"}).changes(SCORED, CONFIG, ["007", "a"])
    )
