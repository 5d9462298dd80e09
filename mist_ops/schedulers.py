"""How the learning rate falls over the epochs, as plain numbers: a rate follows from the epoch alone.

So a resumed run with more epochs or another rate takes its place on the new curve at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeAlias

from mist_ops.registry import SCHEDULERS

Schedule: TypeAlias = Callable[[float], float]
"""Maps progress from 0 to 1 after the warmup to a factor on the learning rate."""

_WARMUP_START = 0.01
_POWER = 0.9


@SCHEDULERS.register("constant")
def constant(progress: float) -> float:
    """Always 1."""
    return 1.0


@SCHEDULERS.register("cosine")
def cosine(progress: float) -> float:
    """Half a cosine from 1 to 0 (Loshchilov and Hutter, ICLR 2017, without restarts)."""
    return 0.5 * (1.0 + math.cos(math.pi * progress))


@SCHEDULERS.register("polynomial")
def polynomial(progress: float) -> float:
    """From 1 to 0 with exponent 0.9 (Chen et al., TPAMI 2018)."""
    return float((1.0 - progress) ** _POWER)


def learning_rate(schedule: str, epoch: int, epochs: int, warmup: int, base: float) -> float:
    """The learning rate of an epoch.

    Args:
        schedule: Name in ``SCHEDULERS``.
        epoch: Index of the epoch, from 0.
        epochs: Epochs of the whole run.
        warmup: Epochs in which the rate rises linearly from 1 % of ``base``; the schedule spans those that follow.
        base: Highest learning rate.

    Raises:
        ConfigError: There is no such schedule.
        ValueError: The warmup leaves no epoch, or the epoch lies outside the run.
    """
    if not 0 <= warmup < epochs:
        raise ValueError(f"Warmup must take fewer epochs than the run, found {warmup} of {epochs}.")
    if not 0 <= epoch < epochs:
        raise ValueError(f"A run of {epochs} epochs has no epoch {epoch}.")
    if epoch < warmup:
        return base * (_WARMUP_START + (1.0 - _WARMUP_START) * epoch / warmup)
    return base * SCHEDULERS[schedule]((epoch - warmup) / (epochs - warmup))
