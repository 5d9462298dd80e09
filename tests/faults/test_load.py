"""Ten commands at once in a new Dagster home."""

from __future__ import annotations

import json

import pytest

from .harness import Sandbox

CLASSES = {"core": {"labels": [2], "metrics": {"dice": {}}}}


@pytest.mark.slow
def test_ten_commands_at_once_create_a_home_and_all_succeed(
    predicted: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = predicted.folder
    monkeypatch.setenv("DAGSTER_HOME", str(folder / "logs" / "new_home"))
    rows = [f"{number},{predicted.mask(number)},{predicted.prediction(number)}" for number in (1, 2, 3, 4)]
    (folder / "pairs.csv").write_text("\n".join(["id,mask,prediction", *rows, ""]))
    (folder / "classes.json").write_text(json.dumps(CLASSES))
    (folder / "a.csv").write_text("id,core_dice\n1,0.5\n2,0.7\n")
    (folder / "b.csv").write_text("id,core_dice\n1,0.6\n2,0.6\n")
    scored = ["--config", "classes.json", "--paths-csv", "pairs.csv", "--output-csv"]
    commands = [
        *(
            ("analyze", "--data", "data/dataset.json", "--results", f"results_{number}", "--nfolds", "2")
            for number in range(5)
        ),
        *(("evaluate", *scored, f"scores_{number}.csv") for number in range(3)),
        *(("rank", "--results", "a.csv", "b.csv", "--output-csv", f"ranks_{number}.csv") for number in range(2)),
    ]
    started = [predicted.start(*command) for command in commands]
    ended = [(process.communicate(timeout=300)[1], process.returncode) for process in started]
    for errors, status in ended:
        assert status == 0, errors
        assert "locked" not in errors
    assert len(list(folder.glob("results_*/config.json"))) == 5
    assert len([*folder.glob("scores_?.csv"), *folder.glob("ranks_?.csv")]) == 5
