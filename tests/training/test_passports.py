from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mist_ops.dataset import Fold
from mist_ops.errors import ConfigError
from mist_ops.training.passports import differences, read_passport, regrouped, trained_on


def passport(**changes: Any) -> dict[str, Any]:
    """A passport of a model that was trained on two patients."""
    return {
        "fold": 0,
        "content": {"training": {"a": "1", "b": "2"}, "validation": {"c": "3"}},
        "config": {"training": {"epochs": 5, "loss": {"name": "dice"}}},
        "seed": 42,
        "versions": {"torch": "2.13.0"},
        "weights": "w",
        "best_epoch": 1,
        "history": [{"index": 0, "validation_loss": 0.5}, {"index": 1, "validation_loss": 0.25}],
        "seconds": 1800.0,
        **changes,
    }


def told(**changes: Any) -> str:
    return " ".join(differences(passport(), passport(weights="x", **changes)))


def test_a_model_and_itself_differ_in_nothing_but_say_that_they_are_one() -> None:
    assert differences(passport(), passport()) == ["The weights are the same, bit for bit."]


@pytest.mark.parametrize(
    "changes, sentence",
    [
        ({"content": {"training": {"a": "1"}, "validation": {"c": "3"}}}, "A alone trains on 1 patients: b."),
        (
            {"content": {"training": {"a": "1", "b": "9"}, "validation": {}}},
            "Both train on b, but on different arrays.",
        ),
        ({"content": {"training": {}, "validation": {"d": "4"}}}, "B alone selects its weights on 1 patients: d."),
        ({"config": {"training": {"epochs": 9, "loss": {"name": "dice"}}}}, "training.epochs is 5 for A and 9 for B."),
        (
            {"config": {"training": {"epochs": 5, "loss": {"name": "bl"}}}},
            'training.loss.name is "dice" for A and "bl"',
        ),
        ({"seed": 43}, "seed is 42 for A and 43 for B."),
        ({"versions": {"torch": "2.14.0"}}, 'versions.torch is "2.13.0" for A and "2.14.0" for B.'),
        ({"pretrained": {"weights": "p"}}, 'pretrained is not there for A and {"weights": "p"} for B.'),
        ({}, "A was best in epoch 2 of 2, with a validation loss of 0.2500, and trained for 0.50 hours."),
    ],
)
def test_every_difference_is_a_sentence(changes: dict[str, Any], sentence: str) -> None:
    assert sentence in told(**changes)


@pytest.mark.parametrize(
    "training, sentences",
    [
        (("a", "b"), []),
        (("a",), ["It was trained with b, which is not so any more."]),
        (("a", "b", "d"), ["It was trained without d, which is not so any more."]),
        (("a", "d"), ["It was trained with b and without d, which is not so any more."]),
    ],
)
def test_patients_who_came_to_a_fold_or_left_it_are_told_of(
    tmp_path: Path, training: tuple[str, ...], sentences: list[str]
) -> None:
    (tmp_path / "fold_0.json").write_text(json.dumps(passport()))
    weights = tmp_path / "fold_0.pt"
    assert regrouped(weights, Fold(0, training, ("c",), ("c",))) == sentences
    assert (trained_on(weights), trained_on(tmp_path / "other.pt")) == ({"a", "b"}, set())


def test_a_model_without_a_passport_or_with_a_damaged_one_is_refused(tmp_path: Path) -> None:
    weights = tmp_path / "fold_0.pt"
    with pytest.raises(ConfigError, match="has no passport"):
        read_passport(weights)
    for damage in ("{", "[]", json.dumps({**passport(), "best_epoch": 7})):
        weights.with_suffix(".json").write_text(damage)
        with pytest.raises(ConfigError, match="is damaged"):
            read_passport(weights)
