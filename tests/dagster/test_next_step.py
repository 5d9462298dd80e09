"""The command line that each command suggests at its end."""

import shlex
from pathlib import Path

import pytest

from mist_dagster import cli
from mist_dagster.cli import next_step

LINES = {
    "phantoms": (["--output", "my data"], "mist_analyze --data 'my data/dataset.json'"),
    "convert_msd": (["--source", "Task04", "--output", "data"], "mist_analyze --data data/dataset.json"),
    "analyze": (["--data", "data/dataset.json"], "mist_preprocess"),
    "preprocess": (["--results", "other", "--numpy", "arrays"], "mist_train --results other --numpy arrays"),
    "train": (
        [],
        "mist_predict --models-dir results/models --config results/config.json --paths-csv new.csv --output masks",
    ),
    "finalize": (["--results", "other"], "mist_status --results other"),
    "rank": (["--results", "a.csv", "b.csv", "--output-csv", "r.csv"], None),
}


@pytest.mark.parametrize("command", LINES)
def test_the_next_step_has_the_folders_that_were_given(command: str) -> None:
    flags, expected = LINES[command]
    chosen, _ = cli.parser(command).parsed(flags)
    assert next_step.after(command, chosen) == expected


@pytest.mark.parametrize("command", [name for name, (_, expected) in LINES.items() if expected])
def test_the_next_step_is_a_command_line_that_is_accepted(command: str) -> None:
    chosen, _ = cli.parser(command).parsed(LINES[command][0])
    name, *words = shlex.split(next_step.after(command, chosen) or "")
    cli.parser(name.removeprefix("mist_")).parsed(words)


@pytest.mark.parametrize("flag", ["--submit", "--discard"])
def test_a_training_that_is_not_done_has_no_next_step(flag: str) -> None:
    chosen, _ = cli.parser("train").parsed([flag])
    assert next_step.after("train", chosen) is None


def test_a_converted_dataset_is_named_as_it_was_given(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.phantoms(["--output", str(tmp_path / "data"), "--patients", "1"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"Next: mist_analyze --data {tmp_path / 'data' / 'dataset.json'}"
