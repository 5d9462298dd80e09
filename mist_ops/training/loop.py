"""The epoch loop: what happens between two yields of ``train``.

It knows neither files nor devices nor configurations. The caller decides what an epoch means: write a checkpoint, draw
a progress bar, stop. A resumed run is one whose state does not begin at epoch 0; the loop cannot tell.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from statistics import fmean
from typing import TypeVar

from torch import Tensor, nn

from mist_ops.errors import DivergedError
from mist_ops.training.batches import Batch
from mist_ops.training.state import TrainingState

Item = TypeVar("Item")


@dataclass(frozen=True)
class Epoch:
    """What came of one epoch.

    Attributes:
        index: Number of the epoch, from 0.
        training_loss: Mean over its steps.
        validation_loss: Mean over the validation volumes.
        learning_rate: The rate its steps were taken with.
        improved: Whether its weights are the best so far.
        seconds: Wall time of training and validation together.
        waiting: Share of the training time spent waiting for batches, in [0, 1].
    """

    index: int
    training_loss: float
    validation_loss: float
    learning_rate: float
    improved: bool
    seconds: float
    waiting: float


def train(
    state: TrainingState,
    batches: Iterator[Batch],
    validate: Callable[[nn.Module], float],
    objective: Callable[[nn.Module, Batch], Tensor],
    *,
    epochs: int,
    steps: int,
    learning_rate: Callable[[int], float],
    grad_clip_norm: float,
    reseed: Callable[[int], None] = lambda epoch: None,
) -> Iterator[Epoch]:
    """Train from ``state.epoch`` on, until ``epochs`` are done; yields each epoch when the state is past it.

    Args:
        state: Changed in place.
        batches: Endless, or long enough for all the steps still to do.
        validate: Loss of a model on the validation volumes.
        objective: Loss of a model on a batch.
        epochs: Number of epochs of the whole run.
        steps: Optimizer steps of an epoch.
        learning_rate: Rate of an epoch.
        grad_clip_norm: Norm that a gradient is scaled down to.
        reseed: Called before each epoch, so that what draws from a global generator (dropout) depends on the
            epoch alone and not on how the run came to it.

    Raises:
        DivergedError: A loss or a gradient is not finite; the optimizer has not stepped with it.
    """
    while state.epoch < epochs:
        watch = Stopwatch()
        reseed(state.epoch)
        rate = set_learning_rate(state, learning_rate(state.epoch))
        epoch_batches = watch.waiting_for(islice(batches, steps))
        training_loss = fmean([training_step(state, batch, objective, grad_clip_norm) for batch in epoch_batches])
        waiting = watch.waited / watch.seconds
        validation_loss = validate(state.model)
        _check_finite(state, validation_loss, "the validation loss")
        improved = state.end_epoch(validation_loss)
        yield Epoch(state.epoch - 1, training_loss, validation_loss, rate, improved, watch.seconds, waiting)


def training_step(
    state: TrainingState, batch: Batch, objective: Callable[[nn.Module, Batch], Tensor], grad_clip_norm: float
) -> float:
    """Take one optimizer step and return the loss before it.

    Raises:
        DivergedError: The loss or its gradient is not finite; the weights are as they were.
    """
    state.model.train()
    state.optimizer.zero_grad()
    loss = objective(state.model, batch)
    loss.backward()  # type: ignore[no-untyped-call]
    norm = nn.utils.clip_grad_norm_(state.model.parameters(), grad_clip_norm)
    _check_finite(state, float(loss.detach() + norm), f"the loss on {', '.join(batch.cases)} or its gradient")
    state.optimizer.step()
    state.step += 1
    return float(loss.detach())


def set_learning_rate(state: TrainingState, rate: float) -> float:
    """Have the optimizer step with a rate from now on, and return it."""
    for group in state.optimizer.param_groups:
        group["lr"] = rate
    return rate


def _check_finite(state: TrainingState, value: float, what: str) -> None:
    if not math.isfinite(value):
        raise DivergedError(
            f"Fold {state.fold}, epoch {state.epoch}, step {state.step}: {what} is not finite. "
            "The weights and the checkpoint of the last epoch are kept. Lower the learning rate and resume."
        )


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
