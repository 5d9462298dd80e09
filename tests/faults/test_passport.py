"""``mist_passport`` on models, passports and studies with one fault each."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from .harness import Fault, Sandbox, cut_short, edit_json, edit_text, fill, meets, remove


def weights(box: Sandbox, fold: int = 0) -> Path:
    return box.study.model(fold)


def passport(box: Sandbox, fold: int = 0) -> Path:
    return weights(box, fold).with_suffix(".json")


@pytest.fixture
def modeled(preprocessed: Sandbox, sound: Path) -> Sandbox:
    """A sandbox with the models, arrays and settings of a study."""
    shutil.copytree(sound / "results" / "models", preprocessed.study.models)
    return preprocessed


def swapped(box: Sandbox) -> None:
    shutil.copy(passport(box, 1), passport(box, 0))


def holding(content: str) -> Callable[[Sandbox], None]:
    return lambda box: fill(passport(box), content)


refused = partial(Fault, touches=False)

INVALID = ("fold_0.json", "[passport-invalid]")
OF_ONE = [
    refused(
        "passport/missing",
        "a model without a passport",
        lambda box: remove(passport(box)),
        ("fold_0.json", "[passport-missing]"),
    ),
    refused("passport/truncated", "a truncated passport", lambda box: cut_short(passport(box)), INVALID),
    refused("passport/empty", "an empty passport", holding(""), INVALID),
    refused("passport/a-list", "a passport that is a list", holding("[]"), INVALID),
    refused("passport/of-something-else", "another JSON file in its place", holding('{"labels": [0]}'), INVALID),
    refused(
        "passport/best-epoch-beyond",
        "a passport whose best epoch does not exist",
        lambda box: edit_json(passport(box), best_epoch=99),
        INVALID,
    ),
]
OF_VERIFY = [
    refused(
        "passport/of-another",
        "the passport of another fold",
        swapped,
        "fold_0.pt do not match the passport",
    ),
    refused("passport/weights-missing", "missing weights", lambda box: remove(weights(box)), "fold_0.pt are missing"),
    refused(
        "passport/weights-truncated",
        "truncated weights",
        lambda box: cut_short(weights(box)),
        "fold_0.pt do not match the passport",
    ),
    refused(
        "passport/arrays-gone",
        "no arrays at all",
        lambda box: remove(box.study.numpy),
        ("phantom_001", "missing"),
        again=False,
    ),
    refused(
        "passport/config-missing",
        "a missing config.json",
        lambda box: remove(box.study.config),
        "config.json is missing",
    ),
    refused(
        "passport/config-broken",
        "a truncated config.json",
        lambda box: cut_short(box.study.config),
        "config.json",
    ),
    refused(
        "passport/settings-changed",
        "a changed training setting",
        lambda box: edit_text(box.study.config, lambda text: text.replace('"epochs": 1', '"epochs": 7')),
        "epochs was 1 and is 7",
    ),
    refused(
        "passport/settings-of-another-version",
        "a passport with settings of another version",
        lambda box: edit_json(passport(box), config={"model": 1}),
        "settings of another version",
    ),
]
FAULTS = [*OF_ONE, *OF_VERIFY]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.key)
def test_verify(modeled: Sandbox, fault: Fault) -> None:
    meets(modeled, "passport", ["verify", weights(modeled), "--numpy", modeled.study.numpy], fault)


@pytest.mark.parametrize("fault", OF_ONE, ids=lambda fault: fault.key)
def test_diff(modeled: Sandbox, fault: Fault) -> None:
    meets(modeled, "passport", ["diff", weights(modeled, 1), weights(modeled, 0)], fault)


def test_a_sound_model_matches_its_passport(modeled: Sandbox) -> None:
    ended = modeled.run("passport", "verify", weights(modeled), "--numpy", modeled.study.numpy)
    assert ended.status == 0, ended.said
    assert "matches its passport" in ended.said
