from __future__ import annotations

import subprocess
import sys

import pytest
from expect import refuses

from mist_ops import registry
from mist_ops.errors import ConfigError
from mist_ops.registry import LOSSES, METRICS, MODELS, Registry, UnknownName

ALL = [entry for entry in vars(registry).values() if isinstance(entry, Registry)]


def _greetings() -> Registry[str]:
    greetings: Registry[str] = Registry("greeting", home="mist_ops.errors")
    for name in ("hello", "goodbye"):
        greetings.register(name)(name.upper())
    return greetings


def test_names_are_sorted_and_looked_up() -> None:
    greetings = _greetings()
    assert list(greetings) == ["goodbye", "hello"]
    assert greetings["hello"] == "HELLO"
    assert "hallo" not in greetings
    assert len(greetings) == 2


def test_an_unknown_name_is_refused_with_a_guess_and_all_known_names() -> None:
    sentence = "Unknown greeting 'helo'. Did you mean 'hello'? Known: goodbye, hello."  # pinned
    with refuses("unknown-greeting", UnknownName, names=sentence, found="helo", expected=["goodbye", "hello"]):
        _greetings()["helo"]


def test_an_unknown_name_is_a_config_error_and_a_failed_lookup() -> None:
    greetings = _greetings()
    assert greetings.get("nothing like it") is None
    with refuses("unknown-greeting", ConfigError):
        greetings["nothing like it"]


def test_a_name_can_be_registered_once() -> None:
    with pytest.raises(ValueError, match="'hello' is registered twice"):
        _greetings().register("hello")("again")


@pytest.mark.parametrize("parts", ALL, ids=lambda parts: parts.kind)
def test_names_read_from_the_source_are_those_of_the_entries(parts: Registry[object]) -> None:
    code = f"from mist_ops import registry; print(*registry.{_variable(parts)}.builtin_names())"
    listed = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert listed.split() == list(parts)


def test_what_losses_need_is_read_without_torch() -> None:
    code = (
        "import sys; from mist_ops.registry import LOSSES; names = LOSSES.builtin_names();"
        "print(*(f'{name} {sorted(LOSSES.declared(name, \"needs\", set()))}' for name in names), sep='\\n');"
        "assert 'torch' not in sys.modules"
    )
    listed = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert listed.splitlines() == [f"{name} {sorted(loss.needs)}" for name, loss in LOSSES.items()]


def test_a_field_that_the_source_does_not_give_is_that_of_the_entry() -> None:
    assert MODELS.declared("nnunet", "topology", None) == MODELS["nnunet"].topology
    with refuses("unknown-loss", UnknownName, found="nothing"):
        LOSSES.declared("nothing", "needs", set())


def _variable(parts: Registry[object]) -> str:
    return next(name for name, value in vars(registry).items() if value is parts)


@pytest.mark.parametrize("parts", ALL, ids=lambda parts: parts.kind)
def test_every_registry_has_entries(parts: Registry[object]) -> None:
    assert len(parts) > 0


def test_the_default_entries_exist() -> None:
    assert {"nnunet", "nnunet-pocket"} <= set(MODELS)
    assert {"dice", "dice_ce"} <= set(LOSSES)
    assert {"dice", "haus95"} <= set(METRICS)


def test_looking_up_models_and_metrics_does_not_import_torch() -> None:
    code = "import sys; from mist_ops.registry import *; list(MODELS), list(METRICS); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
