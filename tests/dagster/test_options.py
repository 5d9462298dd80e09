"""Flags to options and settings."""

import pytest

from mist_dagster.cli.options import AnalyzeOptions, PreprocessOptions, RunAllOptions, TrainOptions, parse
from mist_ops.config import StudyConfig
from mist_ops.schema import flagged_fields


def test_settings_come_by_their_path_in_the_configuration_with_their_types() -> None:
    flags = ["--epochs", "5", "--patch-size", "32", "48", "64", "--l2-penalty", "0", "--model", "nnunet-pocket"]
    _, settings = parse("mist_train", None, TrainOptions, ["train"], flags)
    assert settings == {
        "spatial_config.patch_size": (32, 48, 64),
        "model.architecture": "nnunet-pocket",
        "training.epochs": 5,
        "training.l2_penalty": 0.0,
    }


@pytest.mark.parametrize(
    "words, expected",
    [(["--compute-dtms"], True), (["--compute-dtms", "Yes"], True), (["--compute-dtms", "f"], False)],
)
def test_a_switch_stands_alone_or_takes_a_word_for_yes_or_no(words: list[str], expected: bool) -> None:
    _, settings = parse("mist_preprocess", None, PreprocessOptions, ["preprocess"], words)
    assert settings == {"preprocessing.compute_dtms": expected}


def test_what_is_not_given_is_not_set() -> None:
    options, settings = parse("mist_analyze", None, AnalyzeOptions, ["analyze"], ["--data", "d.json"])
    assert not options.overwrite
    assert settings == {}


def test_run_all_takes_every_flag_of_its_stages(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse("mist_run_all", None, RunAllOptions, ["analyze", "preprocess", "train"], ["--help"])
    shown = capsys.readouterr().out
    own = {"--" + name.replace("_", "-") for part in (AnalyzeOptions, TrainOptions) for name in part.model_fields}
    assert all(flag in shown for flag in own | {flagged.flag for flagged in flagged_fields(StudyConfig)})
