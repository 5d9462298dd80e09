from __future__ import annotations

import json
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any

import pytest
from expect import refuses

from mist_ops.config import (
    STEPS,
    StudyConfig,
    TrainingConfig,
    check_channels,
    edits,
    override,
    read_config,
    write_config,
)
from mist_ops.errors import ConfigError
from mist_ops.schema import flagged_fields
from mist_ops.steps import digest, settings

# What MIST 2.3 writes for an MR study: every key, in its order.
REFERENCE: dict[str, Any] = {
    "mist_version": "2.3.0",
    "dataset_info": {"task": "Hippocampus", "modality": "mr", "images": ["MRI"], "labels": [0, 1, 2]},
    "spatial_config": {"patch_size": [32, 32, 32], "target_spacing": [1.0, 1.0, 1.0]},
    "preprocessing": {
        "skip": False,
        "crop_to_foreground": False,
        "median_resampled_image_size": [35, 50, 35],
        "normalize_with_nonzero_mask": False,
        "ct_normalization": {"window_min": None, "window_max": None, "z_score_mean": None, "z_score_std": None},
        "compute_dtms": False,
        "normalize_dtms": True,
    },
    "model": {"architecture": "nnunet", "params": {"in_channels": 1, "out_channels": 3}},
    "training": {
        "seed": 42,
        "nfolds": 5,
        "folds": [0, 1, 2, 3, 4],
        "val_percent": 0.0,
        "epochs": 1000,
        "min_steps_per_epoch": 250,
        "batch_size_per_gpu": 2,
        "dali_foreground_prob": 0.6,
        "loss": {"name": "dice_ce", "composite_loss_weighting": None},
        "optimizer": "adamw",
        "learning_rate": 0.001,
        "lr_scheduler": "cosine",
        "warmup_epochs": 20,
        "l2_penalty": 0.0001,
        "grad_clip_norm": 1.0,
        "amp": True,
        "augmentation": {
            "enabled": True,
            "transforms": dict.fromkeys(("flips", "zoom", "noise", "blur", "brightness", "contrast"), True),
        },
        "hardware": {
            "num_gpus": None,
            "num_cpu_workers": 8,
            "master_addr": "localhost",
            "master_port": 12345,
            "communication_backend": "auto",
            "data_loader": "auto",
        },
    },
    "inference": {
        "inferer": {"name": "sliding_window", "params": {"patch_blend_mode": "gaussian", "patch_overlap": 0.5}},
        "ensemble": {"strategy": "mean"},
        "tta": {"enabled": True, "strategy": "all_flips"},
    },
    "evaluation": {
        "Anterior": {"labels": [1], "metrics": {"dice": {}, "haus95": {}}},
        "Posterior": {"labels": [2], "metrics": {"dice": {}, "haus95": {}}},
    },
}

# What its config.json lacks, at the end of the section.
OURS = {
    "preprocessing.resampling": "reference",
    "training.augmentation.flip_axes": ["x", "y", "z"],
    "training.hardware.compile": None,
    "inference.tta.flip_axes": ["x", "y", "z"],
}

CONFIG = StudyConfig.model_validate(REFERENCE)


def _paths(value: object, prefix: str = "") -> list[str]:
    if not isinstance(value, dict) or not value:
        return [prefix]
    return [path for name, child in value.items() for path in _paths(child, f"{prefix}.{name}".lstrip("."))]


def _write(path: Path, whole: object) -> Path:
    path.write_text(json.dumps(whole))
    return path


def test_a_config_of_mist_keeps_its_values_and_its_order_of_keys(tmp_path: Path) -> None:
    write_config(tmp_path / "config.json", CONFIG)
    written = json.loads((tmp_path / "config.json").read_text())
    assert [path for path in _paths(written) if path not in OURS] == _paths(REFERENCE)
    for path, default in OURS.items():
        *sections, name = path.split(".")
        assert reduce(getitem, sections, written).popitem() == (name, default)
    assert written == REFERENCE


def test_settings_that_are_only_written_if_they_are_changed_change_the_digest(tmp_path: Path) -> None:
    changed = override(CONFIG, {"training.validation_every": 5, "training.validation_cases": 20})
    assert digest(changed, "training") != digest(CONFIG, "training")
    assert "training.validation_every" not in settings(CONFIG, "training")
    write_config(tmp_path / "config.json", changed)
    assert read_config(tmp_path / "config.json") == changed
    assert override(changed, {"training.validation_every": 1, "training.validation_cases": None}) == CONFIG


def test_the_defaults_are_those_of_mist() -> None:
    needed = {name: REFERENCE[name] for name in ("mist_version", "dataset_info", "spatial_config", "evaluation")}
    sizes = {"median_resampled_image_size": [35, 50, 35]}
    model = {"params": REFERENCE["model"]["params"]}
    assert StudyConfig.model_validate({**needed, "preprocessing": sizes, "model": model, "training": {}}) == CONFIG


def test_a_missing_config_is_refused_with_the_command_that_writes_it(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    with refuses("config-missing", ConfigError, names=f"{path} does not exist. Run mist_analyze first", file=path):
        read_config(path)  # pinned


def test_a_misspelled_key_is_refused_with_the_nearest_one(tmp_path: Path) -> None:
    wrong = {**REFERENCE, "training": {**REFERENCE["training"], "epoch": 3}}
    path = _write(tmp_path / "config.json", wrong)
    sentence = f"{path}: unknown key 'training.epoch'. Did you mean 'epochs'?"  # pinned
    with refuses("unknown-key", ConfigError, names=sentence, field="training.epoch", file=path):
        read_config(path)


@pytest.mark.parametrize("version, later", [("9.9", True), ("mist-dagster 99.1", True), ("2.2.9", False), ("?", False)])
def test_a_mistake_in_the_file_of_a_later_version_names_that_version(tmp_path: Path, version: str, later: bool) -> None:
    path = _write(tmp_path / "config.json", {**REFERENCE, "mist_version": version, "future": 1})
    with refuses("unknown-key", ConfigError, field="future", file=path) as refused:
        read_config(path)
    assert (f"a later version, {version}" in refused.value.message) == later


def test_a_network_needs_a_channel_for_each_image_and_each_label() -> None:
    config = StudyConfig.model_validate(REFERENCE)
    check_channels(config)
    with refuses("channels-mismatch", field="model.params.out_channels", found=4, expected=3):
        check_channels(override(config, {"model.params": {"in_channels": 1, "out_channels": 4}}))


def test_other_parameters_of_an_architecture_are_kept() -> None:
    whole = {**REFERENCE, "model": {"architecture": "x", "params": {**REFERENCE["model"]["params"], "depth": 5}}}
    assert StudyConfig.model_validate(whole).model_dump()["model"]["params"]["depth"] == 5


def test_folds_that_do_not_exist_are_refused() -> None:
    with refuses("value-invalid", ConfigError, names="fold 3 does not exist", field="training"):
        override(CONFIG, {"training.nfolds": 3})
    with pytest.raises(ValueError, match="fold 3"):
        TrainingConfig(nfolds=3)


def test_a_duplicate_fold_is_refused() -> None:
    with refuses("value-invalid", ConfigError, names="1, 1", field="training"):
        override(CONFIG, {"training.folds": [1, 1]})


@pytest.mark.parametrize("given, fraction", [(0, 0.0), (0.2, 0.2), (20, 0.2), (1, 0.01)])
def test_val_percent_is_a_fraction_or_a_percentage(given: float, fraction: float) -> None:
    changed = override(CONFIG, {"training.val_percent": given})
    assert changed.training.val_percent == fraction
    assert override(changed, {}) == changed


def test_a_composite_loss_weighting_gets_its_default_parameters() -> None:
    changed = override(CONFIG, {"training.loss.composite_loss_weighting": {"name": "cosine"}})
    assert changed.training.loss.composite_loss_weighting == {
        "name": "cosine",
        "params": {"init_pause": 5, "start_val": 1.0, "end_val": 0.0},
    }


@pytest.mark.parametrize("weighting", [{}, {"name": "cosin"}, {"name": "constant", "params": {"value": 2}}])
def test_an_invalid_composite_loss_weighting_is_refused(weighting: dict[str, object]) -> None:
    with pytest.raises(ConfigError) as refused:
        override(CONFIG, {"training.loss.composite_loss_weighting": weighting})
    assert refused.value.field == "training.loss.composite_loss_weighting"


def test_an_override_is_validated_and_leaves_the_original() -> None:
    changed = override(CONFIG, {"training.epochs": 50, "spatial_config.patch_size": [16, 24, 32]})
    assert (changed.training.epochs, changed.spatial_config.patch_size) == (50, (16, 24, 32))
    assert CONFIG.training.epochs == 1000
    with refuses("value-invalid", ConfigError, field="training.epochs", found=0, expected="at least 1"):
        override(CONFIG, {"training.epochs": 0})


def test_an_override_with_an_unknown_name_is_refused() -> None:
    with refuses("unknown-key", ConfigError, field="training.epoch"):
        override(CONFIG, {"training.epoch": 3})


def test_edits_are_what_override_needs() -> None:
    changed = override(
        CONFIG,
        {
            "training.epochs": 50,
            "training.augmentation.transforms": {"flips": False},
            "inference.inferer.params.sw_batch_size": 4,
            "evaluation": {"Whole": {"labels": [1, 2], "metrics": {"dice": {}}}},
        },
    )
    assert override(CONFIG, edits(CONFIG, changed)) == changed
    assert edits(CONFIG, CONFIG) == {}


def test_the_default_warmup_is_dropped_in_a_short_run() -> None:
    assert override(CONFIG, {"training.epochs": 10}).training.effective_warmup_epochs == 0
    assert CONFIG.training.effective_warmup_epochs == 20


def test_an_explicit_warmup_must_be_shorter_than_the_run() -> None:
    with refuses("warmup-too-long", ConfigError, found=10):
        override(CONFIG, {"training.epochs": 10, "training.warmup_epochs": 10})


@pytest.mark.parametrize(
    "path, value, stages",
    [
        ("training.epochs", 5, {"training"}),
        ("training.folds", [0], set()),
        ("training.hardware.num_cpu_workers", 1, set()),
        ("inference.tta.enabled", False, {"prediction", "test_prediction"}),
        ("evaluation.Anterior.metrics", {"dice": {}}, {"evaluation"}),
        ("spatial_config.target_spacing", [2, 2, 2], {"preprocessing", "training", "test_prediction"}),
    ],
)
def test_an_edit_changes_the_digest_of_the_stages_that_read_it(path: str, value: object, stages: set[str]) -> None:
    changed = override(CONFIG, {path: value})
    assert {step for step in STEPS if digest(changed, step) != digest(CONFIG, step)} == stages


def test_every_flag_of_the_guide_that_is_a_setting_is_declared() -> None:
    flags = {flagged.flag for flagged in flagged_fields(StudyConfig)}
    assert flags >= {
        "--nfolds", "--no-preprocess", "--compute-dtms", "--model", "--patch-size", "--loss", "--epochs",
        "--batch-size-per-gpu", "--learning-rate", "--lr-scheduler", "--warmup-epochs", "--optimizer", "--l2-penalty",
        "--val-percent",
    }  # fmt: skip
