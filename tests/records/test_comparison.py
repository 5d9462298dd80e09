from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from records.passports import passport

from mist_ops.dataset import Fold
from mist_ops.records.comparison import differences, fold_changes
from mist_ops.records.passport import write_passport

ENCODER: dict[str, Any] = {
    "weights": "p",
    "config": "c",
    "architecture": "nnunet",
    "input_channels": "average",
    "loaded": 1,
    "loaded_values": 8,
    "adapted": [],
    "skipped": [],
}


def test_a_model_does_not_differ_from_itself() -> None:
    assert differences(passport(), passport()) == ["The weights are identical."]


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"content": {"training": {"a": "1"}, "validation": {"c": "3"}}}, "Only A trains on 1 patient: b."),
        (
            {"content": {"training": {"a": "1", "b": "9"}, "validation": {}}},
            "Both train on b, but with different arrays.",
        ),
        ({"content": {"training": {}, "validation": {"d": "4"}}}, "Only B validates on 1 patient: d."),
        ({"config": {"training": {"epochs": 9, "loss": {"name": "dice"}}}}, "training.epochs is 5 for A and 9 for B."),
        (
            {"config": {"training": {"epochs": 5, "loss": {"name": "bl"}}}},
            'training.loss.name is "dice" for A and "bl"',
        ),
        ({"seed": 43}, "seed is 42 for A and 43 for B."),
        ({"versions": {"torch": "2.14.0"}}, 'versions.torch is "2.13.0" for A and "2.14.0" for B.'),
        ({"pretrained": ENCODER}, 'pretrained is not set for A and {"weights": "p"'),
        ({}, "A: best epoch 2 of 2, validation loss 0.2500, training time 0.5 h."),
    ],
)
def test_every_difference_is_listed(changes: dict[str, Any], message: str) -> None:
    assert message in " ".join(differences(passport(), passport(weights="x", **changes)))


@pytest.mark.parametrize(
    "training, changes",
    [
        (("a", "b"), []),
        (("a",), ["The training patients changed (removed: b)."]),
        (("a", "b", "d"), ["The training patients changed (added: d)."]),
        (("a", "d"), ["The training patients changed (added: d and removed: b)."]),
        (("b", "d"), ["The training patients changed (added: d and gone: a)."]),
    ],
)
def test_patients_that_joined_or_left_a_fold_are_listed(
    tmp_path: Path, training: tuple[str, ...], changes: list[str]
) -> None:
    write_passport(tmp_path / "fold_0.json", passport())
    assert fold_changes(tmp_path / "fold_0.pt", Fold(0, training, ("c",), ("c",)), {"b", "c", *training}) == changes
