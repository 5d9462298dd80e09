"""Ensembles of class probabilities."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from mist_ops.registry import PROBABILITY_ENSEMBLERS
from mist_ops.types import Image


def mean(volumes: Iterable[Image]) -> Image:
    """Mean of one or more volumes, accumulated in float64."""
    total, count = None, 0
    for volume in volumes:
        total = volume.astype(np.float64) if total is None else total + volume
        count += 1
    if total is None:
        raise ValueError("A mean needs at least one volume.")
    averaged: Image = (total / count).astype(np.float32)
    return averaged


PROBABILITY_ENSEMBLERS.register("mean")(mean)
