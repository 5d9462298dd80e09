"""Schedules of the weight of a composite loss."""

from __future__ import annotations

import pytest
from expect import refuses

from mist_ops.errors import ConfigError
from mist_ops.losses.blending import alpha, completed, weighting


def over(epochs: int, name: str, **params: float) -> list[float]:
    entry = {"name": name, "params": params}
    return [alpha(entry, epoch, epochs) for epoch in range(epochs)]


def test_without_a_schedule_both_terms_have_equal_weight() -> None:
    assert [alpha(None, epoch, 3) for epoch in range(3)] == [0.5, 0.5, 0.5]


def test_a_constant_weight_does_not_change() -> None:
    assert over(3, "constant", value=0.3) == [0.3, 0.3, 0.3]


def test_a_pause_of_five_holds_five_epochs_and_the_last_has_the_end_value() -> None:
    values = over(20, "linear")
    assert values[:5] == [1.0] * 5
    assert values[5] == pytest.approx(14 / 15)
    assert values[-1] == 0.0
    assert values[4:] == pytest.approx([1 - step / 15 for step in range(16)])


def test_curves_equal_those_of_the_reference_which_pauses_one_epoch_longer() -> None:
    linear, cosine = (over(20, name, init_pause=6) for name in ("linear", "cosine"))
    assert linear[5:9] == pytest.approx([1, 0.92857, 0.85714, 0.78571], abs=1e-5)
    assert cosine[6:9] == pytest.approx([0.98746, 0.95048, 0.89092], abs=1e-5)
    assert cosine[12] == pytest.approx(0.5)
    assert cosine[19] == pytest.approx(0.0)


@pytest.mark.parametrize("name", ["linear", "cosine"])
@pytest.mark.parametrize("epochs", [2, 3, 5, 6])
def test_a_short_run_also_ends_with_the_second_term(name: str, epochs: int) -> None:
    values = over(epochs, name)
    assert values[0] == 1.0
    assert values[-1] == pytest.approx(0.0)


def test_a_run_of_one_epoch_has_the_start_value() -> None:
    assert over(1, "linear") == [1.0]


def test_missing_parameters_get_their_defaults() -> None:
    assert weighting("cosine") == {"name": "cosine", "params": {"init_pause": 5, "start_val": 1.0, "end_val": 0.0}}
    assert completed({"name": "linear", "params": {"init_pause": 2}})["params"]["start_val"] == 1.0


@pytest.mark.parametrize(
    "entry, code, names",
    [
        ({"name": "cosin"}, "unknown-composite-loss-weighting", "Did you mean 'cosine'"),
        ({"name": "linear", "params": {"pause": 3}}, "unknown-parameter", "init_pause, start_val, end_val"),
        ({"name": "linear", "params": {"init_pause": -1}}, "config-invalid", "init_pause"),
        ({"name": "constant", "params": {"value": 1.5}}, "config-invalid", "1.5"),
        ({"name": "constant", "params": {"value": True}}, "config-invalid", "True"),
        ({"name": "constant", "params": {"value": "0.5"}}, "config-invalid", "'0.5'"),
        ({"name": "constant", "params": {"value": float("nan")}}, "config-invalid", "nan"),
        ({"name": "linear", "params": {"init_pause": 2.5}}, "config-invalid", "init_pause"),
        ({"name": "linear", "params": [1]}, "config-invalid", "[1]"),
        ({"name": ["linear"]}, "unknown-composite-loss-weighting", "linear"),
        ({"params": {}}, "config-invalid", "name"),
        ({}, "config-invalid", "name"),
    ],
)
def test_an_invalid_schedule_is_refused(entry: dict[str, object], code: str, names: str) -> None:
    with refuses(code, ConfigError, names=names):
        completed(entry)
