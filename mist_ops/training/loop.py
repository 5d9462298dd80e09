"""The epoch loop: what happens between two yields of ``train``.

It knows neither files nor devices nor configurations. The caller decides what an epoch means: write a checkpoint, draw
a progress bar, stop. A resumed run is one whose state does not begin at epoch 0; the loop cannot tell.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from statistics import fmean
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from mist_ops.errors import DivergedError
from mist_ops.records.passport import Epoch
from mist_ops.training.batches import Batch
from mist_ops.training.state import TrainingState

Item = TypeVar("Item")

STEPS_PER_FETCH = 50
"""Steps whose losses are fetched from a GPU at once. Each fetch waits for all that the GPU still has to do."""


class Step(NamedTuple):
    """What came of one optimizer step, on the device: the loss before it and the norm of its gradient."""

    number: int
    cases: tuple[str, ...]
    loss: Tensor
    norm: Tensor


def train(
    state: TrainingState,
    batches: Iterator[Batch],
    validate: Callable[[nn.Module], float],
    objective: Callable[[Batch, float | None], Tensor],
    *,
    epochs: int,
    steps: int,
    learning_rate: Callable[[int], float],
    grad_clip_norm: float,
    alpha: Callable[[int], float | None] = lambda epoch: None,
    reseed: Callable[[int], None] = lambda epoch: None,
    average: Callable[[float], float] = lambda loss: loss,
) -> Iterator[Epoch]:
    """Train from ``state.epoch`` on, until ``epochs`` are done; yields each epoch when the state is past it.

    Args:
        state: Changed in place.
        batches: Endless, or long enough for all the steps still to do.
        validate: Loss of a model on the validation volumes.
        objective: Loss of the model on a batch, given the epoch's alpha.
        epochs: Number of epochs of the whole run.
        steps: Optimizer steps of an epoch.
        learning_rate: Rate of an epoch.
        grad_clip_norm: Norm that a gradient is scaled down to.
        alpha: Blend of an epoch.
        reseed: Called before each epoch, so that what draws from a global generator (dropout) depends on the
            epoch alone and not on how the run came to it.
        average: Mean of the training losses of all processes that train together.

    Raises:
        DivergedError: A loss or a gradient is not finite. On a CPU the optimizer has not stepped with it; on a GPU it
            may have, but the epoch is not yielded, so that its weights are written nowhere.
    """
    while state.epoch < epochs:
        watch = Stopwatch()
        reseed(state.epoch)
        rate, blend = set_learning_rate(state, learning_rate(state.epoch)), alpha(state.epoch)
        state.model.train()
        epoch_batches = watch.waiting_for(islice(batches, steps))
        taken = (training_step(state, batch, objective, blend, grad_clip_norm) for batch in epoch_batches)
        training_loss = average(fmean(losses(state, taken)))
        waiting = watch.waited / watch.seconds
        validation_loss = validate(state.model)
        _check_finite(state, state.step, validation_loss, "the validation loss")
        improved = state.end_epoch(validation_loss)
        yield Epoch(state.epoch - 1, training_loss, validation_loss, rate, improved, watch.seconds, waiting, blend)


def training_step(
    state: TrainingState,
    batch: Batch,
    objective: Callable[[Batch, float | None], Tensor],
    alpha: float | None,
    grad_clip_norm: float,
) -> Step:
    """Take one optimizer step with a model in training mode.

    Raises:
        DivergedError: On a CPU, the loss or its gradient is not finite; the weights are as they were.
    """
    state.optimizer.zero_grad(set_to_none=True)
    loss = objective(batch, alpha)
    loss.backward()  # type: ignore[no-untyped-call]
    norm = nn.utils.clip_grad_norm_(state.model.parameters(), grad_clip_norm)
    step = Step(state.step, batch.cases, loss.detach(), norm)
    if loss.device.type == "cpu":
        _check_step(state, step, float(step.loss), float(norm))
    state.optimizer.step()
    state.step += 1
    return step


def losses(state: TrainingState, steps: Iterable[Step]) -> Iterator[float]:
    """The losses of steps, many of them fetched from the device at once.

    Raises:
        DivergedError: The loss or the gradient of a step was not finite.
    """
    steps = iter(steps)
    while together := list(islice(steps, STEPS_PER_FETCH)):
        fetched = torch.stack([torch.stack((step.loss, step.norm)) for step in together]).tolist()
        for step, (loss, norm) in zip(together, fetched, strict=True):
            _check_step(state, step, loss, norm)
            yield loss


def set_learning_rate(state: TrainingState, rate: float) -> float:
    """Have the optimizer step with a rate from now on, and return it."""
    for group in state.optimizer.param_groups:
        group["lr"] = rate
    return rate


def _check_step(state: TrainingState, step: Step, loss: float, norm: float) -> None:
    _check_finite(state, step.number, loss + norm, f"the loss on {', '.join(step.cases)} or its gradient")


def _check_finite(state: TrainingState, step: int, value: float, what: str) -> None:
    if not math.isfinite(value):
        advice = (
            "The checkpoint of the last epoch and the best weights are kept. Lower the learning rate and resume."
            if state.epoch
            else "No epoch was finished. Lower the learning rate and train the fold again."
        )
        raise DivergedError(f"Fold {state.fold}, epoch {state.epoch}, step {step}: {what} is not finite. {advice}")


class Stopwatch:
    """Wall time since it was made, and how much of it was spent waiting for items."""

    def __init__(self) -> None:
        self._began = time.perf_counter()
        self.waited = 0.0

    @property
    def seconds(self) -> float:
        """Seconds since it was made."""
        return time.perf_counter() - self._began

    def waiting_for(self, items: Iterator[Item]) -> Iterator[Item]:
        """Pass the items on, timing how long each is waited for."""
        while True:
            asked = time.perf_counter()
            item = next(items, None)
            self.waited += time.perf_counter() - asked
            if item is None:
                return
            yield item
