"""Two runs on one study at once: which go together, and what the second one is told."""

import os
from pathlib import Path

import pytest

from mist_dagster.runtime.locks import BusyError, at_work
from mist_ops.study import Study

STUDY = Study("s", numpy=Path("numpy"), results=Path("results"))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_whoever_needs_the_study_alone_is_refused_with_the_other_named(here: Path) -> None:
    with at_work("0123456789", STUDY, "trained", trains=[0]):
        said = rf"results is being trained by another run \(run 01234567, process {os.getpid()} on .*\), so it cannot"
        with pytest.raises(BusyError, match=said), at_work("0123456789", STUDY, "preprocessed", alone=True):
            pass
    alone = at_work("0123456789", STUDY, "preprocessed", alone=True)
    with alone, pytest.raises(BusyError), at_work("0123456789", STUDY, "trained", trains=[0]):
        pass


@pytest.mark.parametrize(
    "mine, others, together",
    [
        ({"trains": [0]}, {"trains": [1]}, True),
        ({"trains": [0]}, {"trains": [0]}, False),
        ({"uses": [0]}, {"trains": [0]}, False),
        ({"trains": [0]}, {"uses": [0, 1]}, False),
        ({"uses": [0]}, {"uses": [0]}, True),
        ({}, {"trains": [0]}, True),
    ],
)
def test_runs_go_together_that_never_touch_the_same_weights(
    here: Path, mine: dict[str, list[int]], others: dict[str, list[int]], together: bool
) -> None:
    with at_work("0123456789", STUDY, "trained", **others):
        try:
            with at_work("0123456789", STUDY, "predicted", **mine):
                assert together
        except BusyError:
            assert not together
    assert list(Path("results/.at_work").glob("*.claim")) == []
