"""The epoch loop: everything between two yields of ``train``.

It does not depend on files, devices or the configuration. The caller decides what to do with an epoch: write a
checkpoint, update a progress bar, stop. A resumed run is one whose state does not start at epoch 0.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
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
"""Steps whose losses are copied from a GPU at once, since each copy waits for all queued work."""


@dataclass(frozen=True)
class TrainingSchedule:
    """The length of a run, and what depends on the epoch.

    Attributes:
        epochs: Epochs of the whole run.
        steps: Optimizer steps of an epoch.
        learning_rate: Learning rate of an epoch.
        grad_clip_norm: Largest norm of the gradient.
        alpha: Weight of the second loss in a blended one, by epoch; None for other losses.
        validation_every: Validate after the first and every n-th epoch from there, and after the last one.
    """

    epochs: int
    steps: int
    learning_rate: Callable[[int], float]
    grad_clip_norm: float
    alpha: Callable[[int], float | None] = lambda epoch: None
    validation_every: int = 1

    def validates(self, epoch: int) -> bool:
        """Whether to validate after an epoch."""
        return epoch % self.validation_every == 0 or epoch == self.epochs - 1


class Step(NamedTuple):
    """Result of one optimizer step, on the device: the loss before it and the norm of its gradient."""

    number: int
    cases: tuple[str, ...]
    loss: Tensor
    norm: Tensor


def train(
    state: TrainingState,
    batches: Iterator[Batch],
    validate: Callable[[nn.Module], float],
    objective: Callable[[Batch, float | None], Tensor],
    schedule: TrainingSchedule,
    *,
    reseed: Callable[[int], None] = lambda epoch: None,
    average: Callable[[float], float] = lambda loss: loss,
) -> Iterator[Epoch]:
    """Train from ``state.epoch`` on, and yield each epoch after updating the state.

    Args:
        state: Changed in place.
        batches: At least as many as there are steps left.
        validate: Returns the loss of a model on the validation volumes.
        objective: Returns the loss of the model on a batch, given the epoch's alpha.
        schedule: Epochs, steps and learning rates.
        reseed: Called before each epoch, so that draws from a global generator (dropout) depend on the epoch alone.
        average: Returns the mean of a training loss over all processes that train together.

    Raises:
        DivergedError: A loss or gradient is not finite. On a CPU the weights are unchanged; on a GPU they may not be,
            but the epoch is not yielded, so they are never written.
    """
    while state.epoch < schedule.epochs:
        watch = Stopwatch()
        reseed(state.epoch)
        rate, alpha = set_learning_rate(state, schedule.learning_rate(state.epoch)), schedule.alpha(state.epoch)
        state.model.train()
        epoch_batches = watch.waiting_for(islice(batches, schedule.steps))
        steps = (training_step(state, batch, objective, alpha, schedule.grad_clip_norm) for batch in epoch_batches)
        training_loss = average(fmean(losses(state, steps)))
        trained = watch.seconds
        validation_loss = _validated(state, validate) if schedule.validates(state.epoch) else None
        improved = state.end_epoch(validation_loss)
        yield Epoch(
            index=state.epoch - 1,
            training_loss=training_loss,
            validation_loss=validation_loss,
            learning_rate=rate,
            improved=improved,
            seconds=watch.seconds,
            waiting=watch.waited / trained,
            alpha=alpha,
            validating=1.0 - trained / watch.seconds,
        )


def _validated(state: TrainingState, validate: Callable[[nn.Module], float]) -> float:
    loss = validate(state.model)
    _check_finite(state, state.step, loss, "the validation loss")
    return loss


def training_step(
    state: TrainingState,
    batch: Batch,
    objective: Callable[[Batch, float | None], Tensor],
    alpha: float | None,
    grad_clip_norm: float,
) -> Step:
    """Take one optimizer step with a model in training mode.

    Raises:
        DivergedError: On a CPU, the loss or its gradient is not finite; the weights are unchanged.
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
    """Yield the losses of steps, copied from the device many at once.

    Raises:
        DivergedError: The loss or the gradient of a step was not finite.
    """
    steps = iter(steps)
    while together := list(islice(steps, STEPS_PER_FETCH)):
        values = torch.stack([torch.stack((step.loss, step.norm)) for step in together]).tolist()
        for step, (loss, norm) in zip(together, values, strict=True):
            _check_step(state, step, loss, norm)
            yield loss


def set_learning_rate(state: TrainingState, rate: float) -> float:
    """Set the learning rate of the optimizer, and return it."""
    for group in state.optimizer.param_groups:
        group["lr"] = rate
    return rate


def _check_step(state: TrainingState, step: Step, loss: float, norm: float) -> None:
    _check_finite(state, step.number, loss + norm, f"the loss on {', '.join(step.cases)} or its gradient")


def _check_finite(state: TrainingState, step: int, value: float, what: str) -> None:
    if not math.isfinite(value):
        advice = (
            "The checkpoint of the last epoch and the best weights are kept. Lower --learning-rate and resume."
            if state.epoch
            else "No epoch was finished. Lower --learning-rate and train the fold again."
        )
        raise DivergedError(
            f"Fold {state.fold}, epoch {state.epoch + 1}, step {step}: {what} is not finite. {advice}",
            code="loss-not-finite",
            found=value,
        )


class Stopwatch:
    """Wall time since creation, and the part of it spent waiting for items."""

    def __init__(self) -> None:
        self._started = time.perf_counter()
        self.waited = 0.0

    @property
    def seconds(self) -> float:
        """Seconds since creation."""
        return time.perf_counter() - self._started

    def waiting_for(self, items: Iterator[Item]) -> Iterator[Item]:
        """Yield the items, and add up the time until each arrives."""
        while True:
            started = time.perf_counter()
            item = next(items, None)
            self.waited += time.perf_counter() - started
            if item is None:
                return
            yield item
