"""Probabilities that several models give to a class, to one."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from mist_ops.registry import PROBABILITY_ENSEMBLERS
from mist_ops.types import Image


def mean(volumes: Iterable[Image]) -> Image:
    """The mean of one or more volumes, added up in float64."""
    total, count = None, 0
    for volume in volumes:
        total = volume.astype(np.float64) if total is None else total + volume
        count += 1
    if total is None:
        raise ValueError("there is no volume to average")
    averaged: Image = (total / count).astype(np.float32)
    return averaged


PROBABILITY_ENSEMBLERS.register("mean")(mean)
