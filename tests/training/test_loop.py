from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterator

import pytest
import torch
from expect import refuses
from torch import Tensor, nn

from mist_ops.errors import DivergedError
from mist_ops.records.passport import Epoch
from mist_ops.training.batches import Batch
from mist_ops.training.loop import STEPS_PER_FETCH, Step, TrainingSchedule, losses, train
from mist_ops.training.state import TrainingState

BATCH = Batch(("p1", "p2"), torch.ones((2, 1, 2, 2, 2)), torch.zeros((2, 1, 2, 2, 2), dtype=torch.uint8), None)


def fresh_state() -> TrainingState:
    model = nn.Linear(1, 1)
    nn.init.ones_(model.weight)
    return TrainingState(3, model, torch.optim.SGD(model.parameters(), lr=1.0))


def size_of_weight(model: nn.Module) -> Tensor:
    return next(model.parameters()).square().sum()


def run(
    state: TrainingState,
    validation: Iterator[float],
    loss: Callable[[nn.Module], Tensor] = size_of_weight,
    steps: int = 2,
    alpha: Callable[[int], float | None] = lambda epoch: None,
    average: Callable[[float], float] = lambda loss: loss,
    validation_every: int = 1,
) -> Iterator[Epoch]:
    return train(
        state,
        itertools.repeat(BATCH),
        lambda model: next(validation),
        lambda batch, alpha: loss(state.model) * (1.0 if alpha is None else alpha),
        TrainingSchedule(3, steps, lambda epoch: 0.1 / (epoch + 1), 1.0, alpha, validation_every),
        average=average,
    )


def test_an_epoch_has_its_learning_rate_and_whether_it_improved() -> None:
    epochs = list(run(fresh_state(), iter([0.5, 0.7, 0.4])))
    assert [(epoch.index, epoch.validation_loss, epoch.improved) for epoch in epochs] == [
        (0, 0.5, True),
        (1, 0.7, False),
        (2, 0.4, True),
    ]
    assert [epoch.learning_rate for epoch in epochs] == pytest.approx([0.1, 0.05, 0.1 / 3])


@pytest.mark.parametrize("every, losses", [(2, [0.5, None, 0.7]), (3, [0.5, None, 0.7]), (1, [0.5, 0.7, 0.4])])
def test_the_first_and_the_last_epoch_are_validated_and_every_nth(every: int, losses: list[float | None]) -> None:
    epochs = list(run(fresh_state(), iter([0.5, 0.7, 0.4]), validation_every=every))
    assert [epoch.validation_loss for epoch in epochs] == losses
    assert not any(epoch.improved for epoch in epochs if epoch.validation_loss is None)


def test_validating_is_a_share_of_the_epoch() -> None:
    def slow() -> Iterator[float]:
        for _ in range(3):
            time.sleep(0.05)
            yield 0.5

    epochs = list(run(fresh_state(), slow(), validation_every=2))
    assert [epoch.validating > 0.5 for epoch in epochs] == [True, False, True]


def test_a_gradient_is_clipped_to_its_norm() -> None:
    state = fresh_state()
    next(run(state, iter([0.5]), steps=1))
    assert state.model.state_dict()["weight"].item() == pytest.approx(1.0 - 0.1)


def test_the_best_weights_are_kept_while_training_continues() -> None:
    state = fresh_state()
    epochs = run(state, iter([0.5, 0.7, 0.8]))
    next(epochs)
    best = state.model.state_dict()["weight"].clone()
    assert len(list(epochs)) == 2
    assert state.best_weights["weight"].equal(best)
    assert not state.model.state_dict()["weight"].equal(best)


def test_a_loss_that_is_not_finite_stops_training_before_its_step() -> None:
    state = fresh_state()

    def third_is_bad(model: nn.Module) -> Tensor:
        return size_of_weight(model) * (math.nan if state.step == 3 else 1.0)

    epochs = run(state, itertools.repeat(0.5), third_is_bad)
    next(epochs)
    with refuses("loss-not-finite", DivergedError, names="Fold 3, epoch 2, step 3: the loss on p1, p2"):
        next(epochs)
    assert state.step == 3
    assert all(parameter.isfinite().all() for parameter in state.model.parameters())


def test_a_gradient_that_is_not_finite_stops_training() -> None:
    with pytest.raises(DivergedError):
        next(run(fresh_state(), iter([0.5]), lambda model: (next(model.parameters()) - 1.0).sqrt().sum()))


def test_a_validation_loss_that_is_not_finite_stops_training() -> None:
    with refuses("loss-not-finite", DivergedError, names="epoch 1, step 2: the validation loss"):
        next(run(fresh_state(), iter([math.nan])))


def test_a_state_past_the_last_epoch_is_not_trained() -> None:
    state = fresh_state()
    state.epoch = 3
    assert list(run(state, iter(()))) == []


def test_waiting_is_a_fraction() -> None:
    assert all(0.0 <= epoch.waiting <= 1.0 for epoch in run(fresh_state(), itertools.repeat(0.5)))


def test_each_epoch_has_its_own_alpha() -> None:
    epochs = list(run(fresh_state(), itertools.repeat(0.5), steps=1, alpha=lambda epoch: 0.25 * epoch))
    assert [epoch.alpha for epoch in epochs] == [0.0, 0.25, 0.5]
    assert epochs[0].training_loss == 0.0
    assert epochs[1].training_loss == 0.25


def test_a_training_loss_is_averaged_over_processes() -> None:
    assert next(run(fresh_state(), iter([0.5]), steps=1, average=lambda loss: loss + 1.0)).training_loss == 2.0


def test_losses_on_the_device_are_checked_when_they_are_fetched() -> None:
    values = [*range(STEPS_PER_FETCH), math.inf]
    steps = (Step(number, ("p1",), torch.tensor(float(value)), torch.ones(())) for number, value in enumerate(values))
    fetched = losses(fresh_state(), steps)
    assert [next(fetched) for _ in range(STEPS_PER_FETCH)] == values[:-1]
    with refuses("loss-not-finite", DivergedError, names=f"step {STEPS_PER_FETCH}: the loss on p1", found=math.inf):
        next(fetched)
