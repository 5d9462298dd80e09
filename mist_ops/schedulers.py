"""Learning rate schedules. A rate depends only on the epoch and the length of the run.

A resumed run with more epochs or another base rate therefore continues on the new curve.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeAlias

from mist_ops.registry import SCHEDULERS

Schedule: TypeAlias = Callable[[float], float]
"""Maps progress after the warmup, from 0 to 1, to a factor of the learning rate."""

_WARMUP_START = 0.01
_POWER = 0.9


@SCHEDULERS.register("constant")
def constant(progress: float) -> float:
    """Constant 1."""
    return 1.0


@SCHEDULERS.register("cosine")
def cosine(progress: float) -> float:
    """Cosine annealing from 1 to 0 without restarts (Loshchilov and Hutter, ICLR 2017)."""
    return 0.5 * (1.0 + math.cos(math.pi * progress))


@SCHEDULERS.register("polynomial")
def polynomial(progress: float) -> float:
    """Polynomial decay from 1 to 0 with exponent 0.9 (Chen et al., TPAMI 2018)."""
    return float((1.0 - progress) ** _POWER)


def learning_rate(schedule: str, epoch: int, epochs: int, warmup: int, base: float) -> float:
    """Return the learning rate of an epoch.

    Args:
        schedule: Name in ``SCHEDULERS``.
        epoch: Index of the epoch, from 0.
        epochs: Epochs of the whole run.
        warmup: Epochs of linear warmup from 1 % of ``base``; the schedule covers the epochs after it.
        base: Highest learning rate.

    Raises:
        ConfigError: The schedule is unknown.
        ValueError: The warmup is as long as the run, or the epoch is outside the run.
    """
    if not 0 <= warmup < epochs:
        raise ValueError(f"Warmup must have fewer epochs than the run; got {warmup} of {epochs}.")
    if not 0 <= epoch < epochs:
        raise ValueError(f"Epoch {epoch} is outside a run of {epochs} epochs.")
    if epoch < warmup:
        return base * (_WARMUP_START + (1.0 - _WARMUP_START) * epoch / warmup)
    return base * SCHEDULERS[schedule]((epoch - warmup) / (epochs - warmup))
