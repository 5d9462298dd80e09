"""Progress bars and log lines."""

import logging

import pytest

from mist_dagster import cli
from mist_dagster.runtime.progress import LogProgress, TerminalProgress, rate
from mist_ops.study import Study


@pytest.mark.parametrize(
    "speed, text",
    [(None, ""), (0.0, ""), (12.34, "12.3/s"), (0.5, "30.0/min"), (1 / 180, "20.0/h"), (1 / 7200, "0.5/h")],
)
def test_a_rate_is_per_second_minute_or_hour(speed: float | None, text: str) -> None:
    assert rate(speed) == text


def test_a_bar_starts_at_the_steps_done_earlier(capfd: pytest.CaptureFixture[str]) -> None:
    with TerminalProgress() as progress:
        assert list(progress.track(iter("ab"), "Training", 5, initial=3)) == ["a", "b"]
    assert "5/5" in capfd.readouterr().err


def test_messages_of_the_log_are_shown_once_and_only_during_a_command(capfd: pytest.CaptureFixture[str]) -> None:
    with TerminalProgress():
        for _ in range(2):
            logging.getLogger("mist_ops.devices").warning("No GPU found.")
        logging.getLogger("mist").info("Waiting.")
    logging.getLogger("mist").info("Later.")
    assert capfd.readouterr().err == "Warning: No GPU found.\nWaiting.\n"


def test_log_lines_start_at_the_steps_done_earlier(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="mist")
    assert list(LogProgress(seconds_between=-1.0).track(iter("ab"), "Training", 5, str.upper, initial=3)) == ["a", "b"]
    assert caplog.messages == ["Training: 4 of 5 A", "Training: 5 of 5 B"]


def test_the_bar_of_a_resumed_training_starts_at_its_epoch(
    copied_study: Study, capfd: pytest.CaptureFixture[str]
) -> None:
    where = ["--results", str(copied_study.results), "--numpy", str(copied_study.numpy)]
    assert cli.train([*where, "--folds", "0", "--resume", "--epochs", "2"]) == 0
    shown = capfd.readouterr().err
    assert "Fold 0 trains on the CPU (" in shown
    assert "2/2" in shown.partition("Training fold 0")[2].partition("\n")[0]
