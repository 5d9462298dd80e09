"""What is told of work while it goes on."""

import logging

import pytest

from mist_dagster import cli
from mist_dagster.runtime.progress import LogProgress, TerminalProgress, rate
from mist_ops.study import Study


@pytest.mark.parametrize(
    "speed, words",
    [(None, ""), (0.0, ""), (12.34, "12.3/s"), (0.5, "30.0/min"), (1 / 180, "20.0/h"), (1 / 7200, "0.5/h")],
)
def test_a_rate_is_told_in_the_unit_in_which_there_is_one_at_least(speed: float | None, words: str) -> None:
    assert rate(speed) == words


def test_a_bar_begins_with_what_was_done_before(capfd: pytest.CaptureFixture[str]) -> None:
    with TerminalProgress() as progress:
        assert list(progress.track(iter("ab"), "Training", 5, begun=3)) == ["a", "b"]
    assert "5/5" in capfd.readouterr().err


def test_lines_in_the_log_begin_with_what_was_done_before(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="mist")
    assert list(LogProgress(seconds_between=-1.0).track(iter("ab"), "Training", 5, str.upper, begun=3)) == ["a", "b"]
    assert caplog.messages == ["Training: 4 of 5 A", "Training: 5 of 5 B"]


def test_training_that_goes_on_is_counted_from_where_it_was(
    copied_study: Study, capfd: pytest.CaptureFixture[str]
) -> None:
    where = ["--results", str(copied_study.results), "--numpy", str(copied_study.numpy)]
    assert cli.train([*where, "--folds", "0", "--resume", "--epochs", "2"]) == 0
    told = capfd.readouterr().err
    assert "Training fold 0" in told
    assert "2/2" in told.partition("Training fold 0")[2].partition("\n")[0]
