"""Parsing of flags, and ``--help``."""

import inspect
import re
from pathlib import Path

import pytest

import mist_ops.losses
from mist_dagster import cli
from mist_dagster.cli import options
from mist_ops.config import NAMES, StudyConfig
from mist_ops.registry import BLENDINGS, LABEL_ENSEMBLERS, PROBABILITY_ENSEMBLERS
from mist_ops.schema import flagged_fields

STAGES = ["analyze", "preprocess", "train"]
COMMANDS = [
    name
    for name, function in inspect.getmembers(cli, inspect.isfunction)
    if function.__module__ == cli.__name__ and not name.startswith("_") and name != "parser"
]
CONVERTERS = {"convert_msd", "convert_nnunet", "convert_csv"}
OVERWRITING = {"analyze", "preprocess", "train", "run_all", "average_weights", "evidence", "slurm", *CONVERTERS}


def shown(capsys: pytest.CaptureFixture[str], command: str) -> str:
    """The help of a command."""
    with pytest.raises(SystemExit) as end:
        getattr(cli, command)(["--help"])
    assert end.value.code == 0
    return capsys.readouterr().out


def test_settings_are_returned_by_path_with_their_types() -> None:
    flags = ["--epochs", "5", "--patch-size", "32", "48", "64", "--l2-penalty", "0", "--model", "nnunet-pocket"]
    _, settings = cli.parser("train").parsed([*flags, "--val-percent", "20"])
    assert settings == {
        "spatial_config.patch_size": (32, 48, 64),
        "model.architecture": "nnunet-pocket",
        "training.val_percent": 0.2,
        "training.epochs": 5,
        "training.l2_penalty": 0.0,
    }


@pytest.mark.parametrize(
    "flags, expected",
    [
        (["--compute-dtms"], True),
        (["--compute-dtms", "Yes"], True),
        (["--compute-dtms", "f"], False),
        (["--no-compute-dtms"], False),
    ],
)
def test_a_switch_of_config_json_has_an_opposite_and_accepts_the_values_of_mist(
    flags: list[str], expected: bool
) -> None:
    _, settings = cli.parser("preprocess").parsed(flags)
    assert settings == {"preprocessing.compute_dtms": expected}


def test_no_preprocess_has_an_opposite() -> None:
    _, settings = cli.parser("preprocess").parsed(["--preprocess"])
    assert settings == {"preprocessing.skip": False}


def test_omitted_flags_are_not_settings() -> None:
    chosen, settings = cli.parser("analyze").parsed(["--data", "d.json"])
    assert not chosen.overwrite
    assert settings == {}


def test_names_of_plugins_are_accepted() -> None:
    _, settings = cli.parser("train").parsed(["--loss", "of_a_plugin"])
    assert settings == {"training.loss.name": "of_a_plugin"}


def test_run_all_has_every_flag_of_its_stages(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.parser("run_all").parsed(["--help"])
    text = capsys.readouterr().out
    own = {
        "--" + name.replace("_", "-")
        for part in (options.AnalyzeOptions, options.TrainOptions)
        for name in part.model_fields
    }
    assert all(flag in text for flag in own | {flagged.flag for flagged in flagged_fields(StudyConfig)})


def test_help_groups_flags_as_the_user_guide_does(capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(capsys, "run_all")
    assert re.findall(r"^(\w.*):$", text, re.MULTILINE) == [
        *("Input and output", "Hardware", "Analysis", "Preprocessing", "Model", "Loss function", "Training loop"),
        *("Transfer learning", "General", "Queue"),
    ]
    members = {title: re.findall(r"^  (--[\w-]+)", flags, re.MULTILINE) for title, flags in _groups(text).items()}
    assert members["Input and output"][0] == "--data"  # required
    assert set(members["Input and output"]) == {"--data", "--results", "--study", "--numpy", "--overwrite"}
    assert members["Loss function"] == ["--loss", "--composite-loss-weighting"]
    assert members["Queue"] == ["--submit", "--priority", "--max-hours"]


def _groups(text: str) -> dict[str, str]:
    parts = re.split(r"^(\w.*):$", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_help_lists_the_names_of_every_registry(capsys: pytest.CaptureFixture[str]) -> None:
    text = re.sub(r",\s+", ",", shown(capsys, "run_all") + shown(capsys, "ensemble"))
    for registry in (*NAMES.values(), BLENDINGS, LABEL_ENSEMBLERS, PROBABILITY_ENSEMBLERS):
        assert f"{{{','.join(sorted(registry))}}}" in text


def test_help_lists_the_loss_of_a_new_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "new.py").write_text('LOSSES.register("of_a_new_file")(raise_if_executed)')
    mist_ops.losses.__path__.append(str(tmp_path))
    try:
        assert "of_a_new_file" in shown(capsys, "train")
    finally:
        mist_ops.losses.__path__.remove(str(tmp_path))


def test_help_shows_defaults_and_no_value_for_switches(capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(capsys, "run_all")
    assert re.search(r"--learning-rate X .*\(default: 0\.001\)", text)
    assert re.search(r"--data PATH .*\(required\)", text)
    assert re.search(r"--resume  +\w", text)
    assert "--compute-dtms, --no-compute-dtms\n" in text


@pytest.mark.parametrize("command", COMMANDS)
def test_overwrite_is_a_flag_only_where_output_can_be_replaced(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ("--overwrite" in shown(capsys, command)) == (command in OVERWRITING)


def test_no_option_has_the_flag_of_a_setting() -> None:
    settings = {flagged.flag for flagged in flagged_fields(StudyConfig)}
    own = {"--" + name.replace("_", "-") for name in options.RunAllOptions.model_fields}
    assert settings & own == set()
