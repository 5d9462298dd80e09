"""Learning rates compared with the reference."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mist_ops.schedulers import learning_rate


@pytest.mark.parametrize(
    "schedule, warmup, expected",
    [
        ("cosine", 0, [1, 0.975528, 0.904508, 0.793893, 0.654508, 0.5, 0.345492, 0.206107, 0.0954915, 0.0244717]),
        ("cosine", 3, [0.01, 0.34, 0.67, 1, 0.950484, 0.811745, 0.61126, 0.38874, 0.188255, 0.0495156]),
        ("polynomial", 0, [1, 0.909533, 0.818052, 0.725418, 0.631446, 0.535887, 0.438383, 0.338383, 0.234924, .125893]),
        ("polynomial", 3, [0.01, 0.34, 0.67, 1, 0.870458, 0.738728, 0.604318, 0.466467, 0.323846, 0.173545]),
        ("constant", 3, [0.01, 0.34, 0.67, 1, 1, 1, 1, 1, 1, 1]),
    ],
)  # fmt: skip
def test_rates_equal_those_of_the_reference(schedule: str, warmup: int, expected: list[float]) -> None:
    rates = [learning_rate(schedule, epoch, epochs=10, warmup=warmup, base=1e-3) for epoch in range(10)]
    assert rates == pytest.approx([1e-3 * factor for factor in expected], rel=1e-5)


@pytest.mark.parametrize("schedule", ["constant", "cosine", "polynomial"])
@given(epochs=st.integers(1, 2000), data=st.data())
def test_a_rate_is_positive_and_at_most_the_base_rate(schedule: str, epochs: int, data: st.DataObject) -> None:
    epoch, warmup = data.draw(st.integers(0, epochs - 1)), data.draw(st.integers(0, epochs - 1))
    assert 0.0 < learning_rate(schedule, epoch, epochs, warmup, base=0.5) <= 0.5


def test_a_run_that_is_made_longer_continues_on_the_new_curve() -> None:
    assert learning_rate("cosine", 5, epochs=10, warmup=0, base=1e-3) == pytest.approx(5e-4)
    assert learning_rate("cosine", 10, epochs=20, warmup=0, base=5e-3) == pytest.approx(2.5e-3)


@pytest.mark.parametrize("warmup", [-1, 10, 11])
def test_a_warmup_as_long_as_the_run_is_refused(warmup: int) -> None:
    with pytest.raises(ValueError, match="fewer epochs"):
        learning_rate("cosine", 0, epochs=10, warmup=warmup, base=1e-3)
