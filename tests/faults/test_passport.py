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
    """A sandbox with the models of a study, and what they were made from."""
    shutil.copytree(sound / "results" / "models", preprocessed.study.models)
    return preprocessed


def swapped(box: Sandbox) -> None:
    shutil.copy(passport(box, 1), passport(box, 0))


def holding(content: str) -> Callable[[Sandbox], None]:
    return lambda box: fill(passport(box), content)


refused = partial(Fault, touches=False)

OF_ONE = [
    refused(
        "passport/missing",
        "a model without a passport",
        lambda box: remove(passport(box)),
        "fold_0.pt has no passport",
    ),
    refused("passport/truncated", "a passport that is cut short", lambda box: cut_short(passport(box)), "is damaged"),
    refused("passport/empty", "a passport of no bytes", holding(""), "is damaged"),
    refused("passport/a-list", "a passport that is a list", holding("[]"), "is damaged"),
    refused("passport/of-something-else", "another JSON in its place", holding('{"labels": [0]}'), "is damaged"),
    refused(
        "passport/best-epoch-beyond",
        "a passport whose best epoch does not exist",
        lambda box: edit_json(passport(box), best_epoch=99),
        "is damaged",
    ),
]
OF_VERIFY = [
    refused(
        "passport/of-another",
        "the passport of another fold",
        swapped,
        "are not those that the passport was written for",
    ),
    refused(
        "passport/weights-missing", "weights that are gone", lambda box: remove(weights(box)), "fold_0.pt are gone"
    ),
    refused(
        "passport/weights-truncated",
        "weights that are cut short",
        lambda box: cut_short(weights(box)),
        "are not those that the passport was written for",
    ),
    refused(
        "passport/arrays-gone",
        "the arrays of all patients gone",
        lambda box: remove(box.study.numpy),
        "are gone",
        again=False,
    ),
    refused(
        "passport/config-missing",
        "a config.json that is gone",
        lambda box: remove(box.study.config),
        "config.json is gone",
    ),
    refused(
        "passport/config-broken",
        "a config.json that is cut short",
        lambda box: cut_short(box.study.config),
        "config.json cannot be read as JSON",
    ),
    refused(
        "passport/settings-changed",
        "a setting of training that was changed",
        lambda box: edit_text(box.study.config, lambda text: text.replace('"epochs": 1', '"epochs": 7')),
        "training.epochs was 1 and is 7",
    ),
    refused(
        "passport/settings-of-another-version",
        "a passport with settings that are none",
        lambda box: edit_json(passport(box), config={"model": 1}),
        "cannot be compared",
    ),
]
FAULTS = [*OF_ONE, *OF_VERIFY]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.key)
def test_verify(modeled: Sandbox, fault: Fault) -> None:
    meets(modeled, "passport", ["verify", weights(modeled), "--numpy", modeled.study.numpy], fault)


@pytest.mark.parametrize("fault", OF_ONE, ids=lambda fault: fault.key)
def test_diff(modeled: Sandbox, fault: Fault) -> None:
    meets(modeled, "passport", ["diff", weights(modeled, 1), weights(modeled, 0)], fault)


def test_a_sound_model_holds(modeled: Sandbox) -> None:
    ended = modeled.run("passport", "verify", weights(modeled), "--numpy", modeled.study.numpy)
    assert ended.status == 0, ended.said
    assert "All holds" in ended.said
