"""Flags and tools of learning, as a user meets them."""

import json
from pathlib import Path

import dagster as dg
import pytest
import torch

from mist_dagster import cli
from mist_dagster.instance.home import instance
from mist_ops.config import read_config
from mist_ops.study import Study


def where(study: Study) -> list[str]:
    return ["--results", str(study.results), "--numpy", str(study.numpy), "--folds", "0", "--overwrite"]


def test_averaged_weights_are_the_mean_and_are_recorded_with_what_they_were_made_from(
    home: Path, finished: Study, tmp_path: Path
) -> None:
    files, output = [finished.model(0), finished.model(1)], tmp_path / "new" / "mean.pt"
    assert cli.average_weights(["--weights", *map(str, files), "--output", str(output)]) == 0
    one, other, mean = (torch.load(path, weights_only=True) for path in (*files, output))
    assert all(torch.allclose(mean[name], (one[name] + other[name]) / 2, atol=1e-7) for name in one)
    with instance() as records:
        [event] = records.fetch_materializations(dg.AssetKey(["tools", "averaged_weights"]), 1).records
    assert event.asset_materialization is not None
    assert set(event.asset_materialization.metadata["inputs"].value["weights"]) == set(map(str, files))


def test_one_file_has_no_average(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        cli.average_weights(["--weights", "one.pt", "--output", "mean.pt"])
    assert end.value.code == 2
    assert "--weights: must have at least 2 items (got 1)" in capsys.readouterr().err


def test_a_fold_starts_from_pretrained_weights_and_its_passport_says_so(copied_study: Study, finished: Study) -> None:
    study = copied_study
    source = ["--pretrained-weights", str(finished.model(1)), "--pretrained-config", str(finished.config)]
    assert cli.train([*where(study), *source]) == 0
    pretrained = json.loads(study.passport(0).read_text())["pretrained"]
    assert pretrained["weights"] == json.loads(finished.passport(1).read_text())["weights"]


@pytest.mark.parametrize(
    "flags, words",
    [
        (["--pretrained-weights", "fold_0.pt"], "[flags-incomplete]"),
        (["--pretrained-weights", "none.pt", "--pretrained-config", "none.json"], "none"),
        (["--composite-loss-weighting", "cosin"], "cosine"),
        (["--loss", "bl"], "--compute-dtms"),
    ],
)
def test_unusable_training_flags_are_refused_before_anything_changes(
    copied_study: Study, capfd: pytest.CaptureFixture[str], flags: list[str], words: str
) -> None:
    study = copied_study
    before = study.config.read_bytes(), study.model(0).read_bytes()
    assert cli.train([*where(study), *flags]) == 1
    assert words in capfd.readouterr().err
    assert (study.config.read_bytes(), study.model(0).read_bytes()) == before


def test_a_loss_of_distance_maps_with_a_schedule_goes_from_flags_to_a_model(copied_study: Study) -> None:
    study = copied_study
    assert cli.preprocess([*where(study)[:4], "--compute-dtms", "--overwrite"]) == 0
    assert cli.train([*where(study), "--loss", "bl", "--composite-loss-weighting", "linear"]) == 0
    loss = read_config(study.config).training.loss
    assert (loss.name, loss.composite_loss_weighting["name"]) == ("bl", "linear")
    assert loss.composite_loss_weighting["params"]["init_pause"] == 5
