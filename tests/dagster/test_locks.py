"""Locks of runs on a study: which runs may work side by side, and how a refused one is reported."""

import os
import threading
from pathlib import Path

import pytest
from expect import refuses

from mist_dagster.runtime.locks import LockedError, settings_lock, study_lock
from mist_ops.study import Study

STUDY = Study("s", numpy=Path("numpy"), results=Path("results"))


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_an_exclusive_lock_is_refused_while_another_run_holds_any() -> None:
    with study_lock("0123456789", STUDY, "training", writes=[0]):
        refusal = refuses("study-locked", LockedError, names=f"process {os.getpid()} on", found="01234567")
        with refusal, study_lock("9876543210", STUDY, "preprocessing", exclusive=True):
            pass
    with study_lock("0123456789", STUDY, "preprocessing", exclusive=True):
        refusal = refuses("study-locked", LockedError, file=STUDY.results, found="01234567")
        with refusal, study_lock("9876543210", STUDY, "training", writes=[0]):
            pass


@pytest.mark.parametrize(
    "one, other, together",
    [
        ({"writes": [0]}, {"writes": [1]}, True),
        ({"writes": [0]}, {"writes": [0]}, False),
        ({"reads": [0]}, {"writes": [0]}, False),
        ({"writes": [0]}, {"reads": [0, 1]}, False),
        ({"reads": [0]}, {"reads": [0]}, True),
        ({}, {"writes": [0]}, True),
    ],
)
def test_runs_work_side_by_side_unless_one_writes_weights_that_the_other_uses(
    one: dict[str, list[int]], other: dict[str, list[int]], together: bool
) -> None:
    with study_lock("0123456789", STUDY, "training", **other):
        try:
            with study_lock("9876543210", STUDY, "predicting", **one):
                assert together
        except LockedError:
            assert not together
    assert list(Path("results/.locks").glob("*.reservation")) == []


def test_settings_are_changed_by_one_run_at_a_time_and_the_others_wait() -> None:
    order: list[str] = []

    def change() -> None:
        with study_lock("9876543210", STUDY, "training", writes=[1]), settings_lock(STUDY):
            order.append("second")

    other = threading.Thread(target=change)
    with study_lock("0123456789", STUDY, "training", writes=[0]):
        with settings_lock(STUDY):
            other.start()
            other.join(0.2)
            order.append("first")
        other.join(60)
    assert order == ["first", "second"]
