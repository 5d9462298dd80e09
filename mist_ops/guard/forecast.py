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

_RIDGE = 1.0
_MOST_UNUSUAL = 6.0
"""Beyond it, more standard deviations say no more about the mask."""

Rows = Float64[np.ndarray, "sample input"]


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
    """A linear model of the Dice of a class.

    Attributes:
        weights: Of one, certainty, whether the class is missing, and novelty in each group.
        like: For scans like those of the training patients.
        unlike: For others.
    """

    weights: tuple[float, ...]
    like: Interval
    unlike: Interval

    def expect(self, novelty: Mapping[Group, float], certainty: float, unlike: bool) -> Expected:
        """The expected Dice of a mask."""
        dice = float(np.clip(_inputs(novelty, certainty) @ self.weights, 0, 1))
        interval = self.unlike if unlike else self.like
        low, high = np.clip([dice + interval.below, dice + interval.above], 0, 1).tolist()
        return Expected(dice, low, high)


def fit(samples: Sequence[Sample], name: str) -> Forecast:
    """Fit the model of a class; its intervals are those of patients that were excluded from the fit."""
    rows, dice = _table(samples, name)
    errors = dice - left_out_dice(samples, name)
    unlike = np.array([sample.unlike for sample in samples])
    return Forecast(
        tuple(_ridge(rows, dice).tolist()), _interval(errors[~unlike], errors), _interval(errors[unlike], errors)
    )


def left_out_dice(samples: Sequence[Sample], name: str) -> Float64[np.ndarray, " sample"]:
    """The Dice expected of each sample by a model that was fitted without the samples of its patient."""
    rows, dice = _table(samples, name)
    ids = np.array([sample.patient for sample in samples])
    expected = np.empty(len(samples))
    for one in dict.fromkeys(ids.tolist()):
        expected[ids == one] = rows[ids == one] @ _ridge(rows[ids != one], dice[ids != one])
    return np.clip(expected, 0, 1)


def _table(samples: Sequence[Sample], name: str) -> tuple[Rows, Float64[np.ndarray, " sample"]]:
    rows = [_inputs(sample.novelty, sample.certainty[name]) for sample in samples]
    return np.array(rows), np.array([sample.dice[name] for sample in samples])


def _inputs(novelty: Mapping[Group, float], certainty: float) -> Float64[np.ndarray, " input"]:
    missing = math.isnan(certainty)
    unusual = [min(max(novelty.get(group, 0.0), 0.0), _MOST_UNUSUAL) for group in GROUPS]
    return np.array([1.0, 0.0 if missing else certainty, float(missing), *unusual])


def _ridge(rows: Rows, dice: np.ndarray) -> Float64[np.ndarray, " input"]:
    """Weights of inputs, shrunk in units of their deviations; the first input is one, and its weight is not shrunk."""
    scale = np.maximum(rows.std(axis=0), 1e-3)
    scaled = (rows - rows.mean(axis=0)) / scale
    scaled[:, 0] = 0
    weights = np.linalg.solve(scaled.T @ scaled + _RIDGE * np.eye(rows.shape[1]), scaled.T @ (dice - dice.mean()))
    weights = weights / scale
    weights[0] = dice.mean() - rows[:, 1:].mean(axis=0) @ weights[1:]
    return np.asarray(weights)


def _interval(errors: np.ndarray, otherwise: np.ndarray) -> Interval:
    """The interval of the errors, or of others if there are too few; a conformal one, so somewhat wider than theirs."""
    few = len(errors) < 2 / (1 - COVERAGE)
    chosen = np.sort(otherwise if few else errors)
    rank = math.floor((len(chosen) + 1) * (1 - COVERAGE) / 2)
    below, above = chosen[max(rank - 1, 0)], chosen[min(len(chosen) - rank, len(chosen) - 1)]
    return Interval(min(float(below), 0.0), max(float(above), 0.0))
