from __future__ import annotations

import json
from pathlib import Path

from expect import refuses
from records.passports import passport

from mist_ops.errors import ConfigError
from mist_ops.records.passport import read_passport, trained_on, write_passport

FIRST_KEYS = (
    *("fold", "training", "validation", "held_out", "content", "config", "settings", "seed", "changes", "versions"),
    *("mist_version", "device", "history", "best_epoch", "seconds", "weights"),
)
"""The keys of the first passports."""


def test_a_passport_is_read_as_it_was_written(tmp_path: Path) -> None:
    path, written = tmp_path / "fold_0.json", passport(changes=["from epoch 1: training.epochs was 1 and is now 2"])
    write_passport(path, written)
    assert read_passport(path.with_suffix(".pt")) == written
    assert read_passport(path.with_suffix(".pt")).best.validation_loss == 0.25


def test_a_passport_without_the_keys_of_later_versions_is_read(tmp_path: Path) -> None:
    content = passport().model_dump(mode="json", include=set(FIRST_KEYS))
    for epoch in content["history"]:
        del epoch["alpha"]
    (tmp_path / "fold_0.json").write_text(json.dumps(content))
    assert read_passport(tmp_path / "fold_0.pt") == passport()


def test_keys_of_a_later_version_are_ignored(tmp_path: Path) -> None:
    content = {**passport().model_dump(mode="json"), "energy": 3}
    (tmp_path / "fold_0.json").write_text(json.dumps(content))
    assert read_passport(tmp_path / "fold_0.pt") == passport()


def test_a_model_was_trained_on_the_patients_of_its_passport(tmp_path: Path) -> None:
    write_passport(tmp_path / "fold_0.json", passport())
    assert trained_on(tmp_path / "fold_0.pt") == {"a", "b"}
    assert trained_on(tmp_path / "other.pt") == set()


def test_a_missing_or_damaged_passport_is_refused(tmp_path: Path) -> None:
    weights = tmp_path / "fold_0.pt"
    path = weights.with_suffix(".json")
    with refuses("passport-missing", ConfigError, file=path):
        read_passport(weights)
    for damage in ("{", "[]", json.dumps({**passport().model_dump(mode="json"), "best_epoch": 7})):
        path.write_text(damage)
        with refuses("passport-invalid", ConfigError, file=path):
            read_passport(weights)
