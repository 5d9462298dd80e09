"""Passports for tests."""

from __future__ import annotations

from typing import Any

from mist_ops.records.passport import Passport


def passport(**changes: Any) -> Passport:
    """A model that was trained on the patients a and b, and validated on c, for two epochs."""
    epoch = {"training_loss": 0.5, "learning_rate": 0.1, "improved": True, "seconds": 900.0, "waiting": 0.0}
    plain = {
        "fold": 0,
        "training": ["a", "b"],
        "validation": ["c"],
        "held_out": ["c"],
        "content": {"training": {"a": "1", "b": "2"}, "validation": {"c": "3"}},
        "config": {"training": {"epochs": 5, "loss": {"name": "dice"}}},
        "settings": "digest",
        "seed": 42,
        "versions": {"torch": "2.13.0"},
        "mist_version": "test",
        "device": "cpu",
        "history": [{"index": 0, "validation_loss": 0.5, **epoch}, {"index": 1, "validation_loss": 0.25, **epoch}],
        "best_epoch": 1,
        "seconds": 1800.0,
        "weights": "w",
    }
    return Passport.model_validate({**plain, **changes})
