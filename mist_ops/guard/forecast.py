"""The Dice coefficient to expect of a mask, from the certainty of the networks and from what is unusual in the scan."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from mist_ops.guard.features import GROUPS, Group

COVERAGE = 0.9
"""Share of the masks whose Dice coefficient is within its interval."""

_RIDGE, _WIDTH = 0.1, 0.5
"""Strength of the penalty, and width of the kernel in standard deviations of an input."""

_MOST_UNUSUAL = 6.0
"""Beyond it, more standard deviations say no more about the mask."""

Rows = Float64[np.ndarray, "sample input"]
Inputs = Float64[np.ndarray, " input"]


@dataclass(frozen=True)
class Sample:
    """A scan with a true mask, predicted by a network that was not trained on it.

    Attributes:
        patient: Its id.
        damage: What was planted; empty for the scan as it is.
        novelty: How unusual the scan is in each group.
        unlike: Whether it is called unlike the training patients.
        certainty: Of each evaluated class, in [0, 1]; NaN if it is not predicted.
        dice: Of each evaluated class.
    """

    patient: str
    damage: str
    novelty: Mapping[Group, float]
    unlike: bool
    certainty: Mapping[str, float]
    dice: Mapping[str, float]


@dataclass(frozen=True)
class Interval:
    """Distances of the true Dice from the expected one: ``COVERAGE`` of the samples are between."""

    below: float
    above: float


@dataclass(frozen=True)
class Expected:
    """An expected Dice coefficient with its interval."""

    dice: float
    low: float
    high: float


@dataclass(frozen=True)
class Forecast:
    """Kernel ridge regression of the Dice of a class.

    Attributes:
        center: Mean of each input: certainty, whether the class is missing, and novelty in each group.
        scale: Standard deviation of each input.
        points: Standardized inputs of the samples.
        weights: Of the kernel at each sample.
        mean: Mean Dice of the samples.
        like: For scans like those of the training patients.
        unlike: For others.
    """

    center: tuple[float, ...]
    scale: tuple[float, ...]
    points: tuple[tuple[float, ...], ...]
    weights: tuple[float, ...]
    mean: float
    like: Interval
    unlike: Interval

    def expect(self, novelty: Mapping[Group, float], certainty: float, unlike: bool) -> Expected:
        """The expected Dice of a mask."""
        inputs = (_inputs(novelty, certainty) - self.center) / self.scale
        near = _kernel(inputs[None], np.asarray(self.points))[0]
        dice = float(np.clip(self.mean + near @ self.weights, 0, 1))
        interval = self.unlike if unlike else self.like
        low, high = np.clip([dice + interval.below, dice + interval.above], 0, 1).tolist()
        return Expected(dice, low, high)


def fit(samples: Sequence[Sample], name: str) -> Forecast:
    """Fit the model of a class; its intervals are those of patients that were excluded from the fit."""
    rows, dice = _table(samples, name)
    errors = dice - left_out_dice(samples, name)
    unlike = np.array([sample.unlike for sample in samples])
    center, scale = _scaling(rows)
    points = (rows - center) / scale
    return Forecast(
        tuple(center.tolist()),
        tuple(scale.tolist()),
        tuple(map(tuple, points.tolist())),
        tuple(_weights(points, dice).tolist()),
        float(dice.mean()),
        _interval(errors[~unlike], errors),
        _interval(errors[unlike], errors),
    )


def left_out_dice(samples: Sequence[Sample], name: str) -> Float64[np.ndarray, " sample"]:
    """The Dice expected of each sample by a model that was fitted without the samples of its patient."""
    rows, dice = _table(samples, name)
    ids = np.array([sample.patient for sample in samples])
    expected = np.empty(len(samples))
    for one in dict.fromkeys(ids.tolist()):
        others, known = rows[ids != one], dice[ids != one]
        center, scale = _scaling(others)
        points = (others - center) / scale
        near = _kernel((rows[ids == one] - center) / scale, points)
        expected[ids == one] = known.mean() + near @ _weights(points, known)
    return np.clip(expected, 0, 1)


def _table(samples: Sequence[Sample], name: str) -> tuple[Rows, Float64[np.ndarray, " sample"]]:
    rows = [_inputs(sample.novelty, sample.certainty[name]) for sample in samples]
    return np.array(rows), np.array([sample.dice[name] for sample in samples])


def _inputs(novelty: Mapping[Group, float], certainty: float) -> Inputs:
    missing = math.isnan(certainty)
    unusual = [min(max(novelty.get(group, 0.0), 0.0), _MOST_UNUSUAL) for group in GROUPS]
    return np.array([0.0 if missing else certainty, float(missing), *unusual])


def _scaling(rows: Rows) -> tuple[Inputs, Inputs]:
    return rows.mean(axis=0), np.maximum(rows.std(axis=0), 1e-3)


def _kernel(
    some: Float64[np.ndarray, "one input"], others: Float64[np.ndarray, "other input"]
) -> Float64[np.ndarray, "one other"]:
    """Likeness of standardized inputs: a Gaussian of their mean squared difference."""
    differences = np.square(some[:, None] - others[None]).mean(axis=-1)
    return np.asarray(np.exp(-differences / (2 * _WIDTH**2)))


def _weights(points: Rows, dice: np.ndarray) -> Float64[np.ndarray, " sample"]:
    likeness = _kernel(points, points) + _RIDGE * np.eye(len(points))
    return np.asarray(np.linalg.solve(likeness, dice - dice.mean()))


def _interval(errors: np.ndarray, otherwise: np.ndarray) -> Interval:
    """The interval of the errors, or of others if there are too few; a conformal one, so somewhat wider than theirs."""
    few = len(errors) < 2 / (1 - COVERAGE)
    chosen = np.sort(otherwise if few else errors)
    rank = math.floor((len(chosen) + 1) * (1 - COVERAGE) / 2)
    below, above = chosen[max(rank - 1, 0)], chosen[min(len(chosen) - rank, len(chosen) - 1)]
    return Interval(min(float(below), 0.0), max(float(above), 0.0))
