from __future__ import annotations

import json
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
from expect import refuses

from mist_ops.errors import ConfigError
from mist_ops.records.history import append, read_history, rechained, record_ranking
from mist_ops.records.reviews import Review, write_review
from mist_ops.study import Study


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return Study("s", numpy=tmp_path / "numpy", results=tmp_path / "results")


def fill(study: Study, count: int = 4) -> None:
    for number in range(count):
        append(study, "verdict", {"patient": f"p{number}", "verdict": "good"})


def test_events_are_read_in_order_and_without_a_file_there_are_none(study: Study) -> None:
    assert read_history(study.history) == ()
    fill(study)
    events = read_history(study.history)
    assert [event.facts["patient"] for event in events] == ["p0", "p1", "p2", "p3"]
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", event.at) for event in events)


def swapped(lines: list[bytes]) -> list[bytes]:
    return [lines[0], lines[2], lines[1], lines[3]]


def edited(lines: list[bytes]) -> list[bytes]:
    return [lines[0], lines[1].replace(b"good", b"poor"), *lines[2:]]


@pytest.mark.parametrize(
    "change, line",
    [
        (edited, 3),
        (swapped, 2),
        (lambda lines: lines[1:], 1),
        (lambda lines: [lines[0], *lines[2:]], 2),
        (lambda lines: [*lines[:2], lines[1], *lines[2:]], 3),
        (lambda lines: [*lines[:2], b"nothing\n", *lines[2:]], 3),
    ],
)
def test_a_line_that_was_changed_removed_or_inserted_is_found(
    study: Study, change: Callable[[list[bytes]], list[bytes]], line: int
) -> None:
    fill(study)
    study.history.write_bytes(b"".join(change(study.history.read_bytes().splitlines(keepends=True))))
    with refuses("history-changed", ConfigError, file=study.history, found=line):
        read_history(study.history)


def test_lines_are_only_appended(study: Study) -> None:
    fill(study, 2)
    before = study.history.read_bytes()
    fill(study, 3)
    assert study.history.read_bytes().startswith(before)
    assert len(read_history(study.history)) == 5


@pytest.mark.parametrize("left", [1, 30, -1])
def test_a_line_of_a_killed_process_is_completed_or_dropped(study: Study, left: int) -> None:
    fill(study, 3)
    lines = study.history.read_bytes().splitlines(keepends=True)
    study.history.write_bytes(b"".join([*lines[:2], lines[2][:left]]))
    kept = 3 if left == -1 else 2  # only its end of line is missing
    assert len(read_history(study.history)) == kept
    append(study, "accepted", {})
    assert [event.kind for event in read_history(study.history)] == [*["verdict"] * kept, "accepted"]


def test_processes_that_append_at_the_same_time_lose_nothing(study: Study) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: append(study, "accepted", {"scores": str(number)}), range(40)))
    assert sorted(int(event.facts["scores"]) for event in read_history(study.history)) == list(range(40))


def test_events_whose_facts_change_are_chained_again(study: Study) -> None:
    fill(study)
    changed = [event.model_copy(update={"facts": {}}) for event in read_history(study.history)]
    study.history.write_bytes(b"".join(event.line + b"\n" for event in rechained(changed)))
    assert [dict(event.facts) for event in read_history(study.history)] == [{}] * 4


def test_a_verdict_is_recorded_without_its_note_and_only_if_it_changed(study: Study) -> None:
    study.results.mkdir()
    write = partial(write_review, study.reviews)
    for review in (Review("a", "poor", "seen at 3 pm"), Review("a", "poor", "again"), Review("b", "", "a note")):
        write(review)
    write(Review("a"))
    facts = [dict(event.facts) for event in read_history(study.history)]
    assert facts == [{"patient": "a", "verdict": "poor"}, {"patient": "a", "verdict": ""}]


def test_a_ranking_is_recorded_in_the_history_of_each_study_that_was_ranked(tmp_path: Path) -> None:
    tables = {}
    for name in ("first", "second", "no study"):
        study = Study("", tmp_path, tmp_path / name)
        study.results.mkdir()
        study.results_csv.write_text(name)
        tables[name] = study.results_csv
    for name in ("first", "second"):
        (tmp_path / name / "config.json").touch()
    ranking = tmp_path / "ranking.csv"
    ranking.write_text("strategy\n")
    record_ranking(tables, ranking)
    assert not (tmp_path / "no study" / "history.jsonl").exists()
    for name in ("first", "second"):
        (event,) = read_history(tmp_path / name / "history.jsonl")
        assert (event.kind, set(event.facts["scores"])) == ("ranking", set(tables))
        assert str(tmp_path) not in json.dumps(dict(event.facts))
