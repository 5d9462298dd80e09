"""Progress bars and log lines."""

import logging
import re
import time
from collections.abc import Iterator

import pytest

from mist_dagster import cli
from mist_dagster.runtime.progress import LogProgress, TerminalProgress, rate
from mist_ops.study import Study
from mist_ops.training.loop import Epoch


@pytest.mark.parametrize(
    "speed, text",
    [
        (None, ""),
        (0.0, ""),
        (12.34, "12.3/s"),
        (0.5, "2.0 s each"),
        (1 / 180, "3.0 min each"),
        (1 / 7200, "2.0 h each"),
    ],
)
def test_a_rate_is_per_second_or_a_duration(speed: float | None, text: str) -> None:
    assert rate(speed) == text


def on_a_terminal(monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    """Let rich take the captured stream for a terminal."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", str(columns))


def test_a_bar_starts_at_the_steps_done_earlier(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    on_a_terminal(monkeypatch, 80)
    with TerminalProgress() as progress:
        assert list(progress.track(iter("ab"), "Training", 5, initial=3)) == ["a", "b"]
    assert "5/5" in capfd.readouterr().err


def test_a_bar_with_the_losses_of_an_epoch_fits_eighty_columns(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    on_a_terminal(monkeypatch, 80)
    epoch = Epoch(99, 0.123, 0.456, 1e-3, improved=True, seconds=45.0, waiting=0.0)
    with TerminalProgress() as progress:
        assert list(progress.track([epoch], "Training fold 0", 1000, lambda epoch: epoch.summary, initial=99)) == [
            epoch
        ]
    lines = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", capfd.readouterr().err).replace("\r", "\n").splitlines()
    assert max(map(len, lines)) <= 80
    assert any(epoch.summary in line for line in lines)


def test_without_a_terminal_there_are_lines_even_during_a_long_step(capfd: pytest.CaptureFixture[str]) -> None:
    def steps() -> Iterator[str]:
        yield "a"
        time.sleep(0.3)
        yield "b"

    with TerminalProgress(seconds_between=0.05) as progress:
        assert list(progress.track(steps(), "Training", 2, str.upper)) == ["a", "b"]
    first, *_, last = capfd.readouterr().err.splitlines()
    assert first.startswith("Training: 1 of 2 after 0.")
    assert first.endswith(", A")
    assert last.startswith("Training: 2 of 2 after ")


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
    assert "Training fold 0: 2 of 2 after " in shown
