"""Flags and tools of learning, as a user meets them."""

import json
from pathlib import Path

import dagster as dg
import pytest
import torch

from mist_dagster import cli
from mist_dagster.assets.launchpad import FLAGS
from mist_dagster.assets.training import TrainingOverrides
from mist_dagster.definitions import build_definitions
from mist_dagster.instance.home import instance
from mist_dagster.provenance import asset_key
from mist_dagster.stages import job_name
from mist_ops.analysis.folds import make_fold
from mist_ops.config import edits, read_config
from mist_ops.dataset import Fold, read_train_paths
from mist_ops.records.comparison import why_stale
from mist_ops.records.passport import read_passport
from mist_ops.study import Study

from .staleness import StaleStatus, staleness


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


OVERRIDES = {"epochs": 2, "loss": "dice", "learning_rate": 0.002, "patch_size": [32, 32, 16]}


def train_in_ui(
    records: dg.DagsterInstance, study: Study, fold: int, settings: dict[str, object]
) -> dg.ExecuteInProcessResult:
    """Run what the launchpad of the job starts."""
    config = {"ops": {f"{study.key}__fold_model": {"config": {"settings": settings}}}}
    job = build_definitions([study]).resolve_job_def(job_name(study, "train"))
    return job.execute_in_process(
        instance=records, run_config=config, partition_key=f"fold_{fold}", raise_on_error=False
    )


def test_settings_of_the_launchpad_go_to_config_json_and_the_passport_once_for_all_folds(copied_study: Study) -> None:
    study = copied_study
    before = read_config(study.config)
    assert cli.status([*where(study)[:4], "--study", study.key, "--rebuild"]) == 0
    with instance() as records:
        assert train_in_ui(records, study, 0, OVERRIDES).success
        written = study.config.stat()
        config = read_config(study.config)
        expected = {
            "training.epochs": 2,
            "training.loss.name": "dice",
            "training.learning_rate": 0.002,
            "spatial_config.patch_size": [32, 32, 16],
        }
        assert edits(before, config) == expected
        passport = read_passport(study.model(0))
        assert len(passport.history) == 2
        assert not why_stale(study, config, _fold(study, 0))
        [event] = records.fetch_materializations(asset_key(study, "training_settings"), 1).records
        assert event.asset_materialization is not None
        assert str(event.asset_materialization.description).startswith("launchpad: ")
        for name in ("training_set", "fold_model"):
            assert staleness(study, records).get_status(asset_key(study, name), "fold_0") == StaleStatus.FRESH, name

        assert train_in_ui(records, study, 1, OVERRIDES).success
        after = study.config.stat()
        assert (after.st_ino, after.st_mtime_ns) == (written.st_ino, written.st_mtime_ns)
        [latest] = records.fetch_materializations(asset_key(study, "training_settings"), 1).records
        assert latest.storage_id == event.storage_id


@pytest.mark.parametrize(
    "settings, code, words",
    [
        ({"epochs": 3, "loss": "dise"}, "unknown-loss", "dice"),
        ({"loss": "bl"}, "distance-maps-missing", "--compute-dtms"),
        ({"epochs": 0}, "value-invalid", "training.epochs"),
        ({"model": "mednext-base", "patch_size": [33, 33, 33]}, "patch-size-unsupported", "33"),
    ],
)
def test_an_invalid_setting_of_the_launchpad_ends_the_run_before_anything_changes(
    copied_study: Study, settings: dict[str, object], code: str, words: str
) -> None:
    study = copied_study
    before = study.config.read_bytes(), study.model(0).read_bytes(), study.passport(0).read_bytes()
    with instance() as records:
        result = train_in_ui(records, study, 0, settings)
        failure = result.failure_data_for_node(f"{study.key}__fold_model")
    assert not result.success
    assert failure is not None
    assert failure.error is not None
    assert failure.error.cause is not None
    assert f"[{code}]" in failure.error.cause.message
    assert words in failure.error.cause.message
    assert (study.config.read_bytes(), study.model(0).read_bytes(), study.passport(0).read_bytes()) == before


def test_the_launchpad_describes_settings_as_the_configuration_does() -> None:
    declared = {name: flagged.field.description for name, flagged in FLAGS.items()}
    fields = TrainingOverrides.model_fields
    assert {name: field.description for name, field in fields.items()} == {
        name: declared[name] for name in OVERRIDES
    } | {"model": declared["model"]}


def _fold(study: Study, index: int) -> Fold:
    training = read_config(study.config).training
    return make_fold(
        read_train_paths(study.train_paths), index, training.val_percent, training.seed, training.validation_cases
    )
